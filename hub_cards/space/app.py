# SPDX-License-Identifier: Apache-2.0
"""A Gradio app around the pipeline: an example patient or one's own files, the answer as it is written, the report."""

import argparse
import base64
import html
import io
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import TextIteratorStreamer

from medtvt_training.inference.load import load_pipeline
from modeling_medtvt import DEFAULT_CHECKPOINT, MedicalDiagnosisPipeline
from processing_medtvt import load_cxr, read_inputs, render_report
from processing_medtvt.plot_ecg_medtvt import plot_ecg
from processing_medtvt.report_medtvt import RESEARCH_USE


MAX_FILE_MB = 20
MAX_ECG_FILES = 3
MAX_LAB_CHARACTERS = 20_000
MAX_NEW_TOKENS = 512
MAX_QUESTION_CHARACTERS = 500
MAX_SAMPLES = 8
MAX_PICTURE_SIDE = 480
MAX_WAITING = 100
OWN_FILES = "Your own files"
EXAMPLES = ("Atrial Fibrillation", "Pneumonia", "Acute Renal Failure", None)
INPUT_ERRORS = (ValueError, TypeError, OSError, ImportError)
NOTHING = "Pick an example, or give at least one of ECG, X-ray and labs."
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
        raise ValueError(NOTHING)
    return inputs


def stream_answer(
    diagnose: MedicalDiagnosisPipeline, inputs: dict[str, str], max_new_tokens: int, samples: int = 1
) -> Iterator[tuple[str, dict | None]]:
    """The text so far, again and again, and the result of the pipeline with the last. Several answers come at once."""
    tokenizer: Any = diagnose.tokenizer
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    settings: dict[str, Any] = {"num_samples": samples} if samples > 1 else {"streamer": streamer}
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            outcome["result"] = diagnose(inputs, max_new_tokens=max_new_tokens, **settings)
        except Exception as error:
            outcome["error"] = error
        streamer.end()  # or the reader would wait for ever

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    text = ""
    for piece in streamer:
        text += piece
        if piece:
            yield text, None
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    yield outcome["result"]["generated_text"], outcome["result"]


def find_problems(
    diagnose: MedicalDiagnosisPipeline, ecg_files: Sequence[str] | None, cxr_file: str | None, lab_text: str | None
) -> dict[str, str]:
    """What is wrong with each input, by modality: for those who should not wait in a queue to learn it."""
    given: dict[str, tuple] = {}
    if ecg_files:
        given["ecg"] = (ecg_files, None, None)
    if cxr_file:
        given["cxr"] = (None, cxr_file, None)
    if lab_text and lab_text.strip():
        given["lab"] = (None, None, lab_text)
    problems = {}
    for modality, alone in given.items():
        with tempfile.TemporaryDirectory() as temporary:
            try:
                diagnose.preprocess({"index": None, "item": collect_inputs(*alone, Path(temporary))})
            except INPUT_ERRORS as error:
                problems[modality] = describe_error(error, temporary)
    return problems


def check_inputs(
    diagnose: MedicalDiagnosisPipeline,
    ecg_files: Sequence[str] | None,
    cxr_file: str | None,
    lab_text: str | None,
    question: str | None = None,
) -> tuple[str, str, str, str]:
    """A message, "" where all is well, and what is wrong with ECG, X-ray and labs."""
    problems = find_problems(diagnose, ecg_files, cxr_file, lab_text)
    message = next(iter(problems.values()), "")
    if not (ecg_files or cxr_file or (lab_text and lab_text.strip())):
        message = f"Not possible: {NOTHING}"
    elif question and len(question) > MAX_QUESTION_CHARACTERS:
        message = (
            f"Not possible: the question has {len(question)} characters; at most {MAX_QUESTION_CHARACTERS} are read."
        )
    return message, *(problems.get(modality, "") for modality in ("ecg", "cxr", "lab"))


def draw_pictures(
    diagnose: MedicalDiagnosisPipeline, ecg_files: Sequence[str] | None, cxr_file: str | None
) -> tuple[str, str]:
    """The ECG on its paper and the film, as HTML; "" for what is not there or cannot be read."""
    pictures = ["", ""]
    with tempfile.TemporaryDirectory() as temporary:
        if ecg_files:
            try:
                drawn = read_inputs(diagnose.processor, **collect_inputs(ecg_files, None, None, Path(temporary))).ecg
                if drawn is not None:
                    content = io.BytesIO()
                    plot_ecg(drawn.signal, drawn.leads, drawn.rate).savefig(content, format="png", dpi=90)
                    pictures[0] = show_picture(content.getvalue(), "png", "The ECG: 12 leads on paper")
            except INPUT_ERRORS:
                pass  # said beside the input
        if cxr_file:
            try:
                film: Image.Image = load_cxr(collect_inputs(None, cxr_file, None, Path(temporary))["cxr"])[0]
                film = film.convert("RGB")
                film.thumbnail((MAX_PICTURE_SIDE, MAX_PICTURE_SIDE))
                content = io.BytesIO()
                film.save(content, "JPEG", quality=88)
                pictures[1] = show_picture(content.getvalue(), "jpeg", "The chest X-ray")
            except INPUT_ERRORS:
                pass
    return pictures[0], pictures[1]


def show_picture(content: bytes, kind: str, alt: str) -> str:
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return f'<img src="{source}" alt="{alt}" style="max-width: 100%; background: #fff">'


def run_patient(
    diagnose: MedicalDiagnosisPipeline,
    about: dict[str, str],
    ecg_files: Sequence[str] | None,
    cxr_file: str | None,
    lab_text: str | None,
    question: str | None = None,
    samples: int = 1,
) -> Iterator[tuple[str, str, str]]:
    """Message, answer so far and report (HTML), again and again. What is wrong with the inputs becomes a message."""
    with tempfile.TemporaryDirectory() as temporary:
        try:
            inputs: dict[str, Any] = collect_inputs(ecg_files, cxr_file, lab_text, Path(temporary))
            asked = {"question": question.strip()} if question and question.strip() else {}
            result: Any = None
            yield f"Drawing {samples} answers ..." if samples > 1 else "Reading and writing ...", "", ""
            for text, result in stream_answer(diagnose, {**inputs, **asked}, MAX_NEW_TOKENS, samples):
                if result is None:
                    yield "Writing ...", text, ""
            report = render_report(result, diagnose.processor, **inputs, about={**about, **asked_row(asked)})
            yield f"Done. {RESEARCH_USE}", text, frame(report)
        except INPUT_ERRORS as error:
            yield describe_error(error, temporary), "", ""


def asked_row(asked: dict[str, str]) -> dict[str, str]:
    return {"Question": asked["question"]} if asked else {}


def describe_error(error: Exception, folder: str) -> str:
    """A message without the place on the server, which tells the user nothing."""
    return f"Not possible: {str(error).replace(folder + os.sep, '')}"


def frame(page: str) -> str:
    """A page inside a page: no scripts, and none of its styles reach the app."""
    page = page.replace('<a href="#', '<a href="about:srcdoc#')  # "#" alone would be one of the app's own places
    return (
        f'<iframe title="Report" sandbox="" srcdoc="{html.escape(page, quote=True)}" '
        'style="width: 100%; height: 90vh; border: 0"></iframe>'
    )


# The app


def build_app(diagnose: MedicalDiagnosisPipeline, examples: dict[str, dict], about: dict[str, str]) -> Any:
    """The `gradio.Blocks`: one patient at a time is answered, others wait in a queue."""
    import gradio as gr

    first = next(iter(examples), OWN_FILES)
    nothing = {"ecg": None, "cxr": None, "lab": ""}
    loaded = examples.get(first, nothing)
    pictures = draw_pictures(diagnose, loaded["ecg"], loaded["cxr"])

    def check(
        ecg_files: Sequence[str] | None, cxr_file: str | None, lab_text: str | None, question: str | None
    ) -> tuple:
        message, *notes = check_inputs(diagnose, ecg_files, cxr_file, lab_text, question)
        return message or "Waiting ...", "", "", not message, *notes

    def run(
        usable: bool,
        ecg_files: Sequence[str] | None,
        cxr_file: str | None,
        lab_text: str | None,
        question: str | None,
        samples: float,
    ) -> Iterator[tuple]:
        if usable:
            yield from run_patient(diagnose, about, ecg_files, cxr_file, lab_text, question, int(samples))
        else:
            yield gr.skip(), gr.skip(), gr.skip()

    def pick(title: str) -> tuple:
        example = examples.get(title, nothing)
        return example["ecg"], example["cxr"], example["lab"]

    def look(ecg_files: Sequence[str] | None, cxr_file: str | None, lab_text: str | None) -> tuple:
        return *draw_pictures(diagnose, ecg_files, cxr_file), *check_inputs(diagnose, ecg_files, cxr_file, lab_text)[
            1:
        ]

    with gr.Blocks(title="MedTVT-R1", analytics_enabled=False) as app:
        gr.Markdown(f"# MedTVT-R1\n**{RESEARCH_USE}** Do not upload data of real patients.")
        if diagnose.model.provenance.stage is None:
            gr.Markdown("The weights of this model are random and untrained: **its answers mean nothing.**")
        elif patients := diagnose.model.provenance.describe_patients():
            gr.Markdown(f"The weights were trained on {patients}: what they say of a real patient is not validated.")
        with gr.Row():
            example = gr.Dropdown(
                [*examples, OWN_FILES], value=first, label="Patient", min_width=320, elem_id="patient"
            )
            question = gr.Textbox(
                label="Question (optional)",
                placeholder="What is the rhythm?",
                lines=1,
                min_width=320,
                elem_id="question",
            )
        with gr.Row():
            samples = gr.Slider(
                1,
                MAX_SAMPLES,
                value=1,
                step=1,
                label="Answers to draw; with several, the report shows the share that names each disease",
                elem_id="samples",
            )
            button = gr.Button("Diagnose", variant="primary", elem_id="run")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                ecg = gr.File(
                    loaded["ecg"],
                    label="ECG: .hea with .dat or .mat",
                    file_count="multiple",
                    elem_id="ecg",
                    height=170,
                )
                ecg_note = gr.Markdown(elem_id="ecg-note")
                ecg_picture = gr.HTML(pictures[0], elem_id="ecg-picture")
                cxr = gr.File(loaded["cxr"], label="Chest X-ray: PNG, JPEG or DICOM", elem_id="cxr", height=120)
                cxr_note = gr.Markdown(elem_id="cxr-note")
                cxr_picture = gr.HTML(pictures[1], elem_id="cxr-picture")
                lab = gr.Textbox(
                    loaded["lab"],
                    label="Labs: name,value or name,value,unit",
                    placeholder=LAB_HINT,
                    lines=6,
                    max_lines=10,
                    elem_id="lab",
                )
                lab_note = gr.Markdown(elem_id="lab-note")
            with gr.Column(scale=3, min_width=320):
                message = gr.Textbox(label="Message", interactive=False, elem_id="message")
                answer = gr.Textbox(
                    label="Answer, as the model writes it", interactive=False, lines=6, elem_id="answer"
                )
                report = gr.HTML(elem_id="report")
        usable = gr.State(True)
        inputs, notes, shown = [ecg, cxr, lab], [ecg_note, cxr_note, lab_note], [message, answer, report]
        checked = button.click(check, [*inputs, question], [*shown, usable, *notes], queue=False, api_name="check")
        answered = checked.success(run, [usable, *inputs, question, samples], shown, api_name="diagnose")
        # on a phone the answer stands below the inputs
        button.click(None, js="() => { if (innerWidth < 768) document.getElementById('message').scrollIntoView() }")
        example.change(pick, example, inputs, show_progress="hidden", api_visibility="private")
        # an answer never stands beside another patient than its own
        changed = [example.change, ecg.change, cxr.change, lab.change, question.change, samples.change]
        gr.on(
            changed,
            lambda: ("", "", ""),
            None,
            shown,
            queue=False,
            cancels=[answered],
            show_progress="hidden",
            api_visibility="private",
        )
        gr.on(
            [ecg.change, cxr.change, lab.blur],
            look,
            inputs,
            [ecg_picture, cxr_picture, *notes],
            show_progress="hidden",
            api_visibility="private",
        )
        gr.Markdown(
            f"**{RESEARCH_USE}** The paper: [arXiv 2506.18512](https://arxiv.org/abs/2506.18512). In the report, a link of the "
            "evidence leads to where it was measured."
        )
    return app.queue(max_size=MAX_WAITING, default_concurrency_limit=1)


def launch(app: Any, **settings: Any) -> Any:
    """`gradio.Blocks.launch`, so that nothing of a patient is kept in the browser, and all can be read."""
    import gradio as gr

    return app.launch(
        max_file_size=f"{MAX_FILE_MB}mb",
        show_error=True,
        run_history=False,
        footer_links=[],
        theme=gr.themes.Default(primary_hue="blue"),
        **settings,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_CHECKPOINT, help="checkpoint folder (default: the package's own)")
    parser.add_argument("--port", type=int, help="port to listen at (default: the first free one from 7860)")
    args = parser.parse_args()
    diagnose = load_pipeline(args.model)
    with tempfile.TemporaryDirectory() as folder:
        app = build_app(diagnose, draw_examples(Path(folder)), {"Model": Path(args.model).resolve().name})
        launch(app, server_port=args.port)


if __name__ == "__main__":
    main()
