# SPDX-License-Identifier: Apache-2.0
"""
Trains and evaluates the variants of the paper's Tables 1 and 3, and other numbers of modality tokens, and compares them
with the full model.
"""

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from transformers import AutoProcessor

from modeling_medtvt import MedTVTConfig, MedTVTForCausalLM
from modeling_medtvt.output_folder import new_folder

from ..data.conversation import MODALITIES, MODALITY_NAMES
from ..files import fingerprint, hash_file, hash_folder, markdown_table, read_json, write_json, write_text
from ..stages.arguments import ModelArguments
from ..stages.checkpoints import list_checkpoints
from ..stages.model import load_model
from ..stages.recipes import RECIPE_NAMES, read_recipe
from ..stages.run import run_stage
from .paper_tables import render_table
from .predictions import PREDICTIONS_FILE, read_predictions
from .report import read_metrics
from .run import Records, evaluate_model
from .score import compare_records
from .values import RESEARCH_USE, format_value


logger = logging.getLogger(__name__)
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


@dataclass(frozen=True)
class Ablation:
    """
    What an ablation is made from.

    Args:
        model (`str` or `os.PathLike`): Folder of a model with trained encoders, where PT starts.
        data (`str` or `os.PathLike`): Folder of MedTVT-QA.
        out (`str` or `os.PathLike`): Folder for stages, predictions, metrics and tables.
        recipe (`str`): Name of packaged recipes, or a folder with a file for each stage.
        ecg_root, cxr_root (`str` or `os.PathLike`, *optional*): What paths are relative to, if not to `data`.
        without_rft (`bool`): All variants end with SFT.
        max_steps (`int`, *optional*): At most so many steps of each stage, without validation.
        limit (`int`, *optional*): Only the first so many test records.
        batch_size (`int`): Records to answer at a time.
        feature_cache (`str` or `os.PathLike`, *optional*): Folder for the encoders' outputs; `out`/features by default.
    """

    model: str | os.PathLike
    data: str | os.PathLike
    out: str | os.PathLike
    recipe: str = "tiny"
    ecg_root: str | os.PathLike | None = None
    cxr_root: str | os.PathLike | None = None
    without_rft: bool = False
    max_steps: int | None = None
    limit: int | None = None
    batch_size: int = 32
    feature_cache: str | os.PathLike | None = None

    def __post_init__(self) -> None:
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"`max_steps` must be at least 1, got {self.max_steps}.")

    @property
    def features(self) -> str:
        """Folder for the encoders' outputs."""
        return os.fspath(self.feature_cache or Path(self.out, "features"))


def run_ablation(ablation: Ablation, variants: Sequence[str] = tuple(VARIANTS)) -> str:
    """
    Trains and evaluates variants and the full model. Finished parts stay in `out`, so the same call continues a run that
    was stopped.

    Args:
        variants (`Sequence[str]`): Names of `VARIANTS`; `full`, with which they are compared, is always there.

    Returns:
        `str`: the variants side by side, in Markdown; ablation.md and ablation.json hold it too.

    Raises:
        ValueError: if a variant is unknown, the model cannot show a difference, `out` holds another ablation, or a stage
            or the evaluation refuses its input.
    """
    if unknown := [name for name in variants if name not in VARIANTS]:
        raise ValueError(f"unknown variant {', '.join(unknown)}; there are {', '.join(VARIANTS)}.")
    config = load_model(None, ModelArguments(model=os.fspath(ablation.model)))[0].config
    names = choose_variants(variants, config, ablation.without_rft)
    keep_settings(ablation)
    out = Path(ablation.out)
    for name in names:
        evaluate_variant(train_variant(name, ablation), out / name, ablation)
    summary = compare_variants(names, out)
    write_json(summary, out / "ablation.json")
    text = render_ablation(summary)
    write_text(text + "\n" + "\n".join(paper_tables(names, out)), out / "ablation.md")
    return text


def choose_variants(wanted: Sequence[str], config: MedTVTConfig, without_rft: bool = False) -> list[str]:
    """The wanted ones and `full`, each once, without one that would be `full` itself."""
    if not (config.use_cyclic_attention and config.use_contribution_gate):
        raise ValueError(
            "The model has cyclic attention or contribution gate switched off already: nothing to ablate."
        )
    names = [name for name in VARIANTS if name in {"full", *wanted}]
    same = [name for name in names if VARIANTS[name].config == {"num_modality_tokens": config.num_modality_tokens}]
    for name in same:
        logger.info("%s is left out: it is `full`, as the model has %s already.", name, VARIANTS[name].row)
    if without_rft and "no-rft" in names:
        logger.info("no-rft is left out: it is `full`, as every variant ends with SFT.")
        same.append("no-rft")
    return [name for name in names if name not in same]


def keep_settings(ablation: Ablation) -> None:
    """Writes down what the stages in `out` are made from; raises ValueError if they are made from something else."""
    files = sorted(Path(ablation.data).glob("*/*.parquet"))
    if not files:
        raise FileNotFoundError(
            f"{ablation.data} is no MedTVT-QA folder: it has no Parquet files of levels and splits."
        )
    settings = {
        "model": hash_folder(ablation.model),
        "data": fingerprint(f"{file.parent.name}/{file.name} {hash_file(file)}" for file in files),
        "recipe": {stage: read_recipe(stage, ablation.recipe)[1] for stage in RECIPE_NAMES if stage != "encoders"},
        "max_steps": ablation.max_steps,
        "without_rft": ablation.without_rft,
    }
    path = Path(ablation.out, SETTINGS_FILE)
    before = read_json(path) if path.exists() else settings
    if differing := [key for key in settings if before.get(key) != settings[key]]:
        raise ValueError(
            f"{ablation.out} holds another ablation ({', '.join(differing)} differ); choose another folder, or remove it."
        )
    write_json(settings, path)


# Training


def train_variant(name: str, ablation: Ablation) -> Path:
    """Runs the stages of a variant that no variant has finished yet; returns the last one's model folder."""
    variant, source, differs = VARIANTS[name], Path(ablation.model), False
    for stage in variant.stages:
        if stage == "rft" and ablation.without_rft:
            continue
        begins = stage == variant.differs_at
        differs = differs or begins
        folder = Path(ablation.out, "stages", f"{stage}-{name}" if differs else stage)
        if not (folder / "final").exists():
            data = ablation.data
            if begins and variant.config:
                source = change_model(source, Path(ablation.out, "models", name), variant.config)
            if begins and variant.withheld:
                data = withhold_from_dataset(ablation.data, Path(ablation.out, "data", name), variant.withheld)
            logger.info("%s: %s from %s", folder, stage.upper(), source)
            run_stage(stage, ablation.recipe, stage_overrides(stage, source, data, folder, ablation))
        source = folder / "final"
        for checkpoint in list_checkpoints(folder):  # needed no more
            shutil.rmtree(checkpoint)
    return source


def stage_overrides(stage: str, model: Path, data: str | os.PathLike, folder: Path, ablation: Ablation) -> list[str]:
    """What overrides a stage's recipe: its folders, that it goes on where it was killed, and the reduced form."""
    values: dict[str, Any] = {
        "model": model,
        "data": data,
        "out": folder,
        "resume": "true",
        "feature-cache": ablation.features,
    }
    values |= {"ecg-root": ablation.ecg_root or ablation.data, "cxr-root": ablation.cxr_root or ablation.data}
    if ablation.max_steps:
        longest = read_recipe(stage, ablation.recipe)[1].get("max_steps", -1)
        steps = min(ablation.max_steps, longest) if longest > 0 else ablation.max_steps
        values |= {"max_steps": steps, "eval_strategy": "no", "eval_on_start": "false"}
    return [f"--{key}={value}" for key, value in values.items()]


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


def withhold_from_dataset(data: str | os.PathLike, target: Path, modality: str) -> Path:
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


def evaluate_variant(model: Path, folder: Path, ablation: Ablation) -> None:
    """Answers of a variant to the test split, with the encoders' outputs of training."""
    ecg_root, cxr_root = ablation.ecg_root or ablation.data, ablation.cxr_root or ablation.data
    records = Records(ablation.data, ecg_root=ecg_root, cxr_root=cxr_root, limit=ablation.limit)
    evaluate_model(model, records, folder, batch_size=ablation.batch_size, feature_cache=ablation.features)


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


def _look_up(nested: Mapping, name: str) -> Any:
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
