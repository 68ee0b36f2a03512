# SPDX-License-Identifier: Apache-2.0
"""One drawn, imaginary patient for `medtvt demo`: an ECG, a chest X-ray and a laboratory panel."""

import csv
import tempfile
from pathlib import Path

import numpy as np
import wfdb
from PIL import Image, ImageDraw
from scipy.interpolate import splev, splprep
from scipy.ndimage import gaussian_filter


LEADS = ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]
SAMPLING_RATE, SECONDS, GAIN = 500, 10, 200

# Waves of one beat as skewed Gaussians: peak, widths before and after it (s, from the R peak), variation from beat to
# beat, and heights (mV) in the independent leads I, II, V1-V6. The rest of the limb leads follow from I and II.
WAVES = [
    (-0.028, 0.009, 0.009, 0.04, [-0.05, -0.06, 0, 0, 0, -0.03, -0.06, -0.06]),
    (0.0, 0.011, 0.011, 0.04, [0.72, 0.95, 0.22, 0.45, 0.85, 1.3, 1.25, 1.0]),
    (0.028, 0.011, 0.012, 0.04, [-0.09, -0.16, -0.85, -1.2, -0.75, -0.4, -0.18, -0.08]),
    (0.26, 0.065, 0.035, 0.12, [0.16, 0.24, -0.04, 0.32, 0.4, 0.36, 0.28, 0.2]),
]
# Fibrillatory waves (mV) are largest in V1.
FIBRILLATION = [0.02, 0.05, 0.09, 0.05, 0.03, 0.02, 0.02, 0.02]

# Outlines on the film, x and y in 0..1. The patient's right is on the left.
FILM = 640
BODY = [(0.40, -0.1), (0.39, 0.03), (0.30, 0.08), (0.08, 0.10), (-0.06, 0.2), (-0.1, 0.6), (0.03, 0.66), (0.03, 1.1)]
BODY += [(0.97, 1.1), (0.97, 0.66), (1.1, 0.6), (1.06, 0.2), (0.92, 0.10), (0.70, 0.08), (0.61, 0.03), (0.60, -0.1)]
RIGHT_LUNG = [(0.36, 0.105), (0.27, 0.15), (0.195, 0.30), (0.15, 0.50), (0.127, 0.70), (0.13, 0.765), (0.155, 0.735)]
RIGHT_LUNG += [(0.22, 0.69), (0.30, 0.665), (0.40, 0.70), (0.46, 0.735), (0.47, 0.50), (0.455, 0.30), (0.435, 0.15)]
LEFT_LUNG = [(0.64, 0.105), (0.73, 0.15), (0.805, 0.30), (0.85, 0.50), (0.873, 0.70), (0.87, 0.785), (0.845, 0.755)]
LEFT_LUNG += [(0.79, 0.725), (0.70, 0.70), (0.60, 0.72), (0.54, 0.75), (0.53, 0.50), (0.545, 0.30), (0.565, 0.15)]
HEART = [(0.46, 0.20), (0.44, 0.37), (0.395, 0.50), (0.38, 0.60), (0.40, 0.69), (0.46, 0.80), (0.62, 0.80)]
HEART += [(0.74, 0.76), (0.79, 0.69), (0.765, 0.60), (0.70, 0.51), (0.59, 0.37), (0.605, 0.30), (0.55, 0.20)]
TRACHEA = [(0.485, -0.1), (0.483, 0.26), (0.45, 0.315), (0.5, 0.295), (0.55, 0.315), (0.513, 0.26), (0.515, -0.1)]

# Median, spread, decimals and unit of what is drawn; the rest of the panel follows from it.
LABS = {
    "Sodium": (136, 1.5, 0, "mEq/L"),
    "Potassium": (5.9, 0.15, 1, "mEq/L"),
    "Bicarbonate": (15, 1, 0, "mEq/L"),
    "Anion Gap": (21, 1, 0, "mEq/L"),
    "Calcium, Total": (8.2, 0.2, 1, "mg/dL"),
    "Magnesium": (2.3, 0.1, 1, "mg/dL"),
    "Phosphate": (6.3, 0.4, 1, "mg/dL"),
    "Creatinine": (4.2, 0.4, 1, "mg/dL"),
    "Urea Nitrogen": (71, 6, 0, "mg/dL"),
    "Lactate": (1.7, 0.2, 1, "mmol/L"),
    "pCO2": (31, 1.5, 0, "mm Hg"),
    "Hemoglobin": (11.2, 0.5, 1, "g/dL"),
    "MCHC": (32.8, 0.4, 1, "g/dL"),
    "MCV": (90, 2, 0, "fL"),
    "White Blood Cells": (16.8, 1.2, 1, "K/uL"),
    "Neutrophils": (86, 1.5, 1, "%"),
    "Monocytes": (5.2, 0.5, 1, "%"),
    "Eosinophils": (0.5, 0.1, 1, "%"),
    "Platelet Count": (246, 20, 0, "K/uL"),
    "INR(PT)": (2.2, 0.15, 1, "ratio"),
}


def write_example_patient(folder, seed=0):
    """
    Write the files of an imaginary patient with atrial fibrillation, acute renal failure and pneumonia.

    The signs are clearer than in most real patients: irregular beats without P waves, the blood of failing kidneys
    and of a bacterial infection, an opacity at the base of the right lung (on the left of the film).

    Args:
        folder: made if missing. Files of the same names are replaced, each only once it is complete.
        seed (`int`): the same seed gives the same files.

    Returns:
        `dict` with the paths `ecg` (WFDB record, 12 leads, mV, 500 Hz, 10 s), `cxr` (PNG, 640 x 640, 8-bit grey) and
        `lab` (CSV `name,value,unit`), and the list `diseases`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ecg_rng, cxr_rng, lab_rng = (np.random.default_rng([seed, part]) for part in range(3))
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as partial:
        layout = {"fs": SAMPLING_RATE, "sig_name": LEADS, "units": ["mV"] * 12, "fmt": ["16"] * 12}
        layout |= {"adc_gain": [GAIN] * 12, "baseline": [0] * 12, "comments": ["Drawn, no real patient"]}
        signal = np.rint(draw_ecg(ecg_rng) * GAIN).astype(np.int16)
        wfdb.wrsamp("ecg", d_signal=signal.T, write_dir=partial, **layout)
        Image.fromarray(draw_cxr(cxr_rng)).save(Path(partial, "cxr.png"))
        with open(Path(partial, "lab.csv"), "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("name", "value", "unit"), *draw_labs(lab_rng)])
        for name in ("ecg.dat", "ecg.hea", "cxr.png", "lab.csv"):
            Path(partial, name).replace(folder / name)
    paths = {key: str(folder / name) for key, name in (("ecg", "ecg.hea"), ("cxr", "cxr.png"), ("lab", "lab.csv"))}
    return paths | {"diseases": ["Atrial Fibrillation", "Acute Renal Failure", "Pneumonia"]}


def draw_ecg(rng):
    """Twelve leads of atrial fibrillation, (12, 5000) in mV and the order of `LEADS`."""
    time = np.arange(SAMPLING_RATE * SECONDS) / SAMPLING_RATE
    leads = np.zeros((8, time.size))
    beat = -rng.uniform(0, 0.6)
    while beat < SECONDS:
        for peak, before, after, variation, heights in WAVES:
            offset = time - beat - peak
            wave = np.exp(-0.5 * (offset / np.where(offset < 0, before, after)) ** 2)
            leads += np.outer(heights, wave) * rng.normal(1, variation)
        # No interval depends on the one before: irregularly irregular, 95/min on average.
        beat += np.clip(rng.normal(0.63, 0.15), 0.38, 1.1)
    for weight in (1, 0.7):
        # 4.6-8 Hz; the frequency wanders, so that no two waves are alike.
        frequency = np.clip(rng.uniform(5.5, 7) + gaussian_filter(rng.normal(0, 20, time.size), 100), 4.6, 8)
        phase = 2 * np.pi * np.cumsum(frequency) / SAMPLING_RATE
        leads += weight * np.outer(FIBRILLATION, np.sin(phase) + 0.3 * np.sin(2 * phase + 1))
    for lead in leads:
        lead += 0.04 * np.sin(2 * np.pi * rng.uniform(0.15, 0.35) * time + rng.uniform(0, 6.3))
        lead += rng.normal(0, 0.008, time.size)
    one, two = leads[:2]
    return np.stack([one, two, two - one, -(one + two) / 2, two - one / 2, one - two / 2, *leads[2:]])


def draw_labs(rng):
    """Rows `(name, value, unit)` of the panel; derived values obey the usual identities."""
    drawn = {name: round(float(rng.normal(mid, spread)), digits) for name, (mid, spread, digits, _) in LABS.items()}
    rows = [(name, value, LABS[name][3]) for name, value in drawn.items()]
    hco3, mchc, mcv = drawn["Bicarbonate"], drawn["MCHC"], drawn["MCV"]
    hematocrit = 100 * drawn["Hemoglobin"] / mchc
    ph = 6.1 + np.log10(hco3 / (0.03 * drawn["pCO2"]))
    rows += [
        ("pH", round(ph, 2), "units"),
        ("Calculated Total CO2", round(hco3 + 0.03 * drawn["pCO2"]), "mEq/L"),
        ("Base Excess", round(0.93 * (hco3 - 24.4 + 14.8 * (ph - 7.4))), "mEq/L"),
        ("Chloride", round(drawn["Sodium"] + drawn["Potassium"] - hco3 - drawn["Anion Gap"]), "mEq/L"),
        ("Hematocrit", round(hematocrit, 1), "%"),
        ("Red Blood Cells", round(10 * hematocrit / mcv, 2), "m/uL"),
        ("MCH", round(mchc * mcv / 100, 1), "pg"),
        ("Lymphocytes", round(100 - sum(drawn[name] for name in ("Neutrophils", "Monocytes", "Eosinophils")), 1), "%"),
        ("PT", round(10.9 * drawn["INR(PT)"], 1), "sec"),
    ]
    return [(name, f"{value:g}", unit) for name, value, unit in rows]


def draw_cxr(rng):
    """A frontal film, (640, 640) uint8: tissue summed along the beam, white where there is much."""
    y, x = np.mgrid[0:FILM, 0:FILM] / FILM
    body, heart = _area(BODY, 6), _area(HEART, 4)
    lungs = _area(RIGHT_LUNG, 3) + _area(LEFT_LUNG, 3)
    air = lungs * (1 - 0.85 * heart) * (0.8 + 0.25 * gaussian_filter(lungs, 30, truncate=2))
    abdomen = (1 - lungs) / (1 + np.exp((0.71 - y) / 0.02))
    film = body * (0.42 + 0.18 * gaussian_filter(body, 60, truncate=2) + np.maximum(0.22 * heart, 0.3 * abdomen))
    film -= 0.49 * air + 0.15 * _area(TRACHEA, 3)
    # spine with its vertebrae, gas in the stomach
    film += np.exp(-(((x - 0.5) / 0.05) ** 4)) * (0.16 + 0.04 * np.sin(2 * np.pi * y / 0.052))
    film -= 0.2 * np.exp(-((((x - 0.69) / 0.055) ** 2 + ((y - 0.83) / 0.03) ** 2) ** 2))
    film += (1 - 0.6 * heart) * _skeleton() + air * (_vessels(rng) + _pneumonia(rng, x, y))
    film += air * 0.025 * _noise(rng, 4) + 0.012 * _noise(rng, 0.7)
    return np.rint(255 * np.clip(1.15 * (1 - np.exp(-1.6 * np.clip(film, 0, None))), 0, 1)).astype(np.uint8)


def _noise(rng, width):
    noise = gaussian_filter(rng.normal(size=(FILM, FILM)), width)
    return noise / noise.std()


def _curve(points, closed=False):
    points = np.transpose([*points, points[0]] if closed else points)
    spline, _ = splprep(points, s=0, per=closed, k=2)
    return [tuple(point) for point in np.transpose(splev(np.linspace(0, 1, 100), spline)) * FILM]


def _area(outline, blur):
    image = Image.new("F", (FILM, FILM))
    ImageDraw.Draw(image).polygon(_curve(outline, closed=True), fill=1.0)
    return gaussian_filter(np.asarray(image), blur)


def _lines(lines, width, blur):
    image = Image.new("F", (FILM, FILM))
    for points in lines:
        ImageDraw.Draw(image).line(_curve(points), fill=1.0, width=width)
    return gaussian_filter(np.asarray(image), blur)


def _both_sides(*shape):
    """The line, given by distance from the middle and height, and its mirror image."""
    return [[(0.5 + side * out, down) for out, down in shape] for side in (-1, 1)]


def _skeleton():
    """Clavicles and seven pairs of ribs: the back halves from the spine outwards, fainter the front halves."""
    back, front = _both_sides((0.04, 0.17), (0.12, 0.155), (0.22, 0.12), (0.33, 0.105), (0.38, 0.12)), []
    for k, end in enumerate((0.265, 0.30, 0.325, 0.34, 0.35, 0.36, 0.37)):
        top, low = 0.174 + 0.064 * k, 0.25 + 0.076 * k
        back += _both_sides((0.05, top), (0.4 * end, top - 0.012), (0.75 * end, top + 0.01), (end, low))
        front += _both_sides((end, low), (0.9 * end, low + 0.05), (0.65 * end, low + 0.1), (0.45 * end, low + 0.12))
    # A bone is a tube: its rim is denser than its middle.
    return 0.2 * _lines(back, 15, 1.5) - 0.12 * _lines(back, 9, 2) + 0.05 * _lines(front[:12], 15, 3)


def _vessels(rng):
    """Branches that leave the two hila and thin out."""
    thick, thin = [], []
    for hilum, side in (((0.43, 0.43), -1), ((0.60, 0.41), 1)):
        for angle in np.linspace(-1.3, 1.4, 12) + rng.normal(0, 0.1, 12):
            points = [np.array(hilum) + rng.normal(0, 0.012, 2)]
            for _ in range(5):
                points.append(points[-1] + rng.uniform(0.02, 0.045) * np.array([side * np.cos(angle), np.sin(angle)]))
                angle += rng.normal(0, 0.45)
            thick.append(points[:3])
            thin.append(points)
    return 0.3 * _lines(thick, 9, 5) + 0.13 * _lines(thin, 4, 1.5)


def _pneumonia(rng, x, y):
    """A soft-edged, patchy opacity at the base of the right lung."""
    extent = np.exp(-((((x - 0.27) / 0.12) ** 2 + ((y - 0.60) / 0.09) ** 2) ** 1.3))
    return 0.5 * extent * (1 + 0.2 * _noise(rng, 9))
