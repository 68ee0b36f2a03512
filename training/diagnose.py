# SPDX-License-Identifier: Apache-2.0
"""`medtvt diagnose`: one patient through the pipeline."""

import io
import json
import os
import tempfile
import textwrap
from pathlib import Path

from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoProcessor, set_seed

from modeling_medtvt import DEFAULT_CHECKPOINT, DISEASES, MedicalDiagnosisPipeline
from processing_medtvt.report_medtvt import RESEARCH_USE, read_inputs, render_figure, render_report


def add_arguments(parser):
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


def run(args):
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
            from .occlusion import occlude

            patient = {**inputs, "question": args.question}
            occlusion = occlude(diagnose, patient, result["generated_text"], args.occlusion)
        name = Path(args.model).resolve().name  # not its place on a disk
        about = {"Model": name, "Training stage": diagnose.model.config.stage or "none: untrained"}
        page = render_report(result, diagnose.processor, **inputs, about=about, occlusion=occlusion)
        write_file(args.report, page.encode())
    if args.figure:
        write_figure(args.figure, diagnose.processor, inputs, result)


def write_figure(path: str, processor, inputs: dict, result: dict):
    """The inputs as a PNG, with what was named above them."""
    named = [disease["label"] for disease in result["diseases"] if disease["named"]]
    figure = render_figure(read_inputs(processor, **inputs), f"Named: {', '.join(named) or 'none'}. {RESEARCH_USE}")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_file(path, content.getvalue())


def write_file(path: str, content: bytes):
    """Writes a file that appears only when it is complete."""
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # mkstemp's own mode would keep everybody else out
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load_pipeline(folder: str) -> MedicalDiagnosisPipeline:
    """The pipeline on a checkpoint folder, with the installed code even where the folder brings its own."""
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=False)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ValueError(f"{folder} does not open as a MedTVT checkpoint. {error}") from error
    if model.config.model_type != "medtvt":
        raise ValueError(f"{folder} holds a model of type {model.config.model_type!r}, not a MedTVT checkpoint.")
    return MedicalDiagnosisPipeline(model=model, processor=processor, task="medical-diagnosis")


def format_result(result: dict) -> str:
    """A result of the pipeline as text for a terminal."""
    lines = ["Diseases"]
    for disease in result["diseases"]:
        score = "" if disease["score"] is None else f"{disease['score']:6.0%} of the answers"
        lines.append(f"  [{'x' if disease['named'] else ' '}] {disease['label']:<24}{score}".rstrip())
    lines.append("Contributions of the modalities (gate scores, 0 to 1)")
    for modality, value in result["contributions"].items():
        lines.append(f"  {modality:<4}{'-' if value is None else format(value, '.2f')}")
    lines.append("Altered or imputed, and other warnings")
    lines.extend(textwrap.indent(textwrap.fill(warning, 100), "  ") for warning in result["warnings"] or ["none"])
    lines.append("Reasoning")
    lines.append(textwrap.indent(textwrap.fill(result["reasoning"] or "none", 100), "  "))
    lines.append("Generated text")
    lines.append(textwrap.indent(textwrap.fill(result["generated_text"] or "(empty)", 100), "  "))
    return "\n".join([*lines, "", RESEARCH_USE])
