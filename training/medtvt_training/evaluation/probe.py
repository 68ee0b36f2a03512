# SPDX-License-Identifier: Apache-2.0
"""
Where findings are held: linear probes on what the encoders give, and on the tokens that projectors make of it for the
language model. What a probe reads from the encoder and not from the tokens was lost in between.
"""

import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modeling_medtvt import MedTVTForCausalLM
from modeling_medtvt.output_folder import check_new_folder

from ..data.conversation import MODALITIES, MODALITY_NAMES
from ..data.feature_cache import FeatureCache
from ..data.load import load_medtvt_qa
from ..data.rows import Modality
from ..files import hash_folder, markdown_table, write_json, write_text
from ..stages.findings_dataset import label_findings, read_inputs
from .bootstrap import RESAMPLES, Metric, measure_all, nanmean
from .metrics import auroc_of
from .run import open_model
from .values import RESEARCH_USE, format_entry


# Fewer that show a finding, or fewer that do not, and it is left out: to fit on, and to measure on
MIN_TRAIN, MIN_MEASURED = 8, 5
# Tokens are several times as many numbers as pooled features, so their probe is held closer to zero
PENALTIES = {"encoder": 0.1, "tokens": 0.003}
# What a finding may lose on the way
TOLERATED = 0.02
BATCH = 64


def probe_model(
    model_dir: str | os.PathLike,
    data: str | os.PathLike,
    out: str | os.PathLike,
    *,
    split: str = "test",
    train_inputs: int = 2500,
    modalities: Sequence[Modality] = MODALITIES,
    feature_cache: str | os.PathLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    device: str | None = None,
) -> dict[str, Any]:
    """
    Fits logistic regressions on the training split's inputs and measures their AUROC on those of another split.

    Args:
        model_dir (`str` or `os.PathLike`): Checkpoint folder.
        data (`str` or `os.PathLike`): Folder of MedTVT-QA whose physiology rows list their findings.
        out (`str` or `os.PathLike`): New folder for probe.json and probe.md.
        split (`str`): `"validation"` or `"test"`.
        train_inputs (`int`): At most so many of each modality, the first ones.
        modalities (`Sequence[str]`): Which.
        feature_cache (`str` or `os.PathLike`, *optional*): Folder of the encoders' outputs; made if missing.

    Returns:
        `dict`: content of probe.json: `about`; by modality `inputs`, `measured`, `mean` and `per_finding`, each with the AUROC
        on `encoder` and `tokens` and the `lost` difference (95 % intervals over patients), and a finding's `shown` inputs.

    Raises:
        ValueError: if model or data do not open, or no finding is frequent enough.
    """
    if split not in ("validation", "test") or train_inputs < 1:
        raise ValueError('`split` must be "validation" or "test", and `train_inputs` at least 1.')
    check_new_folder(out)
    model, processor = open_model(model_dir, device)
    results: dict[str, Any] = {
        "about": {"model": hash_folder(model_dir), "split": split, "train_inputs": train_inputs, "seed": seed}
    }
    with tempfile.TemporaryDirectory() as temporary:
        cache = FeatureCache(feature_cache or Path(temporary, "cache"), model, processor)
        for modality in modalities:
            sides = {}
            rows = read_inputs(data, modality, ("train", split))
            for name, limit in (("train", train_inputs), (split, None)):
                dataset = load_medtvt_qa(data, "physiology", name)
                sides[name] = encode_inputs(model, cache, dataset, modality, rows[name][:limit])
            results[modality] = _probe(sides["train"], sides[split], modality, resamples, seed)
    Path(out).mkdir(parents=True, exist_ok=True)
    write_json(results, Path(out, "probe.json"))
    write_text(render_probe(results), Path(out, "probe.md"))
    return results


@torch.no_grad()
def encode_inputs(
    model: MedTVTForCausalLM, cache: FeatureCache, dataset: Dataset, modality: Modality, rows: Sequence[dict]
) -> dict[str, Any]:
    """`encoder` and `tokens`, (inputs, numbers), of some rows, with their `rows` and `subjects`."""
    places = {name: i for i, name in enumerate(dataset["id"])}
    dataset = dataset.select([places[row["id"]] for row in rows])
    cache.build(dataset)
    projector = getattr(model.model, f"{modality}_projector")
    pooled: list[torch.Tensor] = []
    tokens: list[torch.Tensor] = []
    for start in range(0, len(dataset), BATCH):
        batch = dataset.select(range(start, min(start + BATCH, len(dataset)))).to_list()
        features = torch.stack([cache.get(row, modality) for row in batch]).to(model.device)
        pooled.append(features.mean(1))
        if modality == "cxr":  # where on the film a finding shows is part of it
            pooled[-1] = torch.cat([pooled[-1], features.amax(1)], 1)
        # at the scale that the decoder's first norm gives them
        projected = projector(features.to(model.dtype)).float()
        tokens.append(torch.nn.functional.rms_norm(projected, projected.shape[-1:]).flatten(1))
    return {
        "encoder": torch.cat(pooled).cpu().numpy(),
        "tokens": torch.cat(tokens).cpu().numpy(),
        "rows": list(rows),
        "subjects": [subject or name for subject, name in zip(dataset["subject_id"], dataset["id"])],
    }


def _probe(
    fitted: Mapping[str, Any], measured: Mapping[str, Any], modality: Modality, resamples: int, seed: int
) -> dict[str, Any]:
    names = sorted({name for row in fitted["rows"] for name in row["findings"]})
    labels, truths = (np.stack([label_findings(row, names) for row in side["rows"]]) for side in (fitted, measured))
    metrics: dict[str, Metric] = {}
    shown: dict[str, int] = {}
    for i, name in enumerate(names):
        sizes = [min((side[:, i] == 1).sum(), (side[:, i] == 0).sum()) for side in (labels, truths)]
        if sizes[0] < MIN_TRAIN or sizes[1] < MIN_MEASURED:
            continue
        shown[name] = int((truths[:, i] == 1).sum())
        for place, penalty in PENALTIES.items():
            known, kept = ~np.isnan(labels[:, i]), np.flatnonzero(~np.isnan(truths[:, i]))
            probe = make_pipeline(
                StandardScaler(), LogisticRegression(C=penalty, max_iter=300, class_weight="balanced")
            )
            with warnings.catch_warnings():  # near the optimum is enough for a ranking
                warnings.simplefilter("ignore", ConvergenceWarning)
                probe.fit(fitted[place][known], labels[known, i])
            area = auroc_of(truths[kept, i] == 1, probe.decision_function(measured[place][kept]))
            metrics[f"{name}\n{place}"] = Metric(partial(_of_rows, area=area, rows=kept))
    if not shown:
        raise ValueError(
            f"No finding of the {modality} is shown, and not shown, by {MIN_TRAIN} inputs to fit on and {MIN_MEASURED} to "
            "measure on."
        )
    for place in PENALTIES:
        areas = [metrics[f"{name}\n{place}"].compute for name in shown]
        metrics[f"mean\n{place}"] = Metric(partial(_mean, areas=areas))
    for name in (*shown, "mean"):
        both = [metrics[f"{name}\n{place}"].compute for place in PENALTIES]
        metrics[f"{name}\nlost"] = Metric(partial(_difference, areas=both))
    found = measure_all(metrics, measured["subjects"], resamples, seed)

    def entry(name: str) -> dict[str, Any]:
        return {key: found[f"{name}\n{key}"] for key in (*PENALTIES, "lost")}

    return {
        "inputs": len(labels),
        "measured": len(truths),
        "mean": entry("mean"),
        "per_finding": {name: {"shown": number, **entry(name)} for name, number in shown.items()},
    }


def _of_rows(weights: np.ndarray, area: Any, rows: np.ndarray) -> np.ndarray:
    return area(weights[:, rows])


def _mean(weights: np.ndarray, areas: Sequence[Any]) -> np.ndarray:
    return nanmean(np.stack([area(weights) for area in areas]))


def _difference(weights: np.ndarray, areas: Sequence[Any]) -> np.ndarray:
    first, second = areas
    return first(weights) - second(weights)


def render_probe(results: Mapping[str, Any]) -> str:
    """probe.md: a table of the modalities, and one of each finding."""
    about = results["about"]
    found = {modality: results[modality] for modality in MODALITIES if modality in results}
    header = ["", "inputs", "encoder", "tokens", "lost"]
    rows, details = [], []
    for modality, entry in found.items():
        inputs = f"{entry['inputs']} to fit, {entry['measured']} measured"
        rows.append([MODALITY_NAMES[modality], inputs, *_cells(entry["mean"])])
        details += [[name, f"{each['shown']} show it", *_cells(each)] for name, each in entry["per_finding"].items()]
    losing = [
        f"{name} ({each['lost']['value']:.3f})"
        for entry in found.values()
        for name, each in entry["per_finding"].items()
        if each["lost"]["value"] > TOLERATED
    ]
    return (
        f"# Where findings are held\n\n{RESEARCH_USE}\n\nAUROC of linear probes, split {about['split']}; in brackets 95 % "
        f"intervals over patients.\n\n{markdown_table(header, rows)}\nFindings that lose more than {TOLERATED} on the way to "
        f"the tokens: {', '.join(losing) or 'none'}.\n\n{markdown_table(header, details)}"
    )


def _cells(entry: Mapping[str, Any]) -> list[str]:
    return [format_entry(entry[key]) for key in (*PENALTIES, "lost")]
