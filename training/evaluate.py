# SPDX-License-Identifier: Apache-2.0
"""`medtvt evaluate`: answers of a model to a split of MedTVT-QA, and every metric of them."""

import json
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm


try:
    import resource
except ImportError:  # Windows has no such module
    resource = None

from .answer_likelihood import answer_probabilities, label_order
from .collator import MedTVTDataCollator
from .data import load_medtvt_qa, write_text
from .features import FeatureCache
from .figures import plot_variants
from .predictions import PredictionWriter, fingerprint, hash_folder, message_text, read_predictions, write_json
from .qa.schema import DISEASES, MODALITIES, SPLITS, STAGES, withhold
from .recompute_metrics import (
    add_metric_arguments,
    compare_records,
    resources_from,
    score_records,
    write_results,
)
from .report import render_comparison
from .tables import TABLES, render_table


def add_arguments(parser):
    """Arguments of `medtvt evaluate`."""
    parser.add_argument("--model", help="checkpoint folder")
    add_data_arguments(parser)
    parser.add_argument(
        "--num-samples", type=int, default=0, help="answers to draw as well; scores are shares of them"
    )
    parser.add_argument("--likelihood", action="store_true", help="probability of each disease in the answer slot too")
    parser.add_argument("--features", help="folder of a feature cache; made if missing")
    parser.add_argument(
        "--withhold", nargs="+", choices=MODALITIES, default=[], help="evaluate without each of these modalities too"
    )
    parser.add_argument(
        "--swap", nargs="+", choices=MODALITIES, default=[], help="and with each of these of another patient"
    )
    parser.add_argument("--table", type=int, choices=sorted(TABLES), help="print a table of the paper instead")
    parser.add_argument("--metrics", nargs="+", metavar="NAME=FILE", help="with --table: metrics.json of each row")
    add_metric_arguments(parser)


def add_data_arguments(parser):
    """Arguments of the commands that make predictions."""
    parser.add_argument("--data", help="folder of MedTVT-QA, ours or the authors'")
    parser.add_argument("--stage", choices=STAGES, default="diagnosis", help="(default: diagnosis)")
    parser.add_argument("--split", choices=SPLITS, default="test", help="(default: test)")
    parser.add_argument("--ecg-root", help="what ECG paths are relative to (default: --data)")
    parser.add_argument("--cxr-root", help="what X-ray paths are relative to (default: --data)")
    parser.add_argument("--limit", type=int, help="only the first so many records")
    parser.add_argument("--out", help="folder for predictions.jsonl, metrics.json, report.md and figures")
    parser.add_argument("--batch-size", type=int, default=8, help="(default: 8)")
    parser.add_argument("--max-new-tokens", type=int, help="length limit of an answer (default: the model's)")
    parser.add_argument("--device", help="such as cuda (default: where there is one)")


def run(args):
    """Entry point of `medtvt evaluate`."""
    if args.table:
        print(render_table(args.table, parse_named_files(args.metrics)))
        return
    check_required(args, "model", "data", "out")
    resources = resources_from(args)
    from .diagnose import load_pipeline

    diagnose = load_pipeline(args.model)
    model, processor = diagnose.model.to(choose_device(args.device)), diagnose.processor
    dataset = load_rows(args)
    features = None
    if args.features:
        features = FeatureCache(args.features, model, processor)
        dataset = features.build(dataset, rejects_file=None)
    rows = dataset.to_list()
    answerer = MedTVTAnswerer(
        model, processor, features, args.max_new_tokens, args.num_samples, args.likelihood, args.seed,
        order=label_order([message_text(row["completion"]) for row in rows]),
    )  # fmt: skip
    about = {
        "model": hash_folder(args.model),
        "stage": args.stage,
        "split": args.split,
        "settings": {
            "max_new_tokens": answerer.max_new_tokens,
            "num_samples": args.num_samples,
            "likelihood": args.likelihood,
            "seed": args.seed,
        },
    }
    variants = {"": rows}
    variants |= {f"withhold-{name}": withhold_from_rows(rows, name) for name in args.withhold}
    variants |= {f"swap-{name}": swap_between_rows(rows, name, args.seed) for name in args.swap}
    results = {}
    for name, variant_rows in variants.items():
        folder = Path(args.out, name)
        records = predict(variant_rows, answerer, folder, {**about, "variant": name}, args.batch_size)
        results[name] = score_records(records, resources, args.resamples, args.seed)
        results[name]["about"]["run"] = describe_cost(records)
        write_results(results[name], folder)
        if not name:
            plain = {record["id"]: record for record in records}
        else:
            same = [plain[record["id"]] for record in records if record["id"] in plain]
            records = [record for record in records if record["id"] in plain]
            comparison = compare_records(records, same, resources, args.resamples, args.seed)
            write_json(comparison, folder / "comparison.json")
            write_text(
                render_comparison(comparison, name, "all modalities, each the patient's own"), folder / "comparison.md"
            )
    if len(results) > 1:
        plot_variants(results, Path(args.out))


def check_required(args, *names: str):
    """Raises ValueError for the first argument that is missing."""
    for name in names:
        if getattr(args, name) is None:
            raise ValueError(f"--{name} is needed.")


def choose_device(device: str | None) -> str:
    """The device that is named, or the best there is."""
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def load_rows(args):
    """The dataset that a command line names."""
    dataset = load_medtvt_qa(args.data, args.stage, args.split, ecg_root=args.ecg_root, cxr_root=args.cxr_root)
    if args.limit is not None:
        if args.limit < 1:
            raise ValueError(f"--limit must be at least 1, got {args.limit}.")
        dataset = dataset.select(range(min(args.limit, len(dataset))))
    if not len(dataset):
        raise ValueError(f"{args.data}: {args.stage}/{args.split} holds no record.")
    return dataset


def parse_named_files(named: Sequence[str] | None) -> dict[str, str]:
    """`["SFT=runs/sft/metrics.json"]` as a dict."""
    if not named or any("=" not in item for item in named):
        raise ValueError("--table needs --metrics NAME=FILE, one for each row of the table.")
    return dict(item.split("=", 1) for item in named)


def describe_cost(records: Sequence[Mapping]) -> dict[str, float]:
    """Seconds a record, and the most memory that this process held."""
    cost = {"seconds_per_record": float(np.mean([record["seconds"] for record in records]))}
    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024
        cost["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    if torch.cuda.is_available():
        cost["peak_gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return cost


def withhold_from_rows(rows: Sequence[dict], modality: str) -> list[dict]:
    """The rows that have the modality and another one, without it."""
    kept = [withhold(row, modality) for row in rows if modality in row["modalities"] and len(row["modalities"]) > 1]
    if not kept:
        raise ValueError(f"No record has {modality!r} and another modality, so it cannot be withheld.")
    return kept


def swap_between_rows(rows: Sequence[dict], modality: str, seed: int = 0) -> list[dict]:
    """
    The rows that have the modality, each with that of another patient; `donor_id`, `donor_diseases` and
    `donor_findings` say whose, `donor_modality` what. Every row gives once and receives once.

    Raises:
        ValueError: if one patient has more than half of these rows.
    """
    rows = [row for row in rows if modality in row["modalities"]]
    order = np.random.default_rng(seed).permutation(len(rows))
    by_patient = {}
    for i in order:
        by_patient.setdefault(patient_of(rows[i]), []).append(i)
    groups = list(by_patient.values())
    shift = max(map(len, groups), default=0)
    if 2 * shift > len(rows) or not rows:
        raise ValueError(f"{modality!r} cannot be swapped between {len(groups)} patients with {len(rows)} records.")
    # patients one after the other, moved by the longest of them: nobody meets their own
    receivers = [i for group in groups for i in group]
    donors = receivers[shift:] + receivers[:shift]
    swapped = {}
    for i, j in zip(receivers, donors):
        donor = rows[j]
        swapped[i] = {
            **rows[i],
            modality: donor[modality],
            "donor_modality": modality,
            "donor_id": donor["id"],
            "donor_diseases": donor["diseases"],
            "donor_findings": donor["findings"],
        }
    return [swapped[i] for i in range(len(rows))]


def patient_of(row: Mapping) -> str:
    """Rows without a patient, as the authors' physiology files have them, stand for one each."""
    return row["subject_id"] or row["id"]


def predict(rows: Sequence[dict], answerer, folder: Path, about: dict, batch_size: int) -> list[dict]:
    """
    Answers of a run, those of an earlier start included, in the order of the rows. Records whose inputs cannot be used
    are listed in rejects.jsonl with the reason.

    Args:
        answerer: Has `length(row)`, by which rows are sorted into batches; `prepare(rows)`, which reads inputs; and
            `answer(prepared)`, which gives a dict with `completion` for each row.
        about (`dict`): What must be the same for a run to go on.

    Raises:
        ValueError: if the folder holds another run, or no record can be used.
    """
    if batch_size < 1:
        raise ValueError(f"The batch size must be at least 1, got {batch_size}.")
    contents = [  # by the names of the files, not where they lie
        json.dumps([row["prompt"], row["completion"], row["lab"], *(Path(row[m] or "").name for m in ("ecg", "cxr"))])
        for row in rows
    ]
    header = {**about, "dataset": fingerprint(contents), "ids": [row["id"] for row in rows]}
    by_length = sorted(rows, key=lambda row: (answerer.length(row), row["id"]))
    batches = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
    with PredictionWriter(folder, header) as writer:
        reasons = []
        with tqdm(total=len(rows), initial=len(writer.done), unit="record", desc=folder.name) as bar:
            for batch in batches:
                todo = [row for row in batch if row["id"] not in writer.done]
                if todo:
                    reasons += _predict_batch(todo, answerer, writer)
                    bar.update(len(todo))
    if len(reasons) == len(rows):
        raise ValueError(f"None of {len(rows)} records can be used; the first: {reasons[0]}")
    if reasons:
        print(f"{folder}: {len(reasons)} of {len(rows)} records cannot be used; see rejects.jsonl.", file=sys.stderr)
    by_id = {record["id"]: record for record in read_predictions(writer.path)}
    return [by_id[row["id"]] for row in rows if row["id"] in by_id]


def _predict_batch(rows, answerer, writer) -> list[str]:
    """Writes the answers to some rows; returns why rows were rejected."""
    start = time.perf_counter()
    try:
        prepared = answerer.prepare(rows)
    except (ValueError, OSError) as error:
        if len(rows) > 1:  # find out which
            return [reason for row in rows for reason in _predict_batch([row], answerer, writer)]
        writer.reject(rows[0]["id"], str(error))
        return [str(error)]
    answers = answerer.answer(prepared)
    seconds = (time.perf_counter() - start) / len(rows)
    writer.write([{**describe_row(row), **answer, "seconds": seconds} for row, answer in zip(rows, answers)])
    return []


def describe_row(row: Mapping) -> dict:
    """What a line of predictions says of its row."""
    known = ("findings", "donor_modality", "donor_id", "donor_diseases", "donor_findings")
    return {
        "id": row["id"],
        "subject_id": patient_of(row),
        "diseases": list(row["diseases"] or []),
        "modalities": list(row["modalities"]),
        "reference": message_text(row["completion"]).strip(),
        **{key: row[key] for key in known if row.get(key) is not None},
    }


class MedTVTAnswerer:
    """
    Answers of a [`MedTVTForCausalLM`], batched, with left padding.

    Args:
        features ([`FeatureCache`], *optional*): With the encoders' outputs for the rows.
        max_new_tokens (`int`, *optional*): Defaults to the generation config's.
        num_samples (`int`): Answers to draw beside the greedy one.
        likelihood (`bool`): Whether to add [`answer_probabilities`].
        seed (`int`): Seed of the drawn answers, together with the first id of a batch.
        order (`list[str]`): From [`label_order`].
    """

    def __init__(
        self,
        model,
        processor,
        features=None,
        max_new_tokens=None,
        num_samples=0,
        likelihood=False,
        seed=0,
        order=DISEASES,
    ):
        if num_samples < 0 or (max_new_tokens is not None and max_new_tokens < 1):
            raise ValueError("--num-samples must not be negative, and --max-new-tokens at least 1.")
        self.model, self.processor = model.eval(), processor
        self.collator = MedTVTDataCollator(processor, features)
        self.max_new_tokens = max_new_tokens or model.generation_config.max_new_tokens
        self.num_samples, self.likelihood, self.seed, self.order = num_samples, likelihood, seed, order

    def length(self, row: dict) -> int:
        """Characters of prompt and reference: answers to similar references take similarly long."""
        return len(message_text(row["prompt"])) + len(message_text(row["completion"]))

    def prepare(self, rows: list[dict]) -> tuple:
        """Rows, ids of their prompts, and modality inputs."""
        return rows, [self.collator.encode(row)[0] for row in rows], self.collator.modality_inputs(rows)

    @torch.no_grad()
    def answer(self, prepared: tuple) -> list[dict]:
        """`completion` and, where there are some, `samples`, `probabilities` and `gates` of each row."""
        rows, prompts, inputs = prepared
        device = self.model.device
        batch = self.processor.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(
            device
        )
        inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
        embeds, gates = None, None
        if inputs:
            modalities = self.model.get_modality_embeds(batch["input_ids"], **inputs)
            embeds = modalities.embeds
            if modalities.gates is not None:
                gates = modalities.gates.float().mean(1).tolist()
        completions = self._generate(batch, embeds, do_sample=False)
        answers = [{"completion": completion} for completion in completions]
        if self.num_samples:
            with torch.random.fork_rng():
                torch.manual_seed(zlib.crc32(f"{self.seed} {rows[0]['id']}".encode()))
                drawn = self._generate(batch, embeds, do_sample=True, num_return_sequences=self.num_samples)
            for i, answer in enumerate(answers):
                answer["samples"] = drawn[i * self.num_samples : (i + 1) * self.num_samples]
        for i, (row, answer) in enumerate(zip(rows, answers)):
            if gates is not None:
                found = dict(zip(MODALITIES, gates[i]))
                answer["gates"] = {name: found[name] if name in row["modalities"] else None for name in MODALITIES}
            if self.likelihood:
                own = None if embeds is None else embeds[i : i + 1]
                answer["probabilities"] = answer_probabilities(
                    self.model, self.processor.tokenizer, prompts[i], answer["completion"], self.order, own
                )
        return answers

    def _generate(self, batch, embeds, **kwargs) -> list[str]:
        generated = self.model.generate(**batch, modality_embeds=embeds, max_new_tokens=self.max_new_tokens, **kwargs)
        return self.processor.batch_decode(generated[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
