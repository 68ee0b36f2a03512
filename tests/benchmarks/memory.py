# SPDX-License-Identifier: Apache-2.0
"""
Peak memory of an SFT step and of a GRPO step over the bare language model's, and of loading over the checkpoint's size.

Each peak is taken in a fresh process: on the CPU the highest resident set above that after the imports (from `/proc`:
`ru_maxrss` would count the parent's), on CUDA what torch allocated.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from .harness import Row, Settings, divide, interleave, run_python
from .shapes import build


# of the GRPO step
PROMPT, COMPLETION, GENERATIONS = 256, 256, 8


def resident_bytes(name: str) -> int:
    """`VmRSS`, what is resident now, or `VmHWM`, its highest since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))


def start_watching(device: str) -> int:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return 0
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    return resident_bytes("VmRSS")


def peak_since(start: int, device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else resident_bytes("VmHWM") - start


def run_sft(side: str, size: str, device: str) -> None:
    from .sft import LENGTHS, Step, make_batch
    from .shapes import build_bare, encode, make_config, make_values

    if side == "bare":
        step, batch = Step(build_bare(size, device), None, device), make_batch(make_config(size), LENGTHS, device)
    else:
        model = build(size, device)
        batch = {**make_batch(model.config, LENGTHS, device), **encode(model, make_values(len(LENGTHS), device))}
        step = Step(model, ["perception"], device)
        model.chunked_loss = side == "chunked"
    for _ in range(2):
        step(batch)


def run_grpo(side: str, size: str, device: str) -> None:
    """LoRA on both sides, so that neither holds a second model for the reference."""
    from datasets import Dataset
    from trl import GRPOTrainer

    from medtvt_training.data.collator import MedTVTDataCollator
    from medtvt_training.data.load import load_medtvt_qa
    from medtvt_training.stages.arguments import LORA_TARGETS
    from medtvt_training.stages.grpo_trainer import MedTVTGRPOTrainer
    from medtvt_training.stages.initialize import default_processor, tiny_tokenizer

    from . import grpo
    from .sft import lora_config
    from .shapes import build_bare
    from tests.toy import write_toy_dataset

    tokenizer = tiny_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        arguments: dict[str, Any] = {
            "args": grpo.make_config(folder, device, GENERATIONS, COMPLETION),
            "reward_funcs": [length_reward],
        }
        if side == "bare":
            rows = [{"prompt": " a" * (PROMPT - 1)}] * GENERATIONS
            targets = LORA_TARGETS.replace(r".*language_model\.", "")
            arguments |= {"processing_class": tokenizer, "train_dataset": Dataset.from_list(rows)}
            model: Any = build_bare(size, device)
            trainer: Any = GRPOTrainer(model, peft_config=lora_config(targets), **arguments)
        else:
            collator = MedTVTDataCollator(default_processor(tokenizer))
            dataset = load_medtvt_qa(write_toy_dataset(folder, 12), "diagnosis", "train")
            dataset = dataset.filter(lambda row: bool(row["diseases"]))
            row = next(row for row in dataset if len(row["modalities"]) == 3)
            rows = [grpo.stretch(row, collator, PROMPT)] * GENERATIONS
            arguments |= {"data_collator": collator, "train_dataset": dataset}
            peft_config = lora_config(modules_to_save=["perception"])
            trainer = MedTVTGRPOTrainer(build(size, device), peft_config=peft_config, **arguments)
        grpo.step(grpo.prepare(trainer), rows)


def length_reward(completions: list[Any], **kwargs: Any) -> list[Any]:
    return [float(len(str(completion))) for completion in completions]


def run_load(folder: str, device: str) -> None:
    """Every weight is touched, since loading may leave them in the file until then."""
    from modeling_medtvt import MedTVTForCausalLM

    on_cuda: dict[str, Any] = {"device_map": "cuda", "dtype": torch.bfloat16}
    model = MedTVTForCausalLM.from_pretrained(folder, **(on_cuda if device == "cuda" else {}))
    for tensor in model.state_dict().values():
        tensor.sum()


def main(step: str, side: str, size: str, device: str, threads: str) -> None:
    """A fresh process: prints the peak in bytes."""
    torch.set_num_threads(int(threads))
    import peft  # noqa: F401

    import modeling_medtvt  # noqa: F401

    if step == "grpo":
        from . import grpo  # noqa: F401
    if device == "cuda":
        torch.cuda.init()
    start = start_watching(device)
    if step == "load":
        run_load(side, device)
    else:
        {"sft": run_sft, "grpo": run_grpo}[step](side, size, device)
    print(json.dumps(peak_since(start, device)))


def peak(step: str, side: str, size: str, device: str) -> float:
    """Bytes, in a process of its own."""
    return run_python(["-m", "tests.benchmarks.memory", step, side, size, device, str(torch.get_num_threads())])


def measure(settings: Settings) -> list[Row]:
    return [
        *(row for step in STEPS for size in settings.sizes for row in compare(step, size, settings.device)),
        *(compare_loading(size, settings.device) for size in settings.sizes[-1:]),
    ]


def gigabytes(found: dict[str, list[float]]) -> str:
    return ", ".join(f"{name} {max(values) / 1e9:.3g} GB" for name, values in found.items())


def compare(step: str, size: str, device: str) -> list[Row]:
    """One pair: a peak varies little."""
    sides = ("medtvt", "chunked", "bare") if step == "sft" else ("medtvt", "bare")
    found = {side: [peak(step, side, size, device)] for side in sides}
    rows = []
    for side in sides[:-1]:
        what = f"peak of {STEPS[step]}{', `chunked_loss`' * (side == 'chunked')} over the bare model's, {size}"
        note = gigabytes({name: found[name] for name in (side, "bare")})
        rows.append(Row("memory", what, divide(found[side], found["bare"]), note=note))
    return rows


def compare_loading(size: str, device: str) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        build(size, device).save_pretrained(folder)
        on_disk = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
        found = interleave({"peak": lambda: peak("load", folder, size, device)}, 2)
    ratios = [value / on_disk for value in found["peak"]]
    note = gigabytes({**found, "files": [on_disk]})
    return Row("memory", f"peak of loading over the checkpoint's size, {size}", ratios, at_most=1.15, note=note)


STEPS = {
    "sft": "an SFT step (LoRA, feature cache)",
    "grpo": f"a GRPO step (LoRA, prompt {PROMPT}, completion {COMPLETION}, G = {GENERATIONS})",
}


if __name__ == "__main__":
    main(*sys.argv[1:])
