# SPDX-License-Identifier: Apache-2.0
"""Generates a model's answers to a split of MedTVT-QA, with modalities withheld or swapped if wanted, and scores them."""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from modeling_medtvt import MedTVTForCausalLM
from modeling_medtvt.answer_probability_medtvt import label_order
from modeling_medtvt.calibration_medtvt import CALIBRATION_FILE, read_calibration
from processing_medtvt import MedTVTProcessor

from ..data.conversation import message_text
from ..data.feature_cache import FeatureCache
from ..data.load import load_medtvt_qa
from ..data.provenance import training_data_entry
from ..data.rows import Modality, QARow
from ..files import fingerprint, hash_folder, write_json, write_text
from ..inference.load import load_pipeline
from ..serving.vllm_engine import VllmEngine, write_with_vllm
from .agreement import measure_agreement, measure_points
from .answerer import MedTVTAnswerer
from .bootstrap import RESAMPLES
from .evidence_check import EvidenceChecker
from .figures import plot_variants
from .predictions import PredictionWriter, copy_answers, describe_row, read_predictions
from .ranks import Ranks, choose_device
from .report import render_comparison
from .score import compare_records, score_records, write_results
from .text_scores import SCORES_FILE, TextResources, TextScorer
from .variants import LABS_WITHHELD, SUBSET, make_variants


if sys.platform != "win32":
    import resource

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Records:
    """
    Which records of a dataset.

    Args:
        data (`str` or `os.PathLike`): Folder of MedTVT-QA, ours or the authors'.
        level (`str`): `"diagnosis"` or `"physiology"`.
        split (`str`): `"train"`, `"validation"` or `"test"`.
        ecg_root, cxr_root (`str` or `os.PathLike`, *optional*): What paths are relative to, if not to `data`.
        limit (`int`, *optional*): Only the first so many.
        ids (`str`, *optional*): Only those whose id this regular expression matches somewhere, such as `"(ecg|cxr|lab)$"`.
    """

    data: str | os.PathLike
    level: str = "diagnosis"
    split: str = "test"
    ecg_root: str | os.PathLike | None = None
    cxr_root: str | os.PathLike | None = None
    limit: int | None = None
    ids: str | None = None

    def load(self) -> Dataset:
        """
        The rows.

        Raises:
            ValueError: if there are none, or the dataset refuses.
        """
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"`limit` must be at least 1, got {self.limit}.")
        dataset = load_medtvt_qa(self.data, self.level, self.split, ecg_root=self.ecg_root, cxr_root=self.cxr_root)
        if self.ids is not None:
            try:
                pattern = re.compile(self.ids)
            except re.error as error:
                raise ValueError(f"`ids` is no regular expression ({error}): {self.ids!r}.") from error
            dataset = dataset.select([i for i, name in enumerate(dataset["id"]) if pattern.search(name)])
        if self.limit is not None:
            dataset = dataset.select(range(min(self.limit, len(dataset))))
        if not len(dataset):
            matching = "" if self.ids is None else f" whose id matches {self.ids!r}"
            raise ValueError(f"{self.data}: {self.level}/{self.split} holds no record{matching}.")
        return dataset


@dataclass(frozen=True)
class Scoring:
    """
    Settings of the metrics.

    Args:
        resources ([`TextResources`]): Of the text metrics.
        resamples (`int`): Of the bootstrap over patients; 0 for no intervals.
        seed (`int`): Of the bootstrap, and of all that is drawn.
        by (`Sequence[str]`, *optional*): What records are grouped by, see [`score_records`].
    """

    resources: TextResources = field(default_factory=TextResources)
    resamples: int = RESAMPLES
    seed: int = 0
    by: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.resamples < 0:
            raise ValueError(f"`resamples` must not be negative, got {self.resamples}.")

    def scorer(self, folder: str | os.PathLike, device: str | None = None) -> TextScorer:
        """Scores the texts of a run, and keeps the scores in its folder."""
        return TextScorer(self.resources, Path(folder, SCORES_FILE), choose_device(device))


class Answerer(Protocol):
    """What answers questions: a model, or anything that is compared with one."""

    def length(self, row: QARow) -> int:
        """By which rows are sorted into batches."""

    def prepare(self, rows: list[QARow]) -> Any:
        """
        Reads the inputs of some rows.

        Raises:
            ValueError, OSError: if one of them cannot be used.
        """

    def answer(self, prepared: Any) -> Sequence[dict | OSError]:
        """
        For each row a dict with `completion`, and whatever else [`read_predictions`] knows; or the error that kept its
        answer away, which the next run may get.
        """


def evaluate_model(
    model_dir: str | os.PathLike,
    records: Records,
    out: str | os.PathLike,
    scoring: Scoring | None = None,
    *,
    batch_size: int = 8,
    max_new_tokens: int | None = None,
    num_samples: int = 0,
    likelihood: bool = False,
    feature_cache: str | os.PathLike | None = None,
    withheld: Sequence[Modality] = (),
    swapped: Sequence[Modality] = (),
    subsets: bool = False,
    labs_withheld: Sequence[float] = (),
    engine: VllmEngine | None = None,
    device: str | None = None,
) -> dict[str, dict]:
    """
    Answers the questions of a dataset and computes the metrics. A run that was stopped continues where it stopped. Of
    processes that torchrun started each answers its share, and the first one computes the metrics.

    Args:
        model_dir (`str` or `os.PathLike`): Checkpoint folder.
        records ([`Records`]): Which records.
        out (`str` or `os.PathLike`): Folder for predictions.jsonl, metrics.json, report.md and figures.
        scoring ([`Scoring`], *optional*): Settings of the metrics.
        batch_size, max_new_tokens, num_samples, likelihood: See [`MedTVTAnswerer`].
        feature_cache (`str` or `os.PathLike`, *optional*): Folder of the encoders' outputs; made if missing.
        withheld (`Sequence[str]`): Evaluate again without each of these modalities.
        swapped (`Sequence[str]`): Evaluate again with each of these modalities taken from another patient.
        subsets (`bool`): Evaluate again with each subset of the modalities, and how far the answers agree.
        labs_withheld (`Sequence[float]`): Evaluate again without these shares of each patient's labs.
        engine ([`VllmEngine`], *optional*): Writes the answers; else transformers does.
        device (`str`, *optional*): A CUDA device where there is one, else the CPU.

    Returns:
        `dict`: content of metrics.json by variant, see [`make_variants`]; empty in all processes but the first.

    Raises:
        ValueError: if the model or the data do not open, or `out` holds another run.
    """
    scoring, ranks = scoring or Scoring(), Ranks.join()
    model, processor = open_model(model_dir, device)
    if engine is not None:
        write_with_vllm(model, processor.tokenizer, engine)
    dataset, features = records.load(), None
    if feature_cache:
        features = FeatureCache(feature_cache, model, processor)
        # `predict` lists what cannot be read
        features.build(dataset, max_rejected=1.0, part=(ranks.rank, ranks.count))
        ranks.wait()
        if ranks.count > 1:
            features.build(dataset, max_rejected=1.0, trust_built=True)
    rows = dataset.to_list()
    order = label_order([message_text(row["completion"]) for row in rows])
    calibration_file = Path(model_dir, CALIBRATION_FILE)
    calibration = read_calibration(calibration_file) if calibration_file.exists() else None
    sampling = (num_samples, likelihood, scoring.seed)
    answerer = MedTVTAnswerer(model, processor, features, max_new_tokens, *sampling, order, calibration)
    settings: dict[str, Any] = {
        "max_new_tokens": answerer.max_new_tokens,
        "num_samples": num_samples,
        "likelihood": likelihood,
    }
    if engine is not None:
        settings["engine"] = "vllm"
    about = {
        "model": hash_folder(model_dir),
        "level": records.level,
        "split": records.split,
        "settings": {**settings, "seed": scoring.seed},
    }
    scorer, checker = scoring.scorer(out, device), EvidenceChecker()
    variants = make_variants(rows, withheld, swapped, subsets, labs_withheld, scoring.seed)
    results: dict[str, dict] = {}
    answers: dict[str, list[dict]] = {}
    for name, variant_rows in variants.items():
        folder = Path(out, name)
        # a subset may be what is left where a modality is withheld, and no lab withheld is the plain run
        twin = next((other for other in answers if variants[other] == variant_rows), None)
        if twin is not None:
            if ranks.rank == 0:
                copy_answers(Path(out, twin), folder, name)
            ranks.wait()
        elif features is not None and name.startswith(LABS_WITHHELD):
            reduced = Dataset.from_list(list(variant_rows), features=dataset.features)
            features.build(reduced, max_rejected=1.0, part=(ranks.rank, ranks.count))
            ranks.wait()
        answers[name] = predict(variant_rows, answerer, folder, {**about, "variant": name}, batch_size, checker, ranks)
        if ranks.rank == 0:
            # what subsets and shares of labs say stands in the tables and figures of the whole run
            is_point = name.startswith((SUBSET, LABS_WITHHELD))
            if twin is None:
                results[name] = score_run(answers[name], folder, scoring, scorer, records.data, not is_point)
            else:
                results[name] = results[twin]
                write_results(results[twin], folder, not is_point)
            if name and not is_point:
                _compare_with_plain(name, answers[name], answers[""], folder, scoring, scorer)
    if len(results) > 1:
        results[""] |= _measure_variants(answers, results, scoring)
        write_results(results[""], out)
        plot_variants(results, Path(out))
    return results


def _measure_variants(answers: Mapping[str, list[dict]], results: Mapping[str, dict], scoring: Scoring) -> dict:
    """What only the variants together say: sections of metrics.json."""
    found: dict[str, Any] = {}
    subsets = {name.removeprefix(SUBSET): name for name in results if name.startswith(SUBSET)}
    if subsets:
        found["subsets"] = measure_points("given", {subset: results[name] for subset, name in subsets.items()})
        runs = {subset: answers[name] for subset, name in subsets.items()}
        found["agreement"] = measure_agreement(runs, scoring.resamples, scoring.seed)
    shares = {float(name.removeprefix(LABS_WITHHELD)): name for name in results if name.startswith(LABS_WITHHELD)}
    if shares:
        by_share = {share / 100: results[shares[share]] for share in sorted(shares)}
        found["labs_withheld"] = measure_points("withheld", by_share)
    return found


def open_model(folder: str | os.PathLike, device: str | None = None) -> tuple[MedTVTForCausalLM, MedTVTProcessor]:
    """
    Model and processor of a checkpoint folder, on a device, checked as the pipeline checks them.

    Raises:
        ValueError: if the folder does not open.
    """
    diagnose = load_pipeline(folder)
    model: Any = diagnose.model  # a decorator of transformers hides the arguments of its `to`
    return model.to(choose_device(device)), cast(MedTVTProcessor, diagnose.processor)


def score_run(
    answers: Sequence[Mapping],
    folder: str | os.PathLike,
    scoring: Scoring,
    scorer: TextScorer,
    data: str | os.PathLike,
    with_figures: bool = True,
) -> dict:
    """Measures the answers to questions of `data`, with what they cost; writes metrics.json, report.md and figures."""
    results = score_records(answers, scorer, scoring.resamples, scoring.seed, scoring.by)
    results["about"]["run"] = describe_cost(answers)
    entry = training_data_entry("", data)
    results["about"]["data"] = {key: entry[key] for key in ("name", "access")}
    write_results(results, folder, with_figures)
    return results


def _compare_with_plain(
    name: str, answers: list[dict], plain: list[dict], folder: Path, scoring: Scoring, scorer: TextScorer
) -> None:
    """Writes the paired differences between a variant and the unchanged records."""
    by_id = {record["id"]: record for record in plain}
    answers = [record for record in answers if record["id"] in by_id]
    same = [by_id[record["id"]] for record in answers]
    comparison = compare_records(answers, same, scorer, scoring.resamples, scoring.seed)
    write_json(comparison, folder / "comparison.json")
    text = render_comparison(comparison, name, "all modalities, each the patient's own")
    write_text(text, folder / "comparison.md")


def describe_cost(records: Sequence[Mapping]) -> dict[str, float]:
    """Seconds per record, and the peak memory of this process."""
    cost = {"seconds_per_record": float(np.mean([record["seconds"] for record in records]))}
    if sys.platform != "win32":
        unit = 1 if sys.platform == "darwin" else 1024
        cost["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    if torch.cuda.is_available():
        cost["peak_gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return cost


def predict(
    rows: Sequence[QARow],
    answerer: Answerer,
    folder: Path,
    about: dict,
    batch_size: int,
    checker: EvidenceChecker | None = None,
    ranks: Ranks | None = None,
) -> list[dict]:
    """
    Answers of a run, including those of an earlier, stopped run, in the order of the rows. Records whose inputs cannot be
    used are listed in rejects.jsonl with the reason. Of several processes each answers whole batches, so that no answer
    depends on how many there are, and only the first returns the answers, of all.

    Args:
        answerer ([`Answerer`]): What answers.
        about (`dict`): Model, data and settings, which must be equal for a stopped run to continue.
        checker ([`EvidenceChecker`], *optional*): Adds `evidence` to each answer.
        ranks ([`Ranks`], *optional*): The processes that share the work.

    Raises:
        ValueError: if the folder holds another run, or no record can be used.
    """
    ranks = ranks or Ranks()
    if batch_size < 1:
        raise ValueError(f"The batch size must be at least 1, got {batch_size}.")
    contents = [  # by the names of the files, not where they lie
        json.dumps(
            [row["prompt"], row["completion"], row["lab"], Path(row["ecg"] or "").name, Path(row["cxr"] or "").name]
        )
        for row in rows
    ]
    header = {**about, "dataset": fingerprint(contents), "ids": [row["id"] for row in rows]}
    by_length = sorted(rows, key=lambda row: (answerer.length(row), row["id"]))
    batches = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
    with PredictionWriter(folder, header, ranks.rank, ranks.count) as writer:
        mine = batches[ranks.rank :: ranks.count]
        todo = [[row for row in batch if row["id"] not in writer.done] for batch in mine]
        total = sum(map(len, mine))
        done = total - sum(map(len, todo))
        with tqdm(total=total, initial=done, unit="record", desc=folder.name, disable=ranks.rank > 0) as bar:
            for batch in filter(None, todo):
                _predict_batch(batch, answerer, writer, checker)
                bar.update(len(batch))
        ranks.wait()
        if ranks.rank == 0:
            reasons = writer.merge([row["id"] for row in by_length])
    if ranks.rank:
        return []
    if len(reasons) == len(rows):
        raise ValueError(f"None of {len(rows)} records can be used; the first: {reasons[0]}")
    if reasons:
        logger.warning("%s: %d of %d records cannot be used; see rejects.jsonl.", folder, len(reasons), len(rows))
    by_id = {record["id"]: record for record in read_predictions(writer.path)}
    return [by_id[row["id"]] for row in rows if row["id"] in by_id]


def _predict_batch(
    rows: list[QARow], answerer: Answerer, writer: PredictionWriter, checker: EvidenceChecker | None
) -> None:
    """Answers some rows and writes the answers, or why there is none."""
    start = time.perf_counter()
    try:
        prepared = answerer.prepare(rows)
        measured = [checker.measure(row) for row in rows] if checker else []
    except (ValueError, OSError) as error:
        if len(rows) > 1:  # find out which
            for row in rows:
                _predict_batch([row], answerer, writer, checker)
        else:
            writer.reject(rows[0]["id"], str(error))
        return
    answers = answerer.answer(prepared)
    seconds = (time.perf_counter() - start) / len(rows)
    lines = []
    for i, (row, answer) in enumerate(zip(rows, answers)):
        if isinstance(answer, OSError):
            writer.reject(row["id"], str(answer))
            continue
        if checker:
            answer["evidence"] = checker.check(answer["completion"], measured[i])
        lines.append({**describe_row(row), **answer, "seconds": seconds})
    writer.write(lines)
