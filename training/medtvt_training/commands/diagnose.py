# SPDX-License-Identifier: Apache-2.0
"""`medtvt diagnose`: one patient through the pipeline, or a table of patients."""

import argparse
import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .engine_options import add_engine_options, engine_of


if TYPE_CHECKING:
    from modeling_medtvt import MedicalDiagnosisPipeline

logger = logging.getLogger(__name__)

ONE_PATIENT = ("ecg", "cxr", "lab", "patient", "age", "sex", "report", "figure", "occlusion", "fhir", "json")
WRITTEN = ("report", "figure", "fhir", "out", "csv")
MANY_PATIENTS = ("out", "csv", "html_dir", "fhir_dir", "root")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt diagnose`."""
    parser.add_argument("--model", help="checkpoint folder (default: the package's own)")
    one = parser.add_argument_group("one patient")
    one.add_argument("--ecg", help="ECG file, such as the .hea of a WFDB record with .dat or .mat beside it")
    one.add_argument("--cxr", help="chest X-ray: PNG, JPEG, TIFF or DICOM")
    one.add_argument("--lab", help="laboratory panel: CSV with the columns name,value[,unit]")
    one.add_argument(
        "--patient", metavar="FOLDER", help="a patient's folder: its files are told apart by their content"
    )
    one.add_argument("--age", type=float, help="in years; chooses reference ranges, the model does not see it")
    one.add_argument("--sex", help="F or M; chooses reference ranges, the model does not see it")
    one.add_argument("--report", metavar="FILE", help="write inputs, answer and warnings to one HTML page")
    one.add_argument("--figure", metavar="FILE", help="write the inputs as the model got them to a PNG")
    one.add_argument("--occlusion", metavar="DISEASE", help="with --report: what in the inputs moves this disease")
    one.add_argument(
        "--fhir", metavar="FILE", help="write the result as a FHIR R4 DiagnosticReport, marked preliminary"
    )
    one.add_argument("--json", action="store_true", help="print the result as JSON")
    many = parser.add_argument_group("many patients")
    many.add_argument(
        "--batch",
        metavar="TABLE",
        help="CSV with a row a patient: id, and any of ecg, cxr, lab (paths), question, sampling_rate, leads, unit, age, sex",
    )
    many.add_argument("--root", help="folder that the paths are relative to and stay inside (default: the table's)")
    many.add_argument(
        "--out", metavar="FILE", help="JSON lines of the answers; the same command again goes on where it was stopped"
    )
    many.add_argument("--csv", metavar="FILE", help="write one line a patient, with a column for each disease")
    many.add_argument("--html-dir", metavar="FOLDER", help="write a report a patient to this folder")
    many.add_argument("--fhir-dir", metavar="FOLDER", help="write a FHIR R4 DiagnosticReport a patient to this folder")
    many.add_argument("--batch-size", type=int, default=8, help="patients to answer at a time (default: 8)")
    parser.add_argument("--question", help="a question of your own; it may say where <ecg>, <cxr> and <lab> stand")
    parser.add_argument("--sampling-rate", type=float, metavar="HZ", help="of ECG files that do not state it")
    parser.add_argument("--leads", help="of ECG files that do not state them, in order: I,II,III,...")
    parser.add_argument("--unit", help="of ECG files that do not state it: mV or uV")
    parser.add_argument(
        "--influence", action="store_true", help="answer again without each modality, and say what that changes"
    )
    parser.add_argument(
        "--abstain",
        type=float,
        metavar="RISK",
        help="mark diseases as undecided that would exceed this risk, such as 0.1",
    )
    parser.add_argument("--strict", action="store_true", help="refuse inputs that are otherwise only warned of")
    parser.add_argument(
        "--num-samples", type=int, default=1, help="answers to draw; scores are shares of them (default: 1)"
    )
    parser.add_argument("--max-new-tokens", type=int, help="length limit of an answer (default: the model's)")
    parser.add_argument(
        "--seed",
        type=int,
        help="seed of answers that are drawn (default: another each time); with it, the patients of --batch go one by one",
    )
    add_engine_options(parser)


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt diagnose`."""
    _check(args)
    from modeling_medtvt import DEFAULT_CHECKPOINT, DISEASES

    from ..inference.load import load_pipeline

    if args.occlusion is not None and args.occlusion not in DISEASES:
        raise ValueError(f"--occlusion must be one of {', '.join(DISEASES)}.")
    args.model = args.model or DEFAULT_CHECKPOINT
    engine = engine_of(args)
    diagnose = load_pipeline(args.model)
    if engine is not None:
        from ..serving.vllm_engine import write_with_vllm

        write_with_vllm(diagnose.model, diagnose.tokenizer, engine)
    settings: dict[str, Any] = {"num_samples": args.num_samples, "strict": args.strict}
    if args.influence:
        settings["influence"] = True
    if args.abstain is not None:
        settings["abstain"] = args.abstain
    if args.max_new_tokens is not None:
        settings["max_new_tokens"] = args.max_new_tokens
    if args.question is not None:
        settings["question"] = args.question
    if args.batch:
        _run_batch(args, diagnose, settings)
    else:
        _run_one(args, diagnose, settings)


def _check(args: argparse.Namespace) -> None:
    """Raises ValueError for options that do not go together, before anything slow is imported."""
    for option in WRITTEN:
        if (path := getattr(args, option)) and Path(path).is_dir():
            raise ValueError(f"--{option} {path} is a folder: name a file.")
    wrong = ONE_PATIENT if args.batch else MANY_PATIENTS
    if given := [f"--{name.replace('_', '-')}" for name in wrong if getattr(args, name) not in (None, False)]:
        raise ValueError(f"{', '.join(given)} {'cannot be used with' if args.batch else 'belong to'} --batch.")
    if not any((args.ecg, args.cxr, args.lab, args.patient, args.batch, args.question)):
        raise ValueError("Nothing to answer: give --ecg, --cxr, --lab, --patient or --batch.")
    if args.batch and not args.out:
        raise ValueError("--batch needs --out FILE for the answers.")
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {args.batch_size}.")
    if args.occlusion and not args.report:
        raise ValueError("--occlusion is drawn in the report: name a file with --report.")


def _ecg_options(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of ECG files that do not state it."""
    from modeling_medtvt.pipeline_medtvt import split_leads

    leads = None if args.leads is None else split_leads(args.leads)
    stated = {"sampling_rate": args.sampling_rate, "leads": leads, "unit": args.unit}
    return {name: value for name, value in stated.items() if value is not None}


def _about(args: argparse.Namespace, diagnose: "MedicalDiagnosisPipeline") -> dict[str, str]:
    name = Path(args.model).resolve().name  # not its place on a disk
    return {"Model": name, "Training stage": diagnose.model.provenance.stage or "none: untrained"}


def _run_one(args: argparse.Namespace, diagnose: "MedicalDiagnosisPipeline", settings: dict[str, Any]) -> None:
    import torch

    from processing_medtvt.report_medtvt import RESEARCH_USE, render_report

    from ..files import write_bytes, write_json
    from ..inference.fhir import to_diagnostic_report
    from ..inference.result import print_result

    inputs = {"ecg": args.ecg, "cxr": args.cxr, "lab": args.lab}
    stated = _ecg_options(args)
    notes: list[str] = []
    if args.patient:
        from ..inference.patient_files import find_patient_files

        found, notes = find_patient_files(args.patient, diagnose.processor, inputs, **stated)
        inputs.update(found)
        if args.strict and notes:
            raise ValueError(f"Refused as --strict asks. {' '.join(notes)}")
    if stated and inputs["ecg"] is None:
        raise ValueError("--sampling-rate, --leads and --unit belong to an ECG, and there is none.")
    if args.seed is not None:
        torch.manual_seed(args.seed)  # transformers' set_seed would import accelerate, and what that brings
    patient = {"age": args.age, "sex": args.sex}
    result = diagnose(**inputs, **stated, patient=patient, **settings)
    result["warnings"] += notes
    if args.json:
        print(json.dumps({**result, "notice": RESEARCH_USE}, indent=2))
    else:
        print_result(result)
    if args.fhir:
        write_json(to_diagnostic_report(result, _about(args, diagnose)["Model"]), args.fhir)
    if args.report:
        occlusion = None
        if args.occlusion:
            from ..inference.occlusion import occlude

            asked = {**inputs, **stated, "question": args.question}
            occlusion = occlude(diagnose, asked, result["generated_text"], args.occlusion)
        about = _about(args, diagnose)
        page = render_report(result, diagnose.processor, **inputs, **stated, about=about, occlusion=occlusion)
        write_bytes(page.encode(), args.report)
    if args.figure:
        _write_figure(args.figure, diagnose, {**inputs, **stated}, result)
    if written := [path for path in (args.fhir, args.report, args.figure) if path]:
        logger.info("written to %s", ", ".join(written))


def _write_figure(
    path: str, diagnose: "MedicalDiagnosisPipeline", inputs: Mapping[str, Any], result: Mapping[str, Any]
) -> None:
    """The inputs as a PNG, with what was named above them."""
    from processing_medtvt import read_inputs, render_figure
    from processing_medtvt.report_medtvt import RESEARCH_USE

    from ..files import write_bytes

    named = [disease["label"] for disease in result["diseases"] if disease["named"]]
    drawn = read_inputs(diagnose.processor, **inputs)
    figure = render_figure(drawn, f"Named: {', '.join(named) or 'none'}. {RESEARCH_USE}")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_bytes(content.getvalue(), path)


def _run_batch(args: argparse.Namespace, diagnose: "MedicalDiagnosisPipeline", settings: dict[str, Any]) -> None:
    from processing_medtvt.report_medtvt import RESEARCH_USE

    from ..files import hash_folder
    from ..inference.batch import Batch
    from ..inference.patient_table import read_patient_table

    stated = _ecg_options(args)
    patients = [
        patient._replace(inputs={**stated, **patient.inputs}) if "ecg" in patient.inputs else patient
        for patient in read_patient_table(args.batch, args.root)
    ]
    header = {"model": hash_folder(args.model), "seed": args.seed, **settings, **stated}
    if args.engine != "transformers":
        header["engine"] = args.engine
    batch = Batch(diagnose, patients, args.out, header, args.html_dir, _about(args, diagnose), args.fhir_dir)
    counts = batch.run(args.batch_size, args.seed, **settings)
    if args.csv:
        batch.write_table(args.csv)
    before = f", {counts.before} before" * bool(counts.before)
    rejected = f"; {counts.rejected} cannot be: {batch.rejects_file}" * bool(counts.rejected)
    print(f"{args.out}: {counts.answered} patients answered{before}{rejected}. {RESEARCH_USE}")
