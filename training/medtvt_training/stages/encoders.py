# SPDX-License-Identifier: Apache-2.0
"""
`medtvt train-encoders`: a supervised stage before PT, for those without the released encoders. Each encoder learns to name
the findings of its modality, with a linear head on its pooled features; the heads are thrown away.
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
from transformers import Trainer, TrainingArguments, set_seed
from transformers.utils import ModelOutput

from modeling_medtvt import MedTVTConfig, MedTVTForCausalLM
from modeling_medtvt.output_folder import check_new_folder, new_folder
from processing_medtvt import MedTVTProcessor

from ..data.conversation import MODALITIES
from ..data.feature_cache import PROCESSOR_PARTS
from ..data.rows import Modality
from ..files import write_text
from .arguments import EncoderArguments, ModelArguments
from .callbacks import FiniteLossCallback
from .checkpoints import explain_write_errors, find_checkpoint, output_folder
from .findings_dataset import FindingsDataset, collate_findings, frequent_findings, read_cohort, read_ptb_xl
from .launch import check_launch, checkpoint_kind
from .model import load_model, record_training_data


class FindingsClassifier(nn.Module):
    """
    An encoder, and a linear head with one logit a finding at each of its tokens. An X-ray's logits are added up with
    learned weights, since where a finding shows is part of what it is; an ECG's are averaged over time.

    Args:
        model ([`MedTVTForCausalLM`]): Whose encoder it trains, in place.
        modality (`str`): `"ecg"`, `"cxr"` or `"lab"`.
        num_findings (`int`): Logits.
        scale, mean, std (`float` or `list[float]`): What turns stored inputs into the encoder's: (x * scale - mean) / std.
    """

    def __init__(
        self,
        model: MedTVTForCausalLM,
        modality: Modality,
        num_findings: int,
        scale: float = 1.0,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.encoder = getattr(model.model, f"{modality}_encoder").requires_grad_(True)
        self.encode = getattr(model, f"get_{modality}_features")
        self.head = nn.Linear(_hidden_size(model.config, modality), num_findings)
        length = (model.config.cxr_sequence_length or 1) if modality == "cxr" else 1
        self.pooling = nn.Parameter(torch.full((length, num_findings), 1 / length))
        self.scale = scale
        for name, value in (("mean", mean), ("std", std)):
            tensor = torch.as_tensor(value, dtype=torch.float32)
            self.register_buffer(name, tensor[:, None, None] if tensor.ndim else tensor, persistent=False)

    def forward(self, values: torch.Tensor, labels: torch.Tensor) -> ModelOutput:
        """(batch, ...) stored inputs and (batch, findings) labels in {0, 1} -> loss and (batch, findings) logits."""
        values = (values.float() * self.scale - self.mean) / self.std
        if values.ndim == 4:
            values = values.contiguous(memory_format=torch.channels_last)  # quicker convolutions on a CPU
        features = self.encode(values)
        logits = self.head(features)
        logits = (logits * self.pooling).sum(dim=1) if len(self.pooling) > 1 else logits.mean(dim=1)
        return ModelOutput(loss=nn.functional.binary_cross_entropy_with_logits(logits, labels), logits=logits)


def train_encoders(arguments: EncoderArguments, training: TrainingArguments) -> dict:
    """
    Trains the encoders of a model on findings, and writes `final/`, the model with them, and `encoder_metrics.json`.

    Where labs are trained and the processor has no table of its own yet, its percentiles are fitted on the training
    split's values first.

    Returns:
        `dict`: per modality the validation AUROC of each finding (None where the split has one class only), and counts.

    Raises:
        ValueError: if arguments, model or data are not what they should be, or the loss is not finite.
        FileExistsError: if the output folder holds a finished run, or an unfinished one without `resume`.
    """
    if (arguments.data is None) == (arguments.labels is None):
        raise ValueError("Pass either `data`, a MedTVT-QA folder, or `labels`, a CSV in the layout of PTB-XL.")
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
                arguments.min_positives,
                arguments.max_rejected,
                checkpoints[modality],
            )
    source = arguments.data or os.path.dirname(str(arguments.labels))
    record_training_data(model, "encoders", source)
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


def train_encoder(
    modality: Modality,
    model: MedTVTForCausalLM,
    processor: MedTVTProcessor,
    labelled: dict[str, list[dict]],
    training: TrainingArguments,
    min_positives: int = 1,
    max_rejected: float = 0.01,
    checkpoint: str | None = None,
) -> dict:
    """
    Trains one encoder of `model`, in place.

    Args:
        labelled (`dict`): Split (`"train"`, `"validation"`) to rows with `id`, the modality and `findings`.
        training (`TrainingArguments`): Of this encoder.
        min_positives, max_rejected: See [`EncoderArguments`].
        checkpoint (`str`, *optional*): To go on from.

    Returns:
        `dict`: `auroc` per finding, `mean_auroc`, and `positives` and `rows` of the validation split.
    """
    findings = frequent_findings(modality, labelled["train"], min_positives)
    output_dir = output_folder(training)
    output_dir.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".inputs-", dir=output_dir) as folder:
            workers = training.dataloader_num_workers
            datasets = {}
            for split, rows in labelled.items():
                file = Path(folder) / f"{split}.npy"
                datasets[split] = FindingsDataset.read(
                    rows, modality, processor, findings, file, workers, max_rejected
                )
            set_seed(training.seed)  # the head is new, also where a resumed run has trained nothing before it
            classifier = FindingsClassifier(model, modality, len(findings), **normalization(modality, processor))
            trainer = Trainer(
                model=classifier,
                args=training,
                data_collator=collate_findings,
                train_dataset=datasets["train"],
                eval_dataset=datasets["validation"],
                compute_metrics=lambda prediction: {"auroc": _mean(_auroc(*prediction).values())},
                callbacks=[FiniteLossCallback(classifier)],
            )
            trainer.train(resume_from_checkpoint=checkpoint)
            predicted = trainer.predict(datasets["validation"])
    finally:
        model.cpu().model.freeze_encoders()
    logits, labels = np.asarray(predicted.predictions), np.asarray(predicted.label_ids)
    auroc = _auroc(logits, labels)
    return {
        "auroc": {name: auroc[i] for i, name in enumerate(findings)},
        "mean_auroc": _mean(auroc.values()),
        "positives": dict(zip(findings, labels.sum(0).astype(int).tolist())),
        "rows": len(labels),
    }


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
    """Column of (rows, findings) to its area under the ROC curve, None where the rows are of one class."""
    return {
        i: float(roc_auc_score(labels[:, i], logits[:, i])) if 0 < labels[:, i].sum() < len(labels) else None
        for i in range(labels.shape[1])
    }


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None
