# SPDX-License-Identifier: Apache-2.0
"""A vLLM server for as long as a block runs."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx


START_TIMEOUT = 1200  # seconds; the first start compiles byte code
# an adapter is loaded at run time; one node's memory is not divided
ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


@contextmanager
def vllm_server(model: str | os.PathLike, log: Path) -> Iterator[str]:
    """The address of a server of a checkpoint folder, in float32, that takes prompt embeddings and LoRA up to rank 16."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # `vllm serve` looks for a distribution called vllm, which the build for CPUs is not
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--enable-prompt-embeds", "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", "1024", "--max-num-seqs", "32", "--enable-lora", "--max-lora-rank", "16"]
    with open(log, "wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, env={**ENVIRONMENT, **os.environ})
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(server, url, log)
        yield url
    except Exception:
        print(f"The end of vLLM's log:\n{log.read_text(errors='replace')[-6000:]}", flush=True)
        raise
    finally:
        server.terminate()
        server.wait()


def _wait(server: subprocess.Popen, url: str, log: Path) -> None:
    began = time.monotonic()
    while time.monotonic() - began < START_TIMEOUT and server.poll() is None:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                print(f"vLLM answers after {time.monotonic() - began:.0f} s", flush=True)
                return
        except httpx.HTTPError:
            time.sleep(1)
    raise SystemExit(f"vLLM did not start:\n{log.read_text(errors='replace')[-3000:]}")
