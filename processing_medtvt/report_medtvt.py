# SPDX-License-Identifier: Apache-2.0
"""A result of the pipeline as one self-contained HTML page, with what the model was given drawn beside what it said."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from .report_ecg_medtvt import FULL_COLOR, EcgPage, Rectangle, color_stretches, lay_out, mark_places
from .report_inputs_medtvt import DrawnInputs, LabRow, read_inputs
from .report_places_medtvt import RHYTHM, EcgPlace, find_ecg_place, find_labs


RESEARCH_USE = "Research use only: not a medical device, not for the care of patients."
MODALITY_NAMES = {"ecg": "ECG", "cxr": "X-ray", "lab": "Labs"}
# of the original; the model's own picture is far smaller
MAX_PICTURE_SIDE = 640
MAX_OCCLUDED_LABS = 10
# Okabe and Ito's, which the color-blind can tell apart
SUPPORTS, OPPOSES = (213, 94, 0), (0, 114, 178)
STATUS_SIGNS = {"supported": "✓", "contradicted": "✗", "not measured": "?", "not checkable": "–"}

# What the pipeline's result must hold for a report
RESULT_KEYS = {
    *("diseases", "reasoning", "evidence", "unmentioned", "contributions", "influence", "patient", "warnings"),
    "generated_text",
}


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
    prints at its true size, 25 mm/s, with the gain that is written on it.

    Args:
        result (`dict`): One result of the pipeline. Its `patient` chooses the reference ranges that labs are held against.
        processor ([`MedTVTProcessor`]): The pipeline's, which reads the inputs again.
        ecg, cxr, lab, sampling_rate, leads, unit (*optional*): The inputs of that result.
        about (`dict[str, str]`, *optional*): What else to say of the model, such as its name; versions are added.
        occlusion (`dict`, *optional*): How much the score of `disease` falls where a part is taken away: `ecg` (leads,
            stretches), `cxr` (rows, columns), `lab` (by name), each None where it was not asked for; and `noise`, by
            modality, what no change means that is no larger.

    Raises:
        ValueError: if an input cannot be read, or `result` is none of the pipeline.
    """
    missing = RESULT_KEYS - set(result)
    if missing:
        raise ValueError(f"`result` must be one result of the pipeline; it has no {', '.join(sorted(missing))}.")
    inputs = read_inputs(processor, ecg, cxr, lab, sampling_rate, leads, unit, result.get("patient"))
    pages = [] if inputs.ecg is None else lay_out(inputs.ecg)
    labs = sorted(inputs.lab or [], key=lambda row: (-row.distance, row.flag is None, -abs(row.percentile - 0.5)))
    entries = [*result["evidence"], *result["unmentioned"]]
    places = [_find_place(entry, f"at-{i}", inputs, pages, labs) for i, entry in enumerate(entries)]
    number = len(result["evidence"])
    return _template().render(
        notice=RESEARCH_USE,
        result=result,
        named=[disease["label"] for disease in result["diseases"] if disease["named"]],
        patient=describe_patient(result.get("patient")),
        limits=[warning for warning in result["warnings"] if warning.startswith("model:")],
        others=[warning for warning in result["warnings"] if not warning.startswith("model:")],
        tally=_tally(result["evidence"]),
        groups=_group(list(zip(result["evidence"], places[:number]))),
        left_out=list(zip(result["unmentioned"], places[number:])),
        intervals=[row for row in result.get("measurements") or [] if row["modality"] == "ecg"],
        pages=pages,
        marks={page.name: list(_marks(entries, page, inputs)) for page in pages},
        cxr=None if inputs.cxr is None else [{"picture": _picture_uri(p), "size": p.size} for p in inputs.cxr],
        labs=labs,
        has_labs=inputs.lab is not None,
        absent=inputs.absent,
        table_source=processor.lab_feature_extractor.table_source,
        occlusion=None if occlusion is None else _occlusion(occlusion, inputs, pages),
        facts={**(about or {}), **_versions()},
        modality_names=MODALITY_NAMES,
        signs=STATUS_SIGNS,
        lab_ids={row.name: f"lab-{i}" for i, row in enumerate(labs)},
    )


@cache
def _template() -> Any:
    loader = PackageLoader(__name__.rpartition(".")[0], "templates")
    environment = Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html.jinja")


def describe_patient(patient: Mapping[str, Any] | None) -> str:
    """Age and sex in words."""
    age, sex = (patient or {}).get("age"), (patient or {}).get("sex")
    age = "age not known" if age is None else f"{age:g} years"
    return f"{age}, {'sex not known' if sex is None else {'F': 'female', 'M': 'male'}[sex]}"


def _tally(evidence: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """How many statements have each status; what is supported and contradicted is said even where it is none."""
    numbers = [(status, sum(entry["status"] == status for entry in evidence)) for status in STATUS_SIGNS]
    return [(status, number) for status, number in numbers if number or status in ("supported", "contradicted")]


def _group(statements: list[tuple[Mapping[str, Any], list]]) -> list[tuple[str, list]]:
    """Statements with their links, by modality; those of none last."""
    names: list[tuple[str | None, str]] = [*MODALITY_NAMES.items(), (None, "Other")]
    found = {name: [pair for pair in statements if pair[0]["modality"] == key] for key, name in names}
    return [(name, of_modality) for name, of_modality in found.items() if of_modality]


def _find_place(
    entry: Mapping[str, Any], anchor: str, inputs: DrawnInputs, pages: Sequence[EcgPage], labs: Sequence[LabRow]
) -> list[dict[str, str]]:
    """Links to where it was measured: `href` and `text`."""
    place = find_ecg_place(entry)
    if place is not None:
        links = []
        for page in pages:
            leads = [strip.lead for strip in page.strips if strip.lead in place.leads]
            if leads:
                links.append({"href": f"#{anchor}-{page.name}", "text": f"{_part(place)} in {', '.join(leads)}"})
        return links
    names = [row.name for row in labs]
    return [{"href": f"#lab-{names.index(name)}", "text": name} for name in find_labs(entry, names)]


def _part(place: EcgPlace) -> str:
    return "rhythm" if place.part == RHYTHM else place.part


def _marks(
    entries: Sequence[Mapping[str, Any]], page: EcgPage, inputs: DrawnInputs
) -> Iterator[tuple[str, list[Rectangle]]]:
    """Anchors with what they cover."""
    for i, entry in enumerate(entries):
        place = find_ecg_place(entry)
        if place is not None and inputs.ecg is not None:
            rectangles = mark_places(page, inputs.ecg, place)
            if rectangles:
                yield f"at-{i}-{page.name}", rectangles


def _occlusion(occlusion: Mapping[str, Any], inputs: DrawnInputs, pages: Sequence[EcgPage]) -> dict[str, Any]:
    largest = {
        name: float(np.abs(occlusion[name]).max()) for name in ("ecg", "cxr") if occlusion.get(name) is not None
    }
    drawn: dict[str, Any] = {"disease": occlusion["disease"], "full": FULL_COLOR, "largest": largest}
    drawn["noise"] = occlusion.get("noise") or {}
    if "ecg" in largest and inputs.ecg is not None:
        drawn["ecg"] = [(page, color_stretches(page, inputs.ecg.leads, occlusion["ecg"])) for page in pages]
    if "cxr" in largest and inputs.cxr is not None:
        drawn["cxr"] = _picture_uri(_color_regions(inputs.cxr[1], occlusion["cxr"]))
    if occlusion.get("lab"):
        drawn["lab"] = sorted(occlusion["lab"].items(), key=lambda item: -abs(item[1]))[:MAX_OCCLUDED_LABS]
    return drawn


def _color_regions(picture: Image.Image, change: Any) -> Image.Image:
    """The picture with (rows, columns) laid over it, stretched to its size."""
    change = np.asarray(change, dtype=np.float32)
    heat = np.asarray(Image.fromarray(change).resize(picture.size, Image.Resampling.BILINEAR))
    share = 0.6 * np.clip(np.abs(heat) / FULL_COLOR, 0, 1)[..., None]
    color = np.where(heat[..., None] > 0, SUPPORTS, OPPOSES)
    return Image.fromarray(np.rint(np.asarray(picture) * (1 - share) + color * share).astype(np.uint8))


def _picture_uri(picture: Image.Image) -> str:
    picture = picture.copy()
    picture.thumbnail((MAX_PICTURE_SIDE, MAX_PICTURE_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _versions() -> dict[str, str]:
    found = {}
    for package in ("medtvt-r1", "transformers", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


__all__ = ["RESEARCH_USE", "describe_patient", "render_report"]
