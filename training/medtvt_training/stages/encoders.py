# SPDX-License-Identifier: Apache-2.0
"""
`medtvt train-encoders`: a supervised stage before PT, for those without the released encoders. Each encoder and its projector
learn to name the findings of their modality, with a linear head on the encoder's pooled features and one on the tokens that
the language model will get; the heads are thrown away.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import ConcatDataset
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments, set_seed
from transformers.utils import ModelOutput

from modeling_medtvt import MedTVTConfig, MedTVTForCausalLM
from modeling_medtvt.output_folder import check_new_folder, new_folder
from processing_medtvt import MedTVTProcessor

from ..data.conversation import MODALITIES
from ..data.feature_cache import PROCESSOR_PARTS
from ..data.rows import Modality
from ..files import write_text
from .arguments import EncoderArguments, ModelArguments
from .augmentation import vary
from .callbacks import FiniteLossCallback, SamplerCallback
from .checkpoints import explain_write_errors, find_checkpoint, output_folder
from .findings_dataset import (
    SPLITS,
    FindingsDataset,
    collate_findings,
    findings_loss,
    frequent_findings,
    read_cohort,
    read_inputs,
    read_ptb_xl,
)
from .launch import check_launch, checkpoint_kind
from .mixture import MixedSampler, MixtureTrainer, count_draws
from .model import load_model, record_training_data


class FindingsClassifier(nn.Module):
    """
    An encoder, its projector, and two linear heads with one logit a finding. The encoder's is at each of its features: an
    X-ray's logits are added up with learned weights, since where a finding shows is part of what it is; an ECG's are
    averaged over time. The tokens' is on all k of them, at the scale that the decoder's first norm gives them.

    Args:
        model ([`MedTVTForCausalLM`]): Whose encoder and projector it trains, in place.
        modality (`str`): `"ecg"`, `"cxr"` or `"lab"`.
        num_findings (`int`): Logits.
        scale, mean, std (`float` or `list[float]`): What turns stored inputs into the encoder's: (x * scale - mean) / std.
        feature_dropout (`float`): Dropout between encoder and projector.
        positive_weight (`torch.Tensor`, *optional*): (findings,), what a shown finding counts in the loss.
        augment (`bool`): Whether training inputs are varied.
    """

    def __init__(
        self,
        model: MedTVTForCausalLM,
        modality: Modality,
        num_findings: int,
        scale: float = 1.0,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        feature_dropout: float = 0.0,
        positive_weight: torch.Tensor | None = None,
        augment: bool = False,
    ) -> None:
        super().__init__()
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.positive_weight: torch.Tensor | None
        self.modality, self.augment = modality, augment
        self.encoder = getattr(model.model, f"{modality}_encoder").requires_grad_(True)
        self.encode = getattr(model, f"get_{modality}_features")
        self.projector = getattr(model.model, f"{modality}_projector").requires_grad_(True)
        self.dropout = nn.Dropout(feature_dropout)
        config = model.config
        self.encoder_head = nn.Linear(_hidden_size(config, modality), num_findings)
        self.token_head = nn.Linear(config.num_modality_tokens * config.text_config.hidden_size, num_findings)
        length = (config.cxr_sequence_length or 1) if modality == "cxr" else 1
        self.pooling = nn.Parameter(torch.full((length, num_findings), 1 / length))
        self.scale = scale
        for name, value in (("mean", mean), ("std", std)):
            tensor = torch.as_tensor(value, dtype=torch.float32)
            self.register_buffer(name, tensor[:, None, None] if tensor.ndim else tensor, persistent=False)
        self.register_buffer("positive_weight", positive_weight, persistent=False)

    def forward(self, values: torch.Tensor, labels: torch.Tensor) -> ModelOutput:
        """
        (batch, ...) stored inputs and (batch, findings) labels, NaN where not known -> loss and (batch, 2, findings) logits,
        the encoder's and the tokens'.
        """
        if self.augment and self.training:
            values = vary(self.modality, values)
        values = (values.float() * self.scale - self.mean) / self.std
        if values.ndim == 4:
            values = values.contiguous(memory_format=torch.channels_last)  # quicker convolutions on a CPU
        features = self.encode(values)
        logits = self.encoder_head(features)
        logits = (logits * self.pooling).sum(dim=1) if len(self.pooling) > 1 else logits.mean(dim=1)
        tokens = self.projector(self.dropout(features))
        tokens = nn.functional.rms_norm(tokens, tokens.shape[-1:])
        logits = torch.stack([logits, self.token_head(tokens.flatten(1))], dim=1)
        loss = findings_loss(logits, labels.unsqueeze(1).expand_as(logits), self.positive_weight)
        return ModelOutput(loss=loss, logits=logits)


def train_encoders(arguments: EncoderArguments, training: TrainingArguments) -> dict:
    """
    Trains the encoders and projectors of a model on findings, and writes `final/`, the model with them, and
    `encoder_metrics.json`.

    Where labs are trained and the processor has no table of its own yet, its percentiles are fitted on the training
    split's values first.

    Returns:
        `dict`: per modality what [`train_encoder`] returns.

    Raises:
        ValueError: if arguments, model or data are not what they should be, or the loss is not finite.
        FileExistsError: if the output folder holds a finished run, or an unfinished one without `resume`.
    """
    if (arguments.data is None) == (arguments.labels is None):
        raise ValueError("Pass either `data`, a MedTVT-QA folder, or `labels`, a CSV in the layout of PTB-XL.")
    if arguments.patience and not training.load_best_model_at_end:
        raise ValueError(
            "`patience` needs `load_best_model_at_end`: what comes after the best evaluation is thrown away."
        )
    check_launch(training)
    if checkpoint_kind(training) != "plain":
        raise ValueError(
            "`train-encoders` trains small models, one whole on each device: start it with torchrun or accelerate/ddp.yaml, "
            "not with FSDP or DeepSpeed."
        )
    output_dir = output_folder(training)
    if unknown := set(arguments.modalities) - set(MODALITIES):
        raise ValueError(f"`modalities` must be some of ecg, cxr and lab; got {', '.join(sorted(unknown))}.")
    modalities = [name for name in MODALITIES if name in (["ecg"] if arguments.labels else arguments.modalities)]
    check_new_folder(output_dir / "final")
    runs = {modality: _modality_arguments(arguments, training, modality) for modality in modalities}
    checkpoints = {modality: find_checkpoint(run, arguments.resume) for modality, run in runs.items()}
    set_seed(training.seed)
    model, processor, _ = load_model(None, ModelArguments(model=arguments.model))
    labelled = {modality: _read_labelled(arguments, modality) for modality in modalities}
    extra = read_extra(arguments.extra_data, modalities)
    metrics = {}
    for modality, run in runs.items():
        rows = labelled[modality]
        if modality == "lab":
            _fit_percentiles(processor, rows["train"], arguments)
        with explain_write_errors(output_folder(run)):
            metrics[modality] = train_encoder(
                modality,
                model,
                processor,
                rows,
                run,
                arguments,
                extra[modality],
                checkpoints[modality],
            )
    source = arguments.data or os.path.dirname(str(arguments.labels))
    for data in (source, *arguments.extra_data):
        record_training_data(model, "encoders", data)
    if training.should_save:
        with explain_write_errors(output_dir), new_folder(output_dir / "final") as folder:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
        write_text(json.dumps(metrics, indent=2) + "\n", output_dir / "encoder_metrics.json")
    return metrics


def _fit_percentiles(processor: MedTVTProcessor, rows: list[dict], arguments: EncoderArguments) -> None:
    """Where the processor has only reference intervals, its percentiles become those of the training split."""
    extractor: Any = getattr(processor, PROCESSOR_PARTS["lab"])
    if extractor.percentile_source == "reference_intervals":
        table = pd.DataFrame([row["lab"] for row in rows])
        extractor.fit(table, source=f"{Path(str(arguments.data)).name}, training split", allow_missing=True)


def _read_labelled(arguments: EncoderArguments, modality: Modality) -> dict[str, list[dict]]:
    if arguments.data is None:
        return read_ptb_xl(str(arguments.labels), arguments.statements)
    return read_cohort(arguments.data, modality)


def _modality_arguments(
    arguments: EncoderArguments, training: TrainingArguments, modality: Modality
) -> TrainingArguments:
    batch_size = getattr(arguments, f"{modality}_batch_size")
    return replace(
        training,
        output_dir=str(output_folder(training) / modality),
        num_train_epochs=getattr(arguments, f"{modality}_epochs"),
        learning_rate=getattr(arguments, f"{modality}_learning_rate"),
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        remove_unused_columns=False,
    )


def read_extra(
    folders: Sequence[str], modalities: Sequence[Modality]
) -> dict[Modality, dict[str, dict[str, list[dict]]]]:
    """
    Further labelled inputs.

    Returns:
        `dict`: modality to folder to split to rows; a folder without the modality, or without a validation split, is left
        out of it.

    Raises:
        ValueError: if a folder has no labelled input of any of the modalities.
    """
    found: dict[Modality, dict[str, dict[str, list[dict]]]] = {modality: {} for modality in modalities}
    for folder in folders:
        splits = [
            split for split in SPLITS if split == "train" or Path(folder, "physiology", f"{split}.parquet").exists()
        ]
        for modality in modalities:
            rows = read_inputs(folder, modality, splits)
            if rows["train"]:
                found[modality][folder] = rows
        if not any(folder in of_modality for of_modality in found.values()):
            raise ValueError(
                f"{folder}: no row of physiology/train is about one of {', '.join(modalities)} alone and lists its `findings`."
            )
    return found


def train_encoder(
    modality: Modality,
    model: MedTVTForCausalLM,
    processor: MedTVTProcessor,
    labelled: dict[str, list[dict]],
    training: TrainingArguments,
    arguments: EncoderArguments,
    extra: dict[str, dict[str, list[dict]]],
    checkpoint: str | None = None,
) -> dict:
    """
    Trains one encoder and its projector, in place.

    Args:
        labelled (`dict`): Split (`"train"`, `"validation"`) to rows with `id`, the modality and `findings`.
        training (`TrainingArguments`): Of this encoder.
        arguments ([`EncoderArguments`]): Of all of them.
        extra (`dict`): Folder to the like of `labelled`, to mix in.
        checkpoint (`str`, *optional*): To go on from.

    Returns:
        `dict`: of the validation split, per finding the AUROC of the encoder's head and of the tokens' (`encoder_auroc` and
        `token_auroc`; None where the split has one class only), their means, `positives` and `rows`; the same of each further
        folder's validation split as `extra`.
    """
    further = {folder: splits["train"] for folder, splits in extra.items()}
    known = [row for rows in (labelled["train"], *further.values()) for row in rows]
    findings = frequent_findings(modality, known, arguments.min_positives)
    output_dir = output_folder(training)
    output_dir.mkdir(parents=True, exist_ok=True)
    held_out = {folder: splits["validation"] for folder, splits in extra.items() if splits.get("validation")}
    try:
        with tempfile.TemporaryDirectory(prefix=".inputs-", dir=output_dir) as folder:
            sources = [labelled["train"], *further.values(), labelled["validation"], *held_out.values()]
            datasets = [
                FindingsDataset.read(
                    rows, modality, processor, findings, Path(folder) / f"{i}.npy",
                    training.dataloader_num_workers, arguments.max_rejected,
                )
                for i, rows in enumerate(sources)
            ]  # fmt: skip
            parts, validation, others = (
                datasets[: 1 + len(further)],
                datasets[1 + len(further)],
                datasets[2 + len(further) :],
            )
            sizes = [len(part) for part in parts]
            sampler = MixedSampler(
                sizes, count_draws(sizes, arguments.shares_of(further), list(further)), training.seed
            )
            set_seed(training.seed)  # the heads are new, also where a resumed run has trained nothing before it
            classifier = FindingsClassifier(
                model,
                modality,
                len(findings),
                **normalization(modality, processor),
                feature_dropout=arguments.feature_dropout,
                positive_weight=_positive_weight(parts[0].labels),
                augment=arguments.augment,
            )
            trainer = MixtureTrainer(
                model=classifier,
                args=training,
                data_collator=collate_findings,
                train_dataset=ConcatDataset(parts),
                eval_dataset=validation,
                callbacks=[SamplerCallback(sampler), FiniteLossCallback(classifier)],
                sampler=sampler,
            )
            if arguments.patience:
                trainer.add_callback(EarlyStoppingCallback(arguments.patience))
            trainer.train(resume_from_checkpoint=checkpoint)
            metrics = _probe(trainer, validation, findings)
            metrics["extra"] = {
                Path(name).name: _probe(trainer, dataset, findings)
                for name, dataset in zip(held_out, others, strict=True)
            }
    finally:
        model.cpu().model.freeze_encoders()
    return metrics


def _positive_weight(labels: np.ndarray) -> torch.Tensor:
    """(findings,): the root of how many do not show a finding for one that does, so that the rare ones are not left out."""
    shown = np.nansum(labels, axis=0)
    known = (~np.isnan(labels)).sum(axis=0)
    return torch.from_numpy(np.sqrt((known - shown) / np.maximum(shown, 1)).astype(np.float32))


def _probe(trainer: Trainer, dataset: FindingsDataset, findings: list[str]) -> dict:
    """AUROC of both heads per finding, and counts."""
    predicted = trainer.predict(dataset)  # type: ignore[arg-type]  # a Dataset of torch, as it takes
    logits, labels = np.asarray(predicted.predictions), np.asarray(predicted.label_ids)
    metrics: dict[str, Any] = {}
    for i, name in enumerate(("encoder", "token")):
        auroc = _auroc(logits[:, i], labels)
        metrics[f"{name}_auroc"] = {finding: auroc[j] for j, finding in enumerate(findings)}
        metrics[f"mean_{name}_auroc"] = _mean(auroc.values())
    metrics["positives"] = dict(zip(findings, np.nansum(labels, axis=0).astype(int).tolist()))
    metrics["rows"] = len(labels)
    return metrics


def _hidden_size(config: MedTVTConfig, modality: Modality) -> int:
    sizes: dict[Modality, Any] = {
        "ecg": config.ecg_config.hidden_size,
        "cxr": config.cxr_hidden_size,
        "lab": config.lab_config.hidden_size,
    }
    return sizes[modality]


def normalization(modality: Modality, processor: MedTVTProcessor) -> dict:
    """Scale, mean and standard deviation that turn stored X-rays into the encoder's inputs; nothing for the others."""
    if modality != "cxr":
        return {}
    images: Any = getattr(processor, PROCESSOR_PARTS["cxr"])
    scale = images.rescale_factor if images.do_rescale else 1.0
    return (
        {"scale": scale, "mean": images.image_mean, "std": images.image_std}
        if images.do_normalize
        else {"scale": scale}
    )


def _auroc(logits: np.ndarray, labels: np.ndarray) -> dict[int, float | None]:
    """Column of (rows, findings) to its area under the ROC curve over known labels, None where they are of one class."""
    found: dict[int, float | None] = {}
    for i in range(labels.shape[1]):
        known = ~np.isnan(labels[:, i])
        true = labels[known, i]
        found[i] = float(roc_auc_score(true, logits[known, i])) if 0 < true.sum() < len(true) else None
    return found


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None
