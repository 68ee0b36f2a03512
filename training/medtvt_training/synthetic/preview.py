# SPDX-License-Identifier: Apache-2.0
"""Contact sheets of a cohort: ECG, film, labs and answer of some patients a disease."""

import os
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from modeling_medtvt import DISEASES
from processing_medtvt import LAB_DEFINITIONS, MedTVTEcgFeatureExtractor
from processing_medtvt.lab_definitions_medtvt import flag_value
from processing_medtvt.plot_ecg_medtvt import plot_ecg

from ..data.conversation import message_text
from ..data.load import load_medtvt_qa
from ..data.rows import QARow


PATIENTS_A_SHEET = 3


def draw_previews(folder: str | os.PathLike) -> list[Path]:
    """
    Draws `preview/<disease>.png` for each disease and for none, from test patients; those with the fewest diseases
    come first, since they show it most plainly.

    Returns:
        `list[Path]`: the sheets.
    """
    folder = Path(folder)
    (folder / "preview").mkdir(exist_ok=True)
    rows = [row for split in ("test", "train") for row in load_medtvt_qa(folder, "diagnosis", split)]
    rows = [row for row in rows if row["id"].endswith("-diagnosis")]
    sheets = []
    for disease in (*DISEASES, None):
        having = [row for row in rows if (disease in row["diseases"] if disease else not row["diseases"])]
        having.sort(key=lambda row: len(row["diseases"]))
        if having:
            path = folder / "preview" / f"{(disease or 'none of the seven').lower().replace(' ', '_')}.png"
            _draw_sheet(having[:PATIENTS_A_SHEET], disease or "None of the seven").save(path)
            sheets.append(path)
    return sheets


def _draw_sheet(rows: list[QARow], title: str) -> Image.Image:
    pages = [_draw_patient(row, f"{title}: patient {row['subject_id']}, imaginary") for row in rows]
    sheet = Image.new("RGB", (pages[0].width, sum(page.height for page in pages)), "white")
    for i, page in enumerate(pages):
        sheet.paste(page, (0, sum(other.height for other in pages[:i])))
    return sheet


def _draw_patient(row: QARow, title: str) -> Image.Image:
    extractor = MedTVTEcgFeatureExtractor(sampling_rate=500)
    signal = extractor(row["ecg"])["ecg_values"][0]
    ecg = _rendered(plot_ecg(signal, sampling_rate=500, title=title))
    width, height = ecg.width, 330
    below = Figure(figsize=(width / 100, height / 100), dpi=100)
    film, labs, answer = below.subplots(1, 3, width_ratios=(1.25, 1.75, 2))
    film.set_anchor("N")
    film.imshow(Image.open(str(row["cxr"])), cmap="gray", vmin=0, vmax=255)
    labs.text(0, 1, _lab_text(row["lab"]), va="top", family="monospace", fontsize=6.3)
    answer.text(0, 1, "\n".join(_wrapped(message_text(row["completion"]))), va="top", fontsize=8)
    for ax in (film, labs, answer):
        ax.axis("off")
    below.subplots_adjust(0.01, 0.02, 0.99, 0.97, 0.03)
    page = Image.new("RGB", (width, ecg.height + height), "white")
    page.paste(ecg, (0, 0))
    page.paste(_rendered(below), (0, ecg.height))
    return page


def _rendered(figure: Figure) -> Image.Image:
    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _lab_text(lab: dict[str, float | None]) -> str:
    cells = []
    for definition in LAB_DEFINITIONS:
        value = lab[definition.name]
        flag = flag_value(value, definition.reference_low, definition.reference_high)
        flag = {"low": "L", "high": "H"}.get(flag or "", "")
        shown = "-" if value is None else f"{value:g}"
        cells.append(f"{definition.name[:24]:<24}{shown:>7} {flag:<1}")
    half = (len(cells) + 1) // 2
    return "\n".join(f"{left}   {right}" for left, right in zip(cells[:half], [*cells[half:], ""]))


def _wrapped(text: str) -> list[str]:
    return [line for paragraph in text.split("\n") for line in textwrap.wrap(paragraph, 70) or [""]]
