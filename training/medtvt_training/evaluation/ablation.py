# SPDX-License-Identifier: Apache-2.0
"""
Trains and evaluates the variants of the paper's Tables 1 and 3, and other numbers of modality tokens, and compares them
with the full model.
"""

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from scipy.stats import t as student_t
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
from .bootstrap import interval
from .paper_tables import render_table
from .predictions import PREDICTIONS_FILE, read_predictions
from .report import read_metrics
from .run import Records, evaluate_model
from .score import paired_differences
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
        seeds (`int`): How often each variant is trained, each time with another seed. The first training is in `out`, the
            others in `out`/seed-1, `out`/seed-2, ...
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
    seeds: int = 1

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"`seeds` must be at least 1, got {self.seeds}.")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"`max_steps` must be at least 1, got {self.max_steps}.")

    @property
    def features(self) -> str:
        """Folder for the encoders' outputs."""
        return os.fspath(self.feature_cache or Path(self.out, "features"))

    def trainings(self) -> "list[tuple[int | None, Ablation]]":
        """For each training its seed, None for that of the recipe, and the ablation with a folder of its own."""
        others = range(1, self.seeds)
        return [
            (None, self),
            *((k, replace(self, out=Path(self.out, f"seed-{k}"), feature_cache=self.features)) for k in others),
        ]


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
    out = Path(ablation.out)
    for seed, training in ablation.trainings():
        keep_settings(training, seed)
        for name in names:
            evaluate_variant(train_variant(name, training, seed), Path(training.out, name), training)
    summary = compare_variants(names, [Path(training.out) for _, training in ablation.trainings()])
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


def keep_settings(ablation: Ablation, seed: int | None = None) -> None:
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
        **({} if seed is None else {"seed": seed}),
    }
    path = Path(ablation.out, SETTINGS_FILE)
    before = read_json(path) if path.exists() else settings
    if differing := [key for key in settings if before.get(key) != settings[key]]:
        raise ValueError(
            f"{ablation.out} holds another ablation ({', '.join(differing)} differ); choose another folder, or remove it."
        )
    write_json(settings, path)


# Training


def train_variant(name: str, ablation: Ablation, seed: int | None = None) -> Path:
    """
    Runs the stages of a variant that no variant has finished yet, with the recipe's seed or another; returns the last
    one's model folder.
    """
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
            run_stage(stage, ablation.recipe, stage_overrides(stage, source, data, folder, ablation, seed))
        source = folder / "final"
        for checkpoint in list_checkpoints(folder):  # needed no more
            shutil.rmtree(checkpoint)
    return source


def stage_overrides(
    stage: str, model: Path, data: str | os.PathLike, folder: Path, ablation: Ablation, seed: int | None = None
) -> list[str]:
    """What overrides a stage's recipe: its folders, that it goes on where it was killed, the seed, and the reduced form."""
    values: dict[str, Any] = {
        "model": model,
        "data": data,
        "out": folder,
        "resume": "true",
        "feature-cache": ablation.features,
    }
    values |= {"ecg-root": ablation.ecg_root or ablation.data, "cxr-root": ablation.cxr_root or ablation.data}
    if seed is not None:
        values["seed"] = seed
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
    config = MedTVTConfig.from_pretrained(source)
    config.update(dict(changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # as keywords of `from_pretrained` the changes would also end in generation_config.json
        model = MedTVTForCausalLM.from_pretrained(source, config=config, ignore_mismatched_sizes=True)
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


def compare_variants(names: Sequence[str], folders: Sequence[Path]) -> dict[str, dict]:
    """
    By variant: `row`, `table`, `records` and `metrics`, each with `value` (the mean over trainings), `interval` over
    patients and, but for `full`, the paired `difference` to it with its `difference_interval` over patients; None where
    undefined. With several trainings also `spread`, the standard deviation between them, and but for `full`
    `training_interval`, Student's 95 % interval of the difference over trainings, and `differs`: whether both intervals
    exclude 0.

    Args:
        folders (`Sequence[Path]`): One a training.
    """
    records = [{name: read_predictions(folder / name / PREDICTIONS_FILE) for name in names} for folder in folders]
    results = [{name: read_metrics(folder / name / "metrics.json") for name in names} for folder in folders]
    summary = {}
    for name in names:
        metrics: dict[str, dict[str, Any]] = {}
        for metric in METRICS.values():
            values = [_look_up(found[name], metric) for found in results]
            metrics[metric] = {"value": _mean(values), "interval": _look_up(results[0][name]["intervals"], metric)}
            if len(folders) > 1:
                metrics[metric] |= {"interval": None, "spread": _spread(values)}
        if name != "full":
            pairs = [
                paired_differences(found[name], found["full"], where=str(folders[0] / "full")) for found in records
            ]
            for folder, (means, draws) in zip(folders, pairs):
                comparison = {
                    metric: {"a": a, "b": b, "difference": a - b, "interval": interval(draws[metric])}
                    for metric, (a, b) in means.items()
                }
                write_json(comparison, folder / name / "comparison.json")
            for metric, cell in metrics.items():
                cell |= _difference(metric, pairs)
        about = {"row": VARIANTS[name].row, "table": VARIANTS[name].table, "records": len(records[0][name])}
        summary[name] = {**about, "trainings": len(folders), "metrics": metrics}
    return summary


def _difference(metric: str, pairs: Sequence[tuple[dict, dict]]) -> dict[str, Any]:
    """The difference of a metric over all trainings, None where one of them does not define it."""
    if any(metric not in values for values, _ in pairs):
        found: dict[str, Any] = {"difference": None, "difference_interval": None}
        return found | ({"training_interval": None, "differs": False} if len(pairs) > 1 else {})
    differences = np.array([values[metric][0] - values[metric][1] for values, _ in pairs])
    limits = interval(np.mean([draws[metric] for _, draws in pairs], axis=0))
    found = {"difference": float(differences.mean()), "difference_interval": limits}
    if len(pairs) > 1:
        half = student_t.ppf(0.975, len(pairs) - 1) * differences.std(ddof=1) / len(pairs) ** 0.5
        between = [float(differences.mean() - half), float(differences.mean() + half)]
        found |= {"training_interval": between, "differs": _excludes_0(limits) and _excludes_0(between)}
    return found


def _excludes_0(limits: Sequence[float] | None) -> bool:
    return limits is not None and not limits[0] <= 0 <= limits[1]


def _mean(values: Sequence[float | None]) -> float | None:
    """None where one is undefined."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _spread(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) == len(values) else None


def _look_up(nested: Mapping, name: str) -> Any:
    section, metric = name.split("/")
    return nested.get(section, {}).get(metric)


def render_ablation(summary: Mapping[str, Mapping]) -> str:
    """The variants side by side, and how each differs from `full`, in Markdown."""
    values, differences = [], []
    trainings = summary["full"]["trainings"]
    for name, found in summary.items():
        table = f"Table {found['table']}: " if found["table"] else ""
        label = [name, table + found["row"]]
        cells = found["metrics"].values()
        values.append([*label, *map(_value_cell, cells)])
        if name != "full":
            differences.append([*label, *map(_difference_cell, cells)])
    header = ["variant", "", *METRICS]
    if trainings == 1:
        note = (
            "In brackets: 95 % intervals over patients. Each variant was trained once, so they leave out how much one "
            "training differs from the next."
        )
    else:
        note = f"Means of {trainings} trainings with different seeds; after ± the standard deviation between them."
    parts = [
        f"# Ablation\n\n{RESEARCH_USE}\n",
        f"{summary['full']['records']} records, the same for all; strict metrics. {note}\n",
        markdown_table(header, values),
    ]
    if differences:
        title = "Difference to `full` (variant - full), the same patients drawn for both"
        if trainings > 1:
            title += (
                ". In brackets: 95 % intervals over patients, then over trainings. Bold: both exclude 0, which alone is "
                "called a difference"
            )
        parts.append(f"{title}\n\n{markdown_table(header, differences)}")
    return "\n".join(parts)


def _value_cell(cell: Mapping) -> str:
    text = format_value(cell["value"], cell["interval"])
    return text if cell.get("spread") is None else f"{text} ± {cell['spread']:.3f}"


def _difference_cell(cell: Mapping) -> str:
    text = format_value(cell["difference"], cell["difference_interval"])
    if cell.get("training_interval") is not None:
        low, high = cell["training_interval"]
        text += f" [{low:.3f}, {high:.3f}]"
    return f"**{text}**" if cell.get("differs") else text


def paper_tables(names: Sequence[str], out: Path) -> list[str]:
    """Tables 1 and 3 as the paper has them, of those that have a variant here."""
    tables = []
    for number in (1, 3):
        rows = [name for name in names if VARIANTS[name].table == number]
        if rows:
            files = {VARIANTS[name].row: str(out / name / "metrics.json") for name in (*rows, "full")}
            tables.append(render_table(number, files))
    return tables
