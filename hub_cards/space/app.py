# SPDX-License-Identifier: Apache-2.0
"""A Gradio app around the pipeline: an example patient or one's own files, the answer as it is written, the report."""

import argparse
import html
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import TextIteratorStreamer

from medtvt_training.inference.load import load_pipeline
from modeling_medtvt import DEFAULT_CHECKPOINT, MedicalDiagnosisPipeline
from processing_medtvt.report_medtvt import RESEARCH_USE, render_report


MAX_FILE_MB = 20
MAX_ECG_FILES = 3
MAX_LAB_CHARACTERS = 20_000
MAX_NEW_TOKENS = 512
MAX_WAITING = 100
OWN_FILES = "Your own files"
EXAMPLES = ("Atrial Fibrillation", "Pneumonia", "Acute Renal Failure", None)
INPUT_ERRORS = (ValueError, TypeError, OSError, ImportError)
LAB_HINT = "name,value,unit\nCreatinine,2.3,mg/dL\nPotassium,5.9,mmol/L"


# The logic, which needs no Gradio


def draw_examples(folder: Path, seed: int = 0) -> dict[str, dict]:
    """Imaginary patients with known causes, by title: `ecg` (list of files), `cxr` (file), `lab` (CSV text)."""
    from medtvt_training.synthetic.causes import DISEASE_OF_CODE
    from medtvt_training.synthetic.example_patient import write_example_patient
    from medtvt_training.synthetic.patient import draw_patient

    examples, index = {}, 0
    for number, wanted in enumerate(EXAMPLES):
        while True:
            found = [DISEASE_OF_CODE[code] for code in draw_patient(seed, index).causes.diseases]
            index += 1
            if (wanted in found) if wanted else not found:
                break
        files = write_example_patient(folder / str(number), seed, index - 1)
        examples[f"Drawn with: {', '.join(found) or 'none of the seven'}"] = {
            "ecg": [files["ecg"], files["ecg"].removesuffix(".hea") + ".dat"],
            "cxr": files["cxr"],
            "lab": Path(files["lab"]).read_text(encoding="utf-8"),
        }
    return examples


def collect_inputs(
    ecg_files: Sequence[str] | None, cxr_file: str | None, lab_text: str | None, folder: Path
) -> dict[str, str]:
    """
    The pipeline's `ecg`, `cxr` and `lab` from uploads, which are copied to one folder under their own names.

    Raises:
        ValueError: if there is nothing, too much, or an ECG without its header.
    """
    ecg_files = list(ecg_files or [])
    for path in [*ecg_files, *([cxr_file] if cxr_file else [])]:
        if os.path.getsize(path) > MAX_FILE_MB * 1_000_000:
            raise ValueError(f"{Path(path).name}: larger than {MAX_FILE_MB} MB.")
    if len(ecg_files) > MAX_ECG_FILES:
        raise ValueError(f"An ECG has at most {MAX_ECG_FILES} files (.hea with .dat or .mat), got {len(ecg_files)}.")
    inputs = {}
    if ecg_files:
        headers = [path for path in ecg_files if str(path).endswith(".hea")]
        if len(headers) != 1:
            raise ValueError("An ECG is a WFDB record: upload its .hea together with its .dat or .mat.")
        for path in ecg_files:
            shutil.copy(path, folder / Path(path).name)
        inputs["ecg"] = str(folder / Path(headers[0]).name)
    if cxr_file:
        inputs["cxr"] = str(shutil.copy(cxr_file, folder / f"cxr-{Path(cxr_file).name}"))
    if lab_text and lab_text.strip():
        if len(lab_text) > MAX_LAB_CHARACTERS:
            raise ValueError(f"Labs: {len(lab_text)} characters; at most {MAX_LAB_CHARACTERS} are read.")
        inputs["lab"] = str(folder / "labs.csv")
        Path(inputs["lab"]).write_text(lab_text, encoding="utf-8")
    if not inputs:
        raise ValueError("Pick an example, or give at least one of ECG, X-ray and labs.")
    return inputs


def stream_answer(
    diagnose: MedicalDiagnosisPipeline, inputs: dict[str, str], max_new_tokens: int
) -> Iterator[tuple[str, dict | None]]:
    """The text so far, again and again, and the result of the pipeline with the last."""
    tokenizer: Any = diagnose.tokenizer
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            outcome["result"] = diagnose(inputs, streamer=streamer, max_new_tokens=max_new_tokens)
        except Exception as error:
            outcome["error"] = error
            streamer.end()  # or the reader would wait for ever

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    text = ""
    for piece in streamer:
        text += piece
        yield text, None
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    yield outcome["result"]["generated_text"], outcome["result"]


def check_inputs(
    diagnose: MedicalDiagnosisPipeline, ecg_files: Sequence[str] | None, cxr_file: str | None, lab_text: str | None
) -> str | None:
    """What is wrong with the inputs, for those who should not wait in a queue to learn it."""
    with tempfile.TemporaryDirectory() as temporary:
        try:
            inputs = collect_inputs(ecg_files, cxr_file, lab_text, Path(temporary))
            diagnose.preprocess({"index": None, "item": inputs})
        except INPUT_ERRORS as error:
            return describe_error(error, temporary)
    return None


def run_patient(
    diagnose: MedicalDiagnosisPipeline,
    about: dict[str, str],
    ecg_files: Sequence[str] | None,
    cxr_file: str | None,
    lab_text: str | None,
) -> Iterator[tuple[str, str, str]]:
    """Message, answer so far and report (HTML), again and again. What is wrong with the inputs becomes a message."""
    with tempfile.TemporaryDirectory() as temporary:
        try:
            inputs: dict[str, Any] = collect_inputs(ecg_files, cxr_file, lab_text, Path(temporary))
            result: Any = None
            yield "Reading and writing ...", "", ""
            for text, result in stream_answer(diagnose, inputs, MAX_NEW_TOKENS):
                if result is None:
                    yield "Writing ...", text, ""
            report = render_report(result, diagnose.processor, **inputs, about=about)
            yield f"Done. {RESEARCH_USE}", text, frame(report)
        except INPUT_ERRORS as error:
            yield describe_error(error, temporary), "", ""


def describe_error(error: Exception, folder: str) -> str:
    """A message without the place on the server, which tells the user nothing."""
    return f"Not possible: {str(error).replace(folder + os.sep, '')}"


def frame(page: str) -> str:
    """A page inside a page: no scripts, and none of its styles reach the app."""
    return (
        f'<iframe title="Report" sandbox="" srcdoc="{html.escape(page, quote=True)}" '
        'style="width: 100%; height: 80vh; border: 0"></iframe>'
    )


# The app


def build_app(diagnose: MedicalDiagnosisPipeline, examples: dict[str, dict], about: dict[str, str]) -> Any:
    """The `gradio.Blocks`: one patient at a time is answered, others wait in a queue."""
    import gradio as gr

    def check(
        ecg_files: Sequence[str] | None, cxr_file: str | None, lab_text: str | None
    ) -> tuple[str, str, str, bool]:
        problem = check_inputs(diagnose, ecg_files, cxr_file, lab_text)
        return problem or "Waiting ...", "", "", problem is None

    def run(
        usable: bool, ecg_files: Sequence[str] | None, cxr_file: str | None, lab_text: str | None
    ) -> Iterator[tuple]:
        if usable:
            yield from run_patient(diagnose, about, ecg_files, cxr_file, lab_text)
        else:
            yield gr.skip(), gr.skip(), gr.skip()

    def pick(title: str) -> tuple:
        example = examples.get(title, {"ecg": None, "cxr": None, "lab": ""})
        return example["ecg"], example["cxr"], example["lab"]

    with gr.Blocks(title="MedTVT-R1") as app:
        gr.Markdown(f"# MedTVT-R1\n**{RESEARCH_USE}** Do not upload data of real patients.")
        if diagnose.model.provenance.stage is None:
            gr.Markdown("The weights of this model are random and untrained: **its answers mean nothing.**")
        with gr.Row():
            with gr.Column():
                example = gr.Dropdown([OWN_FILES, *examples], value=OWN_FILES, label="Patient", elem_id="patient")
                ecg = gr.File(label="ECG: .hea with .dat or .mat", file_count="multiple", elem_id="ecg")
                cxr = gr.File(label="Chest X-ray: PNG, JPEG or DICOM", elem_id="cxr")
                lab = gr.Textbox(
                    label="Labs: name,value or name,value,unit", placeholder=LAB_HINT, lines=6, elem_id="lab"
                )
                button = gr.Button("Diagnose", variant="primary", elem_id="run")
            with gr.Column():
                message = gr.Textbox(label="Message", interactive=False, elem_id="message")
                answer = gr.Textbox(label="Answer", interactive=False, lines=10, elem_id="answer")
        report = gr.HTML(elem_id="report")
        example.change(pick, example, [ecg, cxr, lab], show_progress="hidden")
        usable = gr.State(True)
        checked = button.click(
            check, [ecg, cxr, lab], [message, answer, report, usable], queue=False, api_name="check"
        )
        checked.success(run, [usable, ecg, cxr, lab], [message, answer, report], api_name="diagnose")
        gr.Markdown(f"**{RESEARCH_USE}**")
    return app.queue(max_size=MAX_WAITING, default_concurrency_limit=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_CHECKPOINT, help="checkpoint folder (default: the package's own)")
    parser.add_argument("--port", type=int, help="port to listen at (default: the first free one from 7860)")
    args = parser.parse_args()
    diagnose = load_pipeline(args.model)
    with tempfile.TemporaryDirectory() as folder:
        app = build_app(diagnose, draw_examples(Path(folder)), {"Model": Path(args.model).resolve().name})
        app.launch(server_port=args.port, max_file_size=f"{MAX_FILE_MB}mb", show_error=True)


if __name__ == "__main__":
    main()
