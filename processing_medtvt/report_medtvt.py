# SPDX-License-Identifier: Apache-2.0
"""A result of the pipeline as one self-contained HTML page, with what the model was given drawn beside what it said."""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from .feature_extraction_medtvt_ecg import read_item, select_leads
from .lab_definitions_medtvt import flag_value, reference_range
from .patient_medtvt import Patient, check_patient, merge_patients
from .plot_ecg_medtvt import BOTTOM, LAYOUT, MM_PER_SECOND, RHYTHM_LEAD, ROW_HEIGHT, SECONDS, plot_ecg
from .read_cxr_medtvt import load_cxr


RESEARCH_USE = "Research use only: not a medical device, not for the care of patients."
MODALITY_NAMES = {"ecg": "ECG", "cxr": "X-ray", "lab": "Labs"}
# of the original; the model's own picture is far smaller
MAX_PICTURE_SIDE = 640
MAX_DRAWN_RATE = 500  # Hz
MAX_LABS_IN_FIGURE = 16
# Okabe and Ito's, which the color-blind can tell apart
SUPPORTS, OPPOSES = (213, 94, 0), (0, 114, 178)

# What the pipeline's result must hold for a report
RESULT_KEYS = {
    *("diseases", "reasoning", "evidence", "unmentioned", "contributions", "influence", "patient", "warnings"),
    "generated_text",
}


class LabRow(NamedTuple):
    """A measured lab: `value` is None where its percentile was given; `flag` is "low", "normal", "high" or None (unknown)."""

    name: str
    value: float | None
    unit: str
    reference: str
    flag: str | None
    percentile: float


class DrawnInputs(NamedTuple):
    """
    Args:
        ecg (`tuple`, *optional*): (leads, samples) in mV with NaN where nothing was recorded, lead names, rate in Hz.
        cxr (`tuple`, *optional*): the original and what the model saw, as RGB pictures.
        lab (`list[LabRow]`, *optional*): labs with a value, and `absent` the names of the others.
    """

    ecg: tuple[np.ndarray, list[str], float] | None
    cxr: tuple[Image.Image, Image.Image] | None
    lab: list[LabRow] | None
    absent: list[str]


def read_inputs(
    processor: Any,
    ecg: Any = None,
    cxr: Any = None,
    lab: Any = None,
    sampling_rate: float | None = None,
    leads: Sequence[str] | None = None,
    unit: str | None = None,
    patient: Patient | None = None,
) -> DrawnInputs:
    """
    Reads a patient's inputs once more, for the eye.

    Args:
        processor ([`MedTVTProcessor`]): The one that prepared them for the model.
        ecg, cxr, lab, sampling_rate, leads, unit (*optional*): One input each, as the processor takes it.
        patient ([`Patient`], *optional*): `age` and `sex`, which choose the reference ranges of the labs; they come before
            what a file states.

    Raises:
        ValueError: as the processor does.
    """
    drawn_ecg = None if ecg is None else _read_ecg(processor.ecg_feature_extractor, ecg, sampling_rate, leads, unit)
    rows, absent = (None, []) if lab is None else _read_labs(processor.lab_feature_extractor, lab, patient)
    pictures = None
    if cxr is not None:
        original = load_cxr(cxr)[0].convert("RGB")
        pixels = processor.image_processor([original], return_tensors="np")["pixel_values"][0]
        pictures = (original, _as_picture(pixels, processor.image_processor))
    return DrawnInputs(drawn_ecg, pictures, rows, absent)


def _read_ecg(
    extractor: Any, ecg: Any, sampling_rate: float | None, leads: Sequence[str] | None, unit: str | None
) -> tuple[np.ndarray, list[str], float]:
    """The recording, at its own rate up to that of the page, with holes where the extractor fills gaps for the model."""
    recording = read_item(ecg, "ecg", sampling_rate, leads, unit)
    rate = min(float(recording.sampling_rate), MAX_DRAWN_RATE)
    as_recorded = type(extractor)(
        leads=extractor.leads,
        sampling_rate=rate,
        duration=extractor.duration,
        nan_policy=extractor.nan_policy,
        max_dead_leads=extractor.max_dead_leads,
    )
    stated = {"sampling_rate": recording.sampling_rate, "leads": recording.leads, "unit": recording.units}
    signal = as_recorded(recording.signal, **stated)["ecg_values"][0]
    source = np.rint(np.arange(signal.shape[1]) * float(recording.sampling_rate) / rate).astype(int)
    source = source[source < recording.signal.shape[1]]
    signal[:, len(source) :] = np.nan
    for lead, values in select_leads(recording, extractor.leads, []).items():
        # a lead without any sample is derived from others, or drawn as the zeros that the model got
        if lead in extractor.leads and not np.isnan(values[source]).all():
            signal[extractor.leads.index(lead), : len(source)][np.isnan(values[source])] = np.nan
    return signal, extractor.leads, rate


def _as_picture(pixels: np.ndarray, image_processor: Any) -> Image.Image:
    """(3, height, width) of the model's input back to a picture."""
    mean, std = (np.asarray(getattr(image_processor, f"image_{name}"))[:, None, None] for name in ("mean", "std"))
    values = pixels * std + mean if image_processor.do_normalize else pixels
    values = values * 255 if image_processor.do_rescale else values
    return Image.fromarray(np.rint(np.clip(values, 0, 255)).astype(np.uint8).transpose(1, 2, 0))


def _read_labs(extractor: Any, lab: Any, patient: Patient | None) -> tuple[list[LabRow], list[str]]:
    readings = extractor.read(lab)
    values = readings.measured
    patient, _ = merge_patients(check_patient(patient), readings.patients[0])
    numbers = extractor(lab)["lab_values"][0]
    percentiles, present = np.split(numbers, 2)
    rows, absent = [], []
    for definition, value, percentile, is_present in zip(extractor.labs, values[0], percentiles, present):
        if not is_present:
            absent.append(definition["name"])
            continue
        low, high = reference_range(definition, patient)
        measured = None if np.isnan(value) else float(value)
        rows.append(
            LabRow(
                name=definition["name"],
                value=measured,
                unit=definition.get("unit") or "",
                reference="" if low is None else f"{low:g} to {high:g}",
                flag=flag_value(measured, low, high),
                percentile=float(percentile),
            )
        )
    return rows, absent


# Figures


def render_figure(inputs: DrawnInputs, title: str = RESEARCH_USE) -> Any:
    """
    The inputs on one sheet: the ECG on its paper, the X-ray and what the model saw of it, the labs that lie farthest
    from the middle of their distribution.

    Args:
        inputs (`DrawnInputs`): From [`read_inputs`].
        title (`str`): Stands above.

    Returns:
        `matplotlib.figure.Figure`: to save with `figure.savefig(file, dpi=...)`.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Drawing the inputs requires matplotlib: `pip install matplotlib`.") from error
    has_bottom = inputs.cxr is not None or inputs.lab is not None
    heights = [5.3] * (inputs.ecg is not None) + [3.6] * has_bottom
    figure = Figure(figsize=(10.6, sum(heights) + 0.5), facecolor="white", layout="constrained")
    figure.suptitle(title, fontsize=10, parse_math=False)
    grid = figure.add_gridspec(max(1, len(heights)), 1, height_ratios=heights or [1])
    if inputs.ecg is not None:
        signal, leads, rate = inputs.ecg
        plot_ecg(signal, leads, rate, ax=figure.add_subplot(grid[0]))
    if has_bottom:
        bottom = grid[len(heights) - 1].subgridspec(1, 3, width_ratios=(1, 1, 1.2))
        for column, (picture, name) in enumerate(
            zip(inputs.cxr or (), ("X-ray, original", "X-ray, as the model saw it"))
        ):
            axes = figure.add_subplot(bottom[column])
            axes.imshow(np.asarray(picture))
            axes.set_title(name, fontsize=9)
            axes.axis("off")
        if inputs.lab is not None:
            _draw_percentiles(figure.add_subplot(bottom[2]), inputs.lab)
    return figure


def _draw_percentiles(axes: Any, rows: Sequence[LabRow]) -> None:
    chosen = sorted(rows, key=lambda row: -abs(row.percentile - 0.5))[:MAX_LABS_IN_FIGURE][::-1]
    for y, row in enumerate(chosen):
        colour = np.array(SUPPORTS if row.flag in ("low", "high") else OPPOSES) / 255
        axes.plot([0.5, row.percentile], [y, y], color=colour, linewidth=1)
        axes.plot([row.percentile], [y], "o", color=colour, markersize=4)
    axes.axvline(0.5, color="#999999", linewidth=0.6)
    axes.set_yticks(range(len(chosen)), [row.name for row in chosen], fontsize=7, parse_math=False)
    axes.set(xlim=(-0.03, 1.03))
    axes.tick_params(axis="x", labelsize=7)
    axes.set_title("Labs farthest from the middle, percentile", fontsize=9)


def _draw_ecg(ecg: tuple[np.ndarray, list[str], float], change: Any = None) -> str:
    """The page as an SVG picture; `change` (leads, stretches) colours the stretches."""
    import matplotlib

    signal, leads, rate = ecg
    figure = plot_ecg(signal, leads, rate)
    if change is not None:
        _colour_stretches(figure.axes[0], leads, np.asarray(change))
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "medtvt"}):  # the same page every time
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _data_uri("svg+xml", buffer.getvalue())


def _colour_stretches(axes: Any, leads: list[str], change: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    _, stretches = change.shape
    largest = np.abs(change).max() or 1
    for row, names in enumerate([*LAYOUT, (RHYTHM_LEAD,)]):
        bottom = BOTTOM + (len(LAYOUT) - row) * ROW_HEIGHT
        shown = SECONDS / len(names)
        for column, name in enumerate(names):
            for i, value in enumerate(change[leads.index(name)]):
                start = max(i * SECONDS / stretches, column * shown)
                end = min((i + 1) * SECONDS / stretches, (column + 1) * shown)
                share = abs(value) / largest
                if end > start and share > 0.05:
                    colour = (*(np.array(SUPPORTS if value > 0 else OPPOSES) / 255), 0.6 * share)
                    corner, width = (start * MM_PER_SECOND, bottom + 2), (end - start) * MM_PER_SECOND
                    axes.add_patch(Rectangle(corner, width, ROW_HEIGHT - 4, color=colour, linewidth=0, zorder=0.5))


def _colour_regions(picture: Image.Image, change: Any) -> Image.Image:
    """The picture with (rows, columns) laid over it, stretched to its size."""
    change = np.asarray(change, dtype=np.float32)
    heat = np.asarray(Image.fromarray(change).resize(picture.size, Image.Resampling.BILINEAR))
    share = 0.6 * np.clip(np.abs(heat) / (np.abs(change).max() or 1), 0, 1)[..., None]
    colour = np.where(heat[..., None] > 0, SUPPORTS, OPPOSES)
    return Image.fromarray(np.rint(np.asarray(picture) * (1 - share) + colour * share).astype(np.uint8))


def _picture_uri(picture: Image.Image) -> str:
    picture = picture.copy()
    picture.thumbnail((MAX_PICTURE_SIDE, MAX_PICTURE_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return _data_uri("jpeg", buffer.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


# Text


def describe_patient(patient: Mapping[str, Any] | None) -> str:
    """Age and sex in words."""
    age, sex = (patient or {}).get("age"), (patient or {}).get("sex")
    age = "age not known" if age is None else f"{age:g} years"
    return f"{age}, {'sex not known' if sex is None else {'F': 'female', 'M': 'male'}[sex]}"


def _escape(value: Any) -> str:
    return html.escape(str(value), quote=True)


def _table(header: Sequence[str], rows: Iterable[Iterable[str]], numeric: Sequence[int] = ()) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f"<th scope=col>{cell}</th>" for cell in header)
    body = ""
    for row in rows:
        cells = [f"<td class=n>{cell}</td>" if i in numeric else f"<td>{cell}</td>" for i, cell in enumerate(row)]
        body += f"<tr>{''.join(cells)}</tr>\n"
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>"


def _bar(share: float) -> str:
    return f'<span class=bar><span style="width:{100 * min(max(share, 0), 1):.0f}%"></span></span>'


def _figure(uri: str, caption: str, kind: str = "") -> str:
    return f'<figure class="{kind}"><img src="{uri}" alt="{_escape(caption)}"><figcaption>{_escape(caption)}</figcaption></figure>'


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{_escape(title)}</h2>\n" + "\n".join(parts) + "</section>"


def _diseases(diseases: Sequence[Mapping[str, Any]]) -> str:
    """Columns that say nothing of this patient are left out."""
    with_probability = any(disease["probability"] is not None for disease in diseases)
    with_score = any(disease["score"] is not None for disease in diseases)
    header = ["Disease", "Named", "Supported findings"]
    header += ["Probability"] * with_probability + ["Share of drawn answers"] * with_score
    rows = []
    for disease in diseases:
        named = "<b>yes</b>" if disease["named"] else "no"
        row = [_escape(disease["label"]), f"{named}, undecided" if disease.get("undecided") else named]
        row.append(str(disease["evidence"]) if disease["evidence"] else "none" if disease["named"] else "")
        for key, shown in (("probability", with_probability), ("score", with_score)):
            value = disease[key]
            if shown:
                row.append("" if value is None else f"{_bar(value)} {value:.0%}")
        rows.append(row)
    return _table(header, rows)


def _reasoning(result: Mapping[str, Any]) -> str:
    """The statements with their verdicts; the text as it is where none was read."""
    if not result["reasoning"]:
        return "<p>The model gave no reasoning that could be read; what it wrote stands below.</p>"
    parts = []
    for statement in result["evidence"]:
        modality, status = statement["modality"], statement["status"]
        name = "" if modality is None else f'<span class="mark {modality}">{MODALITY_NAMES[modality]}</span>'
        verdict = f'<span class="mark {status.replace(" ", "-")}">{status}</span>'
        said = _escape(f"{'not: ' if statement['negated'] else ''}{statement['text']}")
        concluded = f", for {_escape(statement['conclusion'])}" if statement["conclusion"] else ""
        measured = f"<br><span class=small>{_escape(statement['measured'])}</span>"
        parts.append(f'<li class="{modality or "none"}">{name}{verdict}{said}{concluded}{measured}</li>')
    if not parts:
        return f"<p>{_escape(result['reasoning'])}</p>"
    note = (
        "<p class=small>Each statement is held against what a program measures in the labs and the ECG. What is near a "
        "limit, and everything about a film, is not checkable.</p>"
    )
    return f"<ul class=reasoning>{''.join(parts)}</ul>{note}"


def _unmentioned(entries: Sequence[Mapping[str, str]]) -> str:
    items = []
    for entry in entries:
        finding = f"{entry['finding'].split(': ', 1)[1]}: " if entry["modality"] == "ecg" else ""
        mark = f'<span class="mark {entry["modality"]}">{MODALITY_NAMES[entry["modality"]]}</span>'
        items.append(f"<li>{mark}{_escape(finding + entry['measured'])}</li>")
    return f"<ul class=reasoning>{''.join(items) or '<li>none</li>'}</ul>"


def _influence(influence: Mapping[str, Mapping[str, float]]) -> str:
    modalities = list(next(iter(influence.values())))
    rows = [(_escape(disease), *(f"{of[m]:+.2f}" for m in modalities)) for disease, of in influence.items()]
    note = (
        "<p class=small>How much lower the probability of the answer slot is when the patient is answered again without this "
        "input.</p>"
    )
    return _table(("Disease", *(MODALITY_NAMES[m] for m in modalities)), rows, range(1, len(modalities) + 1)) + note


def _contributions(contributions: Mapping[str, float | None]) -> str:
    rows = [
        (MODALITY_NAMES[name], "not given" if value is None else f"{_bar(value)} {value:.2f}")
        for name, value in contributions.items()
    ]
    known = [value for value in contributions.values() if value is not None]
    note = "<p class=small>Scores of the perception layer's gate, 0 to 1, averaged over its channels. They are no shares and no proof."
    note += " All are near 1: the gate is saturated and ranks nothing.</p>" if known and min(known) > 0.99 else "</p>"
    return _table(("Modality", "Gate score"), rows) + note


def _labs(labs: Sequence[LabRow], absent: Sequence[str], table_source: str | None) -> str:
    flags = {"high": "&#9650; high", "low": "&#9660; low", "normal": "in range", None: "&ndash;"}
    rows = []
    for row in labs:
        value = "percentile given" if row.value is None else f"{row.value:g} {_escape(row.unit)}"
        flag = flags[row.flag] if row.flag in ("normal", None) else f"<b class={row.flag}>{flags[row.flag]}</b>"
        percentile = f"{_bar(row.percentile)} {row.percentile:.3f}"
        rows.append((_escape(row.name), value, _escape(row.reference) or "none", flag, percentile))
    not_measured = f"<p class=small>Not measured, mean percentile used: {_escape(', '.join(absent))}.</p>"
    return (
        _table(("Lab", "Value", "Reference", "Flag", "Percentile"), rows, numeric=(1, 2))
        + f"<p class=small>Percentiles: {_escape(table_source or 'of a fitted table')}.</p>"
        + not_measured * bool(absent)
    )


def _occlusion(occlusion: Mapping[str, Any], inputs: DrawnInputs) -> list[str]:
    parts = [
        f"<p>What changes the log-probability of <b>{_escape(occlusion['disease'])}</b> in this answer when it is taken "
        "away. <span class='mark supports'>orange</span> speaks for the disease, <span class='mark opposes'>blue</span> "
        "against it; the strongest of each picture has full colour. This shows what the model used, which need not be "
        "what is medically right.</p>"
    ]
    largest = {
        name: float(np.abs(occlusion[name]).max()) for name in ("ecg", "cxr") if occlusion.get(name) is not None
    }
    if "ecg" in largest and inputs.ecg is not None:
        caption = (
            f"ECG, each stretch of each lead replaced by a straight line. Full colour: {largest['ecg']:.2g} nats."
        )
        parts.append(_figure(_draw_ecg(inputs.ecg, occlusion["ecg"]), caption, "paper"))
    if "cxr" in largest and inputs.cxr is not None:
        caption = f"X-ray as the model saw it, each region made grey. Full colour: {largest['cxr']:.2g} nats."
        parts.append(_figure(_picture_uri(_colour_regions(inputs.cxr[1], occlusion["cxr"])), caption))
    if occlusion.get("lab"):
        changes = sorted(occlusion["lab"].items(), key=lambda item: -abs(item[1]))[:10]
        rows = [(_escape(name), "for" if value > 0 else "against", f"{value:+.3f}") for name, value in changes]
        parts.append(_table(("Lab taken away", "Speaks", "Change (nats)"), rows, numeric=(2,)))
    return parts


def _versions() -> dict[str, str]:
    found = {}
    for package in ("medtvt-r1", "transformers", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def render_report(
    result: Mapping,
    processor: Any,
    ecg: Any = None,
    cxr: Any = None,
    lab: Any = None,
    sampling_rate: float | None = None,
    leads: Sequence[str] | None = None,
    unit: str | None = None,
    about: Mapping[str, str] | None = None,
    occlusion: Mapping | None = None,
) -> str:
    """
    One page of HTML with everything in it: no script, and nothing that is loaded from elsewhere. On landscape A4 the ECG
    prints at its true size, 25 mm/s and 10 mm/mV.

    Args:
        result (`dict`): One result of the pipeline. Its `patient` chooses the reference ranges that labs are held against.
        processor ([`MedTVTProcessor`]): The pipeline's, which reads the inputs again.
        ecg, cxr, lab, sampling_rate, leads, unit (*optional*): The inputs of that result.
        about (`dict[str, str]`, *optional*): What else to say of the model, such as its name; versions are added.
        occlusion (`dict`, *optional*): How much the score of `disease` falls where a part is taken away: `ecg` (leads,
            stretches), `cxr` (rows, columns), `lab` (by name), each None where it was not asked for.

    Raises:
        ValueError: if an input cannot be read, or `result` is none of the pipeline.
        ImportError: if matplotlib is missing and there is an ECG.
    """
    missing = RESULT_KEYS - set(result)
    if missing:
        raise ValueError(f"`result` must be one result of the pipeline; it has no {', '.join(sorted(missing))}.")
    inputs = read_inputs(processor, ecg, cxr, lab, sampling_rate, leads, unit, result.get("patient"))
    extractor = processor.lab_feature_extractor
    named = [disease["label"] for disease in result["diseases"] if disease["named"]]
    summary = f"Named: {', '.join(named)}." if named else "None of the seven diseases is named."
    patient = describe_patient(result.get("patient"))
    limits = [warning for warning in result["warnings"] if warning.startswith("model:")]
    others = [warning for warning in result["warnings"] if warning not in limits]
    sections = [f"<p class=limits>{_escape(limit)}</p>" for limit in limits]
    sections += [f"<p class=lead>{_escape(summary)}</p>", f"<p>Patient: {_escape(patient)}.</p>"]
    sections.append(_section("Diseases", _diseases(result["diseases"])))
    sections.append(_section("Reasoning", _reasoning(result)))
    sections.append(_section("Abnormal measurements that it leaves out", _unmentioned(result["unmentioned"])))
    if result["influence"]:
        sections.append(_section("Influence of the modalities", _influence(result["influence"])))
    if inputs.ecg is not None:
        caption = "ECG as recorded, 25 mm/s, 10 mm/mV. Holes are gaps of the recording."
        sections.append(_section("ECG", _figure(_draw_ecg(inputs.ecg), caption, "paper")))
    if inputs.cxr is not None:
        original, seen = inputs.cxr
        pair = _figure(_picture_uri(original), f"Original, {original.width} x {original.height} pixels")
        pair += _figure(_picture_uri(seen), f"As the model saw it, {seen.width} x {seen.height} pixels")
        sections.append(_section("Chest X-ray", f"<div class=pair>{pair}</div>"))
    if inputs.lab is not None:
        sections.append(_section("Labs", _labs(inputs.lab, inputs.absent, extractor.table_source)))
    if occlusion is not None:
        sections.append(_section(f"Occlusion: {occlusion['disease']}", *_occlusion(occlusion, inputs)))
    sections.append(_section("Contributions of the modalities", _contributions(result["contributions"])))
    items = "".join(f"<li>{_escape(warning)}</li>" for warning in others) or "<li>nothing</li>"
    sections.append(_section("Altered, imputed or in doubt", f"<ul>{items}</ul>"))
    sections.append(_section("Generated text", f"<pre>{_escape(result['generated_text']) or '(empty)'}</pre>"))
    facts = {**(about or {}), **_versions()}
    sections.append(_section("Model and versions", _table(("", ""), [map(_escape, fact) for fact in facts.items()])))
    return PAGE.format(style=STYLE, notice=RESEARCH_USE, body="\n".join(sections))


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>MedTVT-R1 report</title>
<style>{style}</style>
</head>
<body>
<p class=notice role=note>{notice}</p>
<main>
<h1>MedTVT-R1 report</h1>
{body}
</main>
<p class=notice role=note>{notice}</p>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1f; --page: #ffffff; --soft: #5c5c66; --line: #d8d8de; --fill: #f3f3f6;
  --ecg: #0072b2; --cxr: #b36b00; --lab: #00765a; --warn: #a33c00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8ec; --page: #17171b; --soft: #a5a5b0; --line: #3a3a44;
  --fill: #222229; --ecg: #5db7ea; --cxr: #f0b24a; --lab: #4fd0ac; --warn: #ff9d66; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 280mm; margin: 0 auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.notice { margin: 0; padding: .6rem 1rem; background: var(--fill); color: var(--warn); font-weight: 600;
  text-align: center; border-block: 1px solid var(--line); }
.lead { font-size: 1.15rem; } .small, figcaption { font-size: .85rem; color: var(--soft); }
.wide, figure.paper { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td { overflow-wrap: break-word; max-width: 40rem; } td.n { text-align: right; white-space: nowrap; }
th:empty { display: none; }
b.high, b.low { color: var(--warn); }
.bar { display: inline-block; width: 5rem; height: .6rem; background: var(--fill); border: 1px solid var(--line); }
.bar span { display: block; height: 100%; background: var(--ecg); }
figure { margin: .5rem 0; } figure img { display: block; max-width: 100%; background: #fff; }
figure.paper img { width: 270mm; min-width: 42rem; }
.pair { display: flex; flex-wrap: wrap; gap: 1rem; } .pair figure { flex: 1 1 16rem; max-width: 26rem; }
.pair img { width: 100%; }
.reasoning { list-style: none; padding: 0; } .reasoning li { padding: .2rem .7rem; margin: .3rem 0;
  border-left: .3rem solid var(--line); overflow-wrap: anywhere; }
.reasoning li.ecg { border-color: var(--ecg); } .reasoning li.cxr { border-color: var(--cxr); }
.reasoning li.lab { border-color: var(--lab); }
.mark { font-size: .75rem; font-weight: 600; border: 1px solid; border-radius: .3rem; padding: 0 .35rem;
  margin-right: .45rem; white-space: nowrap; }
.mark.ecg { color: var(--ecg); } .mark.cxr { color: var(--cxr); } .mark.lab { color: var(--lab); }
.mark.supported { color: var(--lab); } .mark.contradicted { color: var(--warn); } .limits { color: var(--warn); }
.mark.not-measured, .mark.not-checkable { color: var(--soft); }
.mark.supports { color: var(--cxr); margin: 0; } .mark.opposes { color: var(--ecg); margin: 0; }
@media (max-width: 40rem) { th, td { font-size: .85rem; padding-right: .5rem; } td .bar { display: none; } }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--fill); padding: .75rem; }
@media print { :root { --ink: #000; --page: #fff; --soft: #444; --line: #bbb; --fill: #f3f3f6; --ecg: #0072b2;
  --cxr: #8a5300; --lab: #00765a; --warn: #a33c00; color-scheme: light; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  @page { size: A4 landscape; margin: 10mm; }
  main { max-width: none; padding: 0; } figure, tr, li { break-inside: avoid; } h2 { break-after: avoid; }
  .wide, figure.paper { overflow: visible; } figure.paper img { width: 270mm; max-width: none; } }
"""


__all__ = ["DrawnInputs", "read_inputs", "render_figure", "render_report"]
