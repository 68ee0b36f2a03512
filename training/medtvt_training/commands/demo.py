# SPDX-License-Identifier: Apache-2.0
"""`medtvt demo`: an example patient, drawn by the package, through the pipeline."""

import argparse
import textwrap
from collections.abc import Mapping
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt demo`."""
    parser.add_argument("--model", help="checkpoint folder (default: the package's own)")
    parser.add_argument("--ecg", help="your own ECG file instead of the example patient")
    parser.add_argument("--cxr", help="your own chest X-ray: PNG, JPEG, TIFF or DICOM")
    parser.add_argument("--lab", help="your own laboratory panel: CSV with the columns name,value[,unit]")
    parser.add_argument("--out", default="demo", help="folder for the example patient's files (default: demo)")


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt demo`."""
    print("MedTVT-R1 demo: loading the libraries takes some seconds ...", flush=True)
    from modeling_medtvt import DEFAULT_CHECKPOINT
    from processing_medtvt.report_medtvt import RESEARCH_USE

    from ..inference.load import load_pipeline
    from ..inference.result import print_result
    from ..synthetic.example_patient import write_example_patient

    print(f"{RESEARCH_USE}\n")
    model = args.model or DEFAULT_CHECKPOINT
    files = {"ecg": args.ecg, "cxr": args.cxr, "lab": args.lab}
    patient = None
    if not any(files.values()):
        patient = write_example_patient(args.out)
        files = {modality: patient[modality] for modality in files}
        print(f"An example patient, drawn for this demo, not a real one, is in {args.out}/:")
    for modality, path in files.items():
        if path is not None:
            print(f"  {modality}  {path}")
    print(f"  model {model}\n")
    result = load_pipeline(model)(**files)
    print_result(result)
    if patient is not None:
        print(format_truth(patient))
        print(judge(result, patient))


def judge(result: Mapping[str, Any], patient: Mapping[str, Any]) -> str:
    """How much of the answer is true of the example patient, in one sentence."""
    from processing_medtvt.claims_medtvt import stated_findings

    named = {disease["label"] for disease in result["diseases"] if disease["named"]}
    truth = set(patient["diseases"])
    cited, shown = stated_findings(result["reasoning"] or ""), set(patient["findings"])
    return (
        f"So {len(named & truth)} of {len(truth)} diseases are found, {len(named - truth)} named falsely; "
        f"{len(cited & shown)} of {len(cited)} cited findings are there, {len(shown - cited)} left out."
    )


def format_truth(patient: dict[str, Any]) -> str:
    """What the example patient was drawn with, to hold against the answer."""
    lines = [
        "",
        "The truth: the example patient was drawn with",
        f"  {'; '.join(patient['diseases'])}",
        "whose data show",
    ]
    for modality in ("ecg", "cxr", "lab"):
        shown = [name.split(": ")[1] for name in patient["findings"] if name.startswith(modality)]
        lines.append(
            textwrap.fill(f"{modality}: {', '.join(shown)}", 100, initial_indent="  ", subsequent_indent="       ")
        )
    return "\n".join(lines)
