# SPDX-License-Identifier: Apache-2.0
"""
`medtvt ablate`: trains and evaluates the variants of the paper's Tables 1 and 3, and numbers of tokens a modality, and
sets them beside the full model.
"""

import argparse
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import torch
from transformers import AutoProcessor

from modeling_medtvt import MedTVTForCausalLM
from modeling_medtvt.output_folder import new_folder

from . import evaluate, finetune, pretrain, reinforce
from .arguments import ModelArguments, packaged_recipes, read_recipe
from .data import write_text
from .predictions import PREDICTIONS_FILE, fingerprint, hash_folder, read_predictions, write_json
from .qa.schema import MODALITIES, MODALITY_NAMES
from .recompute_metrics import compare_records
from .report import RESEARCH_USE, format_value, markdown_table, read_metrics
from .stages import list_checkpoints, load_model
from .tables import render_table


# Stage to its command, whose name is that of its recipe too
STAGES = {"pt": pretrain, "sft": finetune, "rft": reinforce}
METRICS = {
    "parsed": "strict/parse_rate",
    "F1 samples": "strict/f1_samples",
    "Jaccard": "strict/jaccard_samples",
    "cited findings true": "evidence/cited_true",
}
SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class Variant:
    """
    One difference to the full model.

    Args:
        row (`str`): What it is, in a table.
        table (`int`, *optional*): The paper's table that has it.
        stages (`tuple`): What it goes through.
        differs_at (`str`, *optional*): The stage at which it leaves the full model's way; it shares those before.
        config (`dict`): What changes then in the config of the model that the stage starts from.
        withheld (`str`, *optional*): The modality whose rows that stage does without.
    """

    row: str
    table: int | None = None
    stages: tuple[str, ...] = ("pt", "sft", "rft")
    differs_at: str | None = None
    config: dict = field(default_factory=dict)
    withheld: str | None = None


VARIANTS = {
    "full": Variant("full model"),
    # a perception layer that is off is drawn and fitted by SFT, as after PT
    "no-pt": Variant("without PT", 1, ("sft", "rft"), "sft", {"use_perception": False}),
    "no-rft": Variant("without RFT", 1, ("pt", "sft")),
    "no-cmha": Variant("without cyclic attention", 3, differs_at="sft", config={"use_cyclic_attention": False}),
    "no-cao": Variant("without contribution gate", 3, differs_at="sft", config={"use_contribution_gate": False}),
    "neither": Variant(
        "without both", 3, differs_at="sft", config={"use_cyclic_attention": False, "use_contribution_gate": False}
    ),
    **{
        f"pt-without-{name}": Variant(f"{MODALITY_NAMES[name]} withheld in PT", 3, differs_at="pt", withheld=name)
        for name in MODALITIES
    },
    "k1": Variant("1 token a modality", differs_at="pt", config={"num_modality_tokens": 1}),
    "k4": Variant("4 tokens a modality", differs_at="pt", config={"num_modality_tokens": 4}),
}


def add_arguments(parser):
    """Arguments of `medtvt ablate`."""
    recipes = ", ".join(packaged_recipes("pretrain"))
    parser.add_argument("--recipe", default="tiny", help=f"{recipes}, or a folder with such files (default: tiny)")
    parser.add_argument("--data", required=True, help="folder of a MedTVT-QA dataset")
    parser.add_argument("--ecg-root", help="what ECG paths are relative to (default: --data)")
    parser.add_argument("--cxr-root", help="what X-ray paths are relative to (default: --data)")
    parser.add_argument("--model", required=True, help="folder of a model with trained encoders: where PT starts")
    parser.add_argument("--out", required=True, help="folder for stages, predictions, metrics and tables")
    parser.add_argument(
        "--variants",
        nargs="+",
        metavar="NAME",
        default=list(VARIANTS),
        help=f"some of {', '.join(VARIANTS)} (default: all); `full`, with which they are compared, is always there",
    )
    parser.add_argument("--without-rft", action="store_true", help="all variants end with SFT, as RFT takes longest")
    parser.add_argument(
        "--max-steps", type=int, help="at most so many steps of each stage, without validation: the reduced form"
    )
    parser.add_argument("--limit", type=int, help="only the first so many test records")
    parser.add_argument("--batch-size", type=int, default=32, help="records to answer at a time (default: 32)")
    parser.add_argument("--feature-cache", help="folder for the encoders' outputs (default: in --out)")


def run(args):
    """
    Entry point of `medtvt ablate`. What is finished stays in `--out`, so the same command goes on where it was killed.

    Raises:
        ValueError: if a variant is unknown, the model cannot show a difference, `--out` holds another ablation, or a
            stage or the evaluation refuses its input.
    """
    if unknown := [name for name in args.variants if name not in VARIANTS]:
        raise ValueError(f"unknown variant {', '.join(unknown)}; there are {', '.join(VARIANTS)}.")
    if args.max_steps is not None and args.max_steps < 1:
        raise ValueError(f"--max-steps must be at least 1, got {args.max_steps}.")
    config = load_model(None, ModelArguments(model=args.model))[0].config
    names = choose_variants(args.variants, config, args.without_rft)
    keep_settings(args)
    args.ecg_root, args.cxr_root = args.ecg_root or args.data, args.cxr_root or args.data
    args.feature_cache = args.feature_cache or str(Path(args.out, "features"))
    for name in names:
        evaluate_variant(train_variant(name, args), Path(args.out, name), args)
    summary = compare_variants(names, Path(args.out))
    write_json(summary, Path(args.out, "ablation.json"))
    text = render_ablation(summary)
    write_text(text + "\n" + "\n".join(paper_tables(names, Path(args.out))), Path(args.out, "ablation.md"))
    print(text)


def choose_variants(wanted: Sequence[str], config, without_rft: bool = False) -> list[str]:
    """The wanted ones and `full`, each once, without one that would be `full` itself."""
    if not (config.use_cyclic_attention and config.use_contribution_gate):
        raise ValueError("--model has cyclic attention or contribution gate switched off already: nothing to ablate.")
    names = [name for name in VARIANTS if name in {"full", *wanted}]
    same = [name for name in names if VARIANTS[name].config == {"num_modality_tokens": config.num_modality_tokens}]
    for name in same:
        print(f"{name} is left out: it is `full`, as --model has {VARIANTS[name].row} already.")
    if without_rft and "no-rft" in names:
        print("no-rft is left out: it is `full`, as --without-rft ends every variant with SFT.")
        same.append("no-rft")
    return [name for name in names if name not in same]


def keep_settings(args):
    """Writes down what the stages in `--out` are made from; raises ValueError if they are made from something else."""
    files = sorted(Path(args.data).glob("*/*.parquet"))
    if not files:
        raise FileNotFoundError(f"{args.data} is no MedTVT-QA folder: it has no parquet files of stages and splits.")
    settings = {
        "model": hash_folder(args.model),
        "data": fingerprint(f"{file.parent.name}/{file.name} {hash_file(file)}" for file in files),
        "recipe": {stage: read_recipe(command_of(stage), recipe_of(stage, args.recipe))[1] for stage in STAGES},
        "max_steps": args.max_steps,
        "without_rft": args.without_rft,
    }
    path = Path(args.out, SETTINGS_FILE)
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else settings
    if differing := [key for key in settings if before.get(key) != settings[key]]:
        raise ValueError(
            f"{args.out} holds another ablation ({', '.join(differing)} differ); choose another folder, or remove it."
        )
    write_json(settings, path)


def hash_file(file: Path) -> str:
    """SHA-256 of a file."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# Training


def command_of(stage: str) -> str:
    """`"pretrain"` of `"pt"`."""
    return STAGES[stage].__name__.rsplit(".", 1)[1]


def recipe_of(stage: str, recipe: str) -> str:
    """A folder's file for the stage, or the name of a packaged recipe."""
    return str(Path(recipe, f"{command_of(stage)}.yaml")) if Path(recipe).is_dir() else recipe


def train_variant(name: str, args) -> Path:
    """Runs the stages of a variant that no variant has finished yet; returns the last one's model folder."""
    variant, source, differs = VARIANTS[name], Path(args.model), False
    for stage in variant.stages:
        if stage == "rft" and args.without_rft:
            continue
        begins = stage == variant.differs_at
        differs = differs or begins
        folder = Path(args.out, "stages", f"{stage}-{name}" if differs else stage)
        if not (folder / "final").exists():
            data = args.data
            if begins and variant.config:
                source = change_model(source, Path(args.out, "models", name), variant.config)
            if begins and variant.withheld:
                data = withhold_from_dataset(args.data, Path(args.out, "data", name), variant.withheld)
            run_stage(stage, source, data, folder, args)
        source = folder / "final"
        for checkpoint in list_checkpoints(folder):  # needed no more
            shutil.rmtree(checkpoint)
    return source


def run_stage(stage: str, model: Path, data, folder: Path, args):
    """A stage as its command runs it, from its last checkpoint if it was killed."""
    print(f"{folder}: {stage.upper()} from {model}")
    values = {"model": model, "data": data, "ecg_root": args.ecg_root, "cxr_root": args.cxr_root}
    values |= {"feature_cache": args.feature_cache, "output_dir": folder, "resume": "true"}
    if args.max_steps:
        _, recipe = read_recipe(command_of(stage), recipe_of(stage, args.recipe))
        longest = recipe.get("max_steps", -1)
        steps = min(args.max_steps, longest) if longest > 0 else args.max_steps
        values |= {"max_steps": steps, "eval_strategy": "no", "eval_on_start": "false"}
    overrides = [f"--{key}={value}" for key, value in values.items()]
    STAGES[stage].run(argparse.Namespace(config=recipe_of(stage, args.recipe), overrides=overrides))


def change_model(source: Path, target: Path, changes: Mapping) -> Path:
    """
    Writes a model with some values of its config changed. All weights that still fit are kept; those that do not, such as
    projectors of another number of tokens, are drawn anew, always the same.
    """
    if target.exists():
        return target
    processor = AutoProcessor.from_pretrained(source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MedTVTForCausalLM.from_pretrained(source, ignore_mismatched_sizes=True, **changes)
    processor.num_modality_tokens = model.config.num_modality_tokens
    with new_folder(target) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return target


def withhold_from_dataset(data, target: Path, modality: str) -> Path:
    """Writes a dataset folder with the physiology rows that do without a modality. Its paths stay those of `data`."""
    if target.exists():
        return target
    with new_folder(target) as folder:
        (folder / "physiology").mkdir()
        for file in sorted(Path(data, "physiology").glob("*.parquet")):
            table = pq.read_table(file)
            kept = [modality not in modalities for modalities in table["modalities"].to_pylist()]
            pq.write_table(table.filter(kept), folder / "physiology" / file.name)
    return target


# Evaluation


def evaluate_variant(model: Path, folder: Path, args):
    """As `medtvt evaluate` does it, with the encoders' outputs of training."""
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    words = ["--model", model, "--data", args.data, "--ecg-root", args.ecg_root, "--cxr-root", args.cxr_root]
    words += ["--features", args.feature_cache, "--batch-size", args.batch_size, "--out", folder]
    words += [] if args.limit is None else ["--limit", args.limit]
    evaluate.run(parser.parse_args([str(word) for word in words]))


def compare_variants(names: Sequence[str], out: Path) -> dict[str, dict]:
    """
    By variant: `row`, `table` and `metrics`, each with `value`, `interval` and, but for `full`, `difference` to it with
    its paired `difference_interval`; None where undefined.
    """
    records = {name: read_predictions(out / name / PREDICTIONS_FILE) for name in names}
    summary = {}
    for name in names:
        results = read_metrics(out / name / "metrics.json")
        metrics = {
            metric: {"value": _look_up(results, metric), "interval": _look_up(results["intervals"], metric)}
            for metric in METRICS.values()
        }
        if name != "full":
            comparison = compare_records(records[name], records["full"], where=str(out / "full"))
            write_json(comparison, out / name / "comparison.json")
            for metric, found in metrics.items():
                pair = comparison.get(metric, {})
                found |= {"difference": pair.get("difference"), "difference_interval": pair.get("interval")}
        about = {"row": VARIANTS[name].row, "table": VARIANTS[name].table, "records": len(records[name])}
        summary[name] = {**about, "metrics": metrics}
    return summary


def _look_up(nested: Mapping, name: str):
    section, metric = name.split("/")
    return nested.get(section, {}).get(metric)


def render_ablation(summary: Mapping[str, Mapping]) -> str:
    """The variants side by side, and how each differs from `full`, in Markdown."""
    values, differences = [], []
    for name, found in summary.items():
        table = f"Table {found['table']}: " if found["table"] else ""
        label = [name, table + found["row"]]
        cells = found["metrics"].values()
        values.append([*label, *(format_value(cell["value"], cell["interval"]) for cell in cells)])
        if name != "full":
            differences.append(
                [*label, *(format_value(cell["difference"], cell["difference_interval"]) for cell in cells)]
            )
    header = ["variant", "", *METRICS]
    parts = [
        f"# Ablation\n\n{RESEARCH_USE}\n",
        f"{summary['full']['records']} records, the same for all; strict metrics. In brackets: 95 % intervals over "
        "patients. Each variant was trained once, so they leave out how much one training differs from the next.\n",
        markdown_table(header, values),
    ]
    if differences:
        parts.append(
            "Difference to `full` (variant - full), the same patients drawn for both\n\n"
            + markdown_table(header, differences)
        )
    return "\n".join(parts)


def paper_tables(names: Sequence[str], out: Path) -> list[str]:
    """Tables 1 and 3 as the paper has them, of those that have a variant here."""
    tables = []
    for number in (1, 3):
        rows = [name for name in names if VARIANTS[name].table == number]
        if rows:
            files = {VARIANTS[name].row: str(out / name / "metrics.json") for name in (*rows, "full")}
            tables.append(render_table(number, files))
    return tables
