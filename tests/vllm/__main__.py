# SPDX-License-Identifier: Apache-2.0
"""
Starts vLLM on a checkpoint folder and answers drawn patients through it and through transformers. It ends with 1 where an
answer differs.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from medtvt_training.inference.load import load_pipeline
from medtvt_training.serving.vllm_engine import VllmDiagnosisPipeline, load_vllm_pipeline
from medtvt_training.synthetic.example_patient import write_example_patient
from modeling_medtvt import DEFAULT_CHECKPOINT


START_TIMEOUT = 1200  # seconds; the first start compiles byte code


def draw_patients(folder: Path, number: int) -> list[dict[str, Any]]:
    """Inputs of imaginary patients; every third lacks a modality."""
    patients = []
    for index in range(number):
        files = write_example_patient(folder / str(index), seed=0, index=index)
        given = [name for place, name in enumerate(("ecg", "cxr", "lab")) if index % 3 or index // 3 % 3 != place]
        patients.append({name: files[name] for name in given})
    return patients


def start_vllm(model: str, port: int, log: Path) -> subprocess.Popen:
    """vLLM's server, in float32, as soon as it answers."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--port", str(port)]
    options = ["--host", "127.0.0.1", "--enable-prompt-embeds", "--dtype", "float32", "--enforce-eager"]
    options += ["--max-model-len", "1024", "--max-num-seqs", "16"]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with open(log, "wb") as output:
        environment = {**settings, **os.environ}
        server = subprocess.Popen([*command, *options], stdout=output, stderr=output, env=environment)
    began = time.monotonic()
    while time.monotonic() - began < START_TIMEOUT and server.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                print(f"vLLM answers after {time.monotonic() - began:.0f} s")
                return server
        except httpx.HTTPError:
            time.sleep(1)
    server.terminate()
    raise SystemExit(f"vLLM did not start:\n{log.read_text(errors='replace')[-3000:]}")


def compare(diagnose: Any, engine: VllmDiagnosisPipeline, patients: list[dict[str, Any]]) -> int:
    """How many greedy answers differ."""
    results, seconds = {}, {}
    for name, pipeline in (("transformers", diagnose), ("vLLM", engine)):
        began = time.monotonic()
        results[name] = [result["generated_text"] for result in pipeline(patients, batch_size=8)]
        seconds[name] = time.monotonic() - began
    differing = [i for i, texts in enumerate(zip(*results.values())) if texts[0] != texts[1]]
    for i in differing:
        print(f"patient {i}:\n  transformers {results['transformers'][i]!r}\n  vLLM         {results['vLLM'][i]!r}")
    times = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    print(f"{len(patients) - len(differing)} of {len(patients)} answers are equal; reading included: {times}")
    return len(differing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_CHECKPOINT, help="checkpoint folder (default: the package's own)")
    parser.add_argument("--patients", type=int, default=24)
    args = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        patients = draw_patients(Path(folder), args.patients)
        server = start_vllm(str(args.model), port, Path(folder, "vllm.log"))
        try:
            engine = load_vllm_pipeline(args.model, f"http://127.0.0.1:{port}")
            sys.exit(min(1, compare(load_pipeline(args.model), engine, patients)))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
