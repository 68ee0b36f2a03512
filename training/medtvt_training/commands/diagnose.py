# SPDX-License-Identifier: Apache-2.0
"""`medtvt diagnose`: one patient through the pipeline."""

import argparse
import io
import json
from pathlib import Path

from transformers import set_seed

from modeling_medtvt import DEFAULT_CHECKPOINT, DISEASES
from processing_medtvt import MedTVTProcessor
from processing_medtvt.report_medtvt import RESEARCH_USE, read_inputs, render_figure, render_report

from ..files import write_bytes
from ..inference.load import load_pipeline
from ..inference.result import format_result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt diagnose`."""
    parser.add_argument("--model", default=DEFAULT_CHECKPOINT, help="checkpoint folder (default: the package's own)")
    parser.add_argument("--ecg", help="WFDB record: its .hea, with .dat or .mat beside it")
    parser.add_argument("--cxr", help="chest X-ray: PNG, JPEG or DICOM")
    parser.add_argument("--lab", help="laboratory panel: CSV with the columns name,value[,unit]")
    parser.add_argument("--question", help="a question of your own; it may say where <ecg>, <cxr> and <lab> stand")
    parser.add_argument("--num-samples", type=int, default=1, help="answers to draw; scores are shares of them")
    parser.add_argument("--max-new-tokens", type=int, help="length limit of an answer")
    parser.add_argument("--seed", type=int, help="seed, for answers that are drawn")
    parser.add_argument("--report", metavar="FILE", help="write inputs, answer and warnings to one HTML page")
    parser.add_argument("--figure", metavar="FILE", help="write the inputs as the model got them to a PNG")
    parser.add_argument(
        "--occlusion", choices=DISEASES, metavar="DISEASE", help="with --report: what in the inputs moves this disease"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt diagnose`."""
    if args.occlusion and not args.report:
        raise ValueError("--occlusion is drawn in the report: name a file with --report.")
    diagnose = load_pipeline(args.model)
    if args.seed is not None:
        set_seed(args.seed)
    limits = {} if args.max_new_tokens is None else {"max_new_tokens": args.max_new_tokens}
    inputs = {"ecg": args.ecg, "cxr": args.cxr, "lab": args.lab}
    result = diagnose(**inputs, question=args.question, num_samples=args.num_samples, **limits)
    print(json.dumps({**result, "notice": RESEARCH_USE}, indent=2) if args.json else format_result(result))
    if args.report:
        occlusion = None
        if args.occlusion:
            from ..inference.occlusion import occlude

            patient = {**inputs, "question": args.question}
            occlusion = occlude(diagnose, patient, result["generated_text"], args.occlusion)
        name = Path(args.model).resolve().name  # not its place on a disk
        about = {"Model": name, "Training stage": diagnose.model.provenance.stage or "none: untrained"}
        page = render_report(result, diagnose.processor, **inputs, about=about, occlusion=occlusion)
        write_bytes(page.encode(), args.report)
    if args.figure:
        write_figure(args.figure, diagnose.processor, inputs, result)


def write_figure(path: str, processor: MedTVTProcessor, inputs: dict, result: dict) -> None:
    """The inputs as a PNG, with what was named above them."""
    named = [disease["label"] for disease in result["diseases"] if disease["named"]]
    figure = render_figure(read_inputs(processor, **inputs), f"Named: {', '.join(named) or 'none'}. {RESEARCH_USE}")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_bytes(content.getvalue(), path)
