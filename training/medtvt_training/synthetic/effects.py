# SPDX-License-Identifier: Apache-2.0
"""
How causes act on what is measured: the signs of the ECG and of the chest film.

A sign appears by a noisy-or: with base rate b and a cause's strength l, P = 1 - (1 - b) * prod(1 - l). The figures are
those of the project's table of physiology (sections 2a, 2b and 4).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .causes import Causes, Setting
from .signs import EcgSigns, FilmSigns


# sign -> base rate, its factor for each decade of age, strength of the causes
ECG_SIGNS: dict[str, tuple[float, float, dict[str, float]]] = {
    "af": (0.003, 1, {"AF": 0.38}),
    "tachycardia": (0.075, 1, {"SEP": 0.35, "PNA": 0.15, "DEHYDRATION": 0.15, "INF": 0.15, "COPD": 0.05, "HF": 0.03}),
    "bradycardia": (0.055, 1, {"AF": 0.03, "CAD": 0.02}),
    "lvh": (0.03, 1, {"HTN": 0.12, "CKD": 0.07}),
    "infarct": (0.13, 1, {"MI": 0.60, "CAD": 0.10, "HF": 0.03}),
    "ischaemia": (0.03, 1, {"LVH": 0.10, "CAD": 0.07, "HF": 0.03}),
    "acute": (0.008, 1, {"CAD": 0.03}),
    "nonspecific": (0.125, 1, {"SEP": 0.08, "CAD": 0.05, "ARF": 0.04, "AF": 0.04, "HF": 0.04, "DM": 0.03}),
    "lbbb": (0.012, 1, {"HF": 0.07, "CAD": 0.02}),
    "rbbb": (0.08, 1.3, {"COPD": 0.03, "CAD": 0.02}),
    "left_axis": (0.09, 1.3, {"LBBB": 0.2, "MI": 0.05, "HTN": 0.02}),
    "low_voltage": (
        *(0.085, 1),
        {"COPD": 0.06, "HF": 0.05, "OBESITY": 0.05, "PNA": 0.04, "SEP": 0.03, "ARF": 0.02},
    ),
    "left_atrium": (0.025, 1, {"AF": 0.06, "HF": 0.05, "HTN": 0.02}),
    "long_pr": (0.025, 1.3, {"AF": 0.02}),
    "pac": (0.035, 1, {"AF": 0.08, "HF": 0.02}),
    "pvc": (0.035, 1, {"HF": 0.04, "CAD": 0.03}),
    "paced": (0.008, 1, {"AF": 0.035, "HF": 0.02}),
    "poor_r_progression": (0.065, 1, {}),
}
FILM_SIGNS: dict[str, tuple[float, float, dict[str, float]]] = {
    "effusion": (0.26, 1, {"HF": 0.26, "PNA": 0.16, "SEP": 0.10, "ARF": 0.07}),
    "oedema": (0.065, 1, {"HF": 0.34, "ESRD": 0.12, "ARF": 0.06, "SEP": 0.06}),
    "opacity": (0.18, 1, {"PNA": 0.70, "SEP": 0.09, "HF": 0.07}),
    "atelectasis": (0.25, 1, {"EFFUSION": 0.10, "SEP": 0.06}),
    "tube": (0.10, 1, {"SEP": 0.14, "INF": 0.10, "ARF": 0.03}),
    "line": (0.14, 1, {"SEP": 0.14, "ESRD": 0.25, "INF": 0.12, "ARF": 0.05}),
    "pacemaker": (0.01, 1, {"AF": 0.09, "HF": 0.06, "CAD": 0.02}),
    "wires": (0.015, 1, {"BYPASS": 0.95}),
    "aorta": (0.10, 1.3, {"HTN": 0.08, "CAD": 0.04}),
    "hyperinflation": (0.02, 1, {"COPD": 0.40}),
}
# controlled hypertension thickens the heart less
CONTROLLED = {"lvh": 0.03}


class _Chance:
    """Draws signs of one patient by the noisy-or, with causes that act at the time of the recording."""

    def __init__(
        self, rng: np.random.Generator, causes: Causes, setting: Setting, acts: Callable[[str], bool]
    ) -> None:
        self.rng, self.causes, self.setting, self.acts = rng, causes, setting, acts
        self.extra: set[str] = set()  # signs that are causes of other signs

    def __call__(
        self, sign: str, table: dict[str, tuple[float, float, dict[str, float]]], halved: tuple[str, ...] = ()
    ) -> bool:
        base, per_decade, strengths = table[sign]
        base = min(0.9, base * per_decade**self.causes.decades) * self.setting.background
        none = 1 - base
        for cause, strength in strengths.items():
            if cause == "HTN" and "HTN" in self.causes.treated:
                strength = CONTROLLED.get(sign, strength)
            if cause in halved:
                strength = strength / 2
            if cause in self.extra or self.acts(cause):
                none *= (1 - strength) ** self.setting.sign_gain
        return bool(self.rng.random() >= none)

    def one_of(self, shares: Mapping[str, float]) -> str:
        return list(shares)[self.rng.choice(len(shares), p=np.array(list(shares.values())) / sum(shares.values()))]


def draw_ecg_signs(rng: np.random.Generator, causes: Causes, blood: dict[str, float], setting: Setting) -> EcgSigns:
    """Draws the signs of a patient's ECG; `blood` holds the true potassium (mEq/L) and calcium (mg/dL)."""
    chance = _Chance(rng, causes, setting, causes.active)
    s = causes.s
    signs: dict[str, Any] = {"male": causes.male, "lvh": 0.0, "strain": False, "left_atrium": False}
    af, paced = chance("af", ECG_SIGNS), chance("paced", ECG_SIGNS)
    signs["rhythm"] = ("flutter" if rng.random() < 1 / 8 else "af") if af else "paced" if paced else "sinus"
    signs |= _rate(rng, chance, causes, signs["rhythm"])
    paced = signs["rhythm"] == "paced"
    conducted = not paced
    lbbb, rbbb = chance("lbbb", ECG_SIGNS) and conducted, chance("rbbb", ECG_SIGNS) and conducted
    block = "lbbb" if lbbb else chance.one_of({"rbbb": 62, "rbbb_lafb": 38}) if rbbb else None
    signs["conduction"] = block
    if block == "lbbb":
        chance.extra.add("LBBB")
    narrow = conducted and block != "lbbb"
    # left bundle branch block hides both
    low = chance("low_voltage", ECG_SIGNS)
    if chance("lvh", ECG_SIGNS) and narrow:
        chance.extra.add("LVH")
        signs["lvh"] = 0.2 + 1.2 * max(s("HTN"), rng.beta(2, 3)) * rng.uniform(0.7, 1.3)
        signs["strain"] = bool(rng.random() < 0.33)
    elif low and narrow:
        signs["low_voltage"] = chance.one_of({"chest": 49, "limb": 36, "generalized": 15})
    signs["axis"] = _axis(rng, chance("left_axis", ECG_SIGNS), block, causes.decades)
    signs |= _st_t(rng, chance, narrow, max(s("CAD"), rng.beta(2, 3)))
    if chance("left_atrium", ECG_SIGNS) and signs["rhythm"] == "sinus":
        signs["left_atrium"] = True
    potassium = blood["Potassium"]
    tented = 0.01 * setting.background + (0.25 if potassium >= 6.5 else 0.075 if potassium >= 5.5 else 0)
    if 5.5 <= potassium:
        tented = 1 - (1 - tented) ** setting.sign_gain
    signs["tented_t"] = bool(rng.random() < tented) and narrow and not signs["strain"]
    signs["flat_t_u"] = bool(potassium < 3.0) and narrow and not signs["tented_t"]
    widened = potassium > 7 and rng.random() < 0.3
    signs |= _intervals(rng, chance, causes, signs, 35 * widened, blood["Calcium, Total"])
    # T waves grow with potassium long before they are tented
    size = rng.normal(1 - 0.05 * causes.decades, 0.2) + 0.2 * np.clip(potassium - 4.2, -1, 2)
    size *= 0.95 if "HTN" in causes else 1
    signs["t_scale"] = float(np.clip(size, 0.5, 1.8)) * 0.9 ** (("CAD" in causes) + ("HF" in causes))
    signs["pacs"] = int(rng.integers(1, 4)) if chance("pac", ECG_SIGNS) and signs["rhythm"] == "sinus" else 0
    # ten seconds hold three at most
    most = 3 - signs["pacs"]
    signs["pvcs"] = min(most, int(rng.integers(1, 4))) if chance("pvc", ECG_SIGNS) and not paced else 0
    signs["poor_r_progression"] = (
        chance("poor_r_progression", ECG_SIGNS) and narrow and signs["infarct"] is None and not signs["lvh"]
    )
    signs["f_wave_mv"] = float(rng.uniform(0.06, 0.25))
    return EcgSigns(**_plain(signs | _ecg_faults(rng, setting)))


def _intervals(
    rng: np.random.Generator, chance: _Chance, causes: Causes, signs: dict[str, Any], widening: float, calcium: float
) -> dict[str, Any]:
    """P, PR, QRS and QTc, where rhythm, conduction and left atrium are known."""
    block, paced = signs["conduction"], signs["rhythm"] == "paced"
    qrs_ms = {"lbbb": rng.uniform(125, 165), "rbbb": rng.uniform(122, 155)}.get(
        (block or "")[:4], rng.uniform(140, 175) if paced else rng.normal(88, 8)
    )
    if block is None and not paced:
        qrs_ms = float(np.clip(qrs_ms, 72, 109)) + widening
    # atria that stretch or fibrillate at times conduct slowly
    usual = rng.normal(95, 8) + 1.5 * causes.decades + 3 * ("HTN" in causes) + 5 * ("AF" in causes)
    p_ms = rng.uniform(121, 140) if signs["left_atrium"] else float(np.clip(usual, 80, 117))
    long_pr = chance("long_pr", ECG_SIGNS)
    pr_ms = rng.uniform(205, 260) if long_pr else float(np.clip(rng.normal(158 + 4 * causes.decades, 18), 122, 198))
    pr_ms = max(pr_ms, p_ms + 20)  # P ends before QRS begins
    acts = [(causes.active("SEP"), 8), ("HF" in causes, 8), (causes.active("ARF"), 6), ("DM" in causes, 5)]
    qtc = rng.normal(429 + 2 * causes.decades, 25) + sum(
        shift for is_so, shift in [*acts, ("CAD" in causes, 5)] if is_so
    )
    qtc += 20 * max(0.0, 8.4 - calcium) + max(0.0, qrs_ms - 110) * 0.5
    return {"qrs_ms": qrs_ms, "p_ms": p_ms, "pr_ms": pr_ms, "qtc_ms": float(np.clip(qtc, 360, 580))}


def _rate(rng: np.random.Generator, chance: _Chance, causes: Causes, rhythm: str) -> dict[str, Any]:
    """Rate and its variation."""
    fast, slow = chance("tachycardia", ECG_SIGNS), chance("bradycardia", ECG_SIGNS)
    if rhythm == "af":
        rate = rng.normal(95, 22) - 8 * ("RATE_CONTROL" in causes.treated) + 12 * causes.s("SEP")
        return {
            "rate": float(np.clip(rate, 45, 175)),
            "rr_variation": float(np.clip(rng.normal(0.19, 0.025), 0.13, 0.26)),
        }
    if rhythm == "flutter":
        return {"rate": 150.0, "rr_variation": 0.005}
    if rhythm == "paced":
        return {"rate": float(rng.uniform(60, 80)), "rr_variation": 0.004}
    s = max(causes.s("SEP"), 0.85 * causes.s("INF"))
    if fast:
        rate = 102 + 30 * s * rng.uniform(0.5, 1) + rng.gamma(1.5, 5)
    elif slow:
        rate = rng.uniform(44, 59)
    else:
        rate = np.clip(rng.normal(78, 10) + 2 * ("DM" in causes), 60, 99.5)
    variation = float(np.clip(0.03 * np.exp(0.45 * rng.normal() - 0.15 * causes.decades), 0.006, 0.08)) * (
        0.8 if "DM" in causes else 1
    )
    return {"rate": float(min(rate, 160)), "rr_variation": variation}


def _axis(rng: np.random.Generator, left: bool, block: str | None, decades: float) -> float:
    if block == "rbbb_lafb" or left:
        return float(rng.uniform(-75, -35))
    if rng.random() < 0.025:
        return float(rng.uniform(95, 130))
    return float(np.clip(rng.normal(35 - 7 * decades, 26), -28, 86))  # it turns left with age


def _st_t(rng: np.random.Generator, chance: _Chance, narrow: bool, severity: float) -> dict[str, Any]:
    """Infarcts, ischemia and nonspecific changes. Where conduction is abnormal, ST-T says nothing of its own."""
    signs: dict[str, Any] = {"infarct": None}
    infarct = chance("infarct", ECG_SIGNS)
    ischaemia, acute = chance("ischaemia", ECG_SIGNS), chance("acute", ECG_SIGNS)
    nonspecific = chance("nonspecific", ECG_SIGNS)
    if not narrow:
        return signs
    if infarct:
        signs["infarct"] = chance.one_of({"inferior": 50, "anterior": 23.5, "anteroseptal": 17.5, "septal": 9})
    if acute:
        signs["acute"] = chance.one_of({"inferior": 45, "anterior": 40, "lateral": 15})
        signs["acute_mv"] = 0.2 + 0.25 * severity * rng.uniform(0.5, 1)
    elif ischaemia:
        signs["ischaemia"] = chance.one_of({"lateral": 35, "inferior/lateral": 26, "extensive": 22, "lateral T": 16})
        signs["ischaemia_mv"] = -(0.07 + 0.13 * severity * rng.uniform(0.5, 1))
    elif nonspecific:
        signs["nonspecific"] = chance.one_of(
            {"lateral": 35, "inferior": 18, "inferior/lateral": 14, "anterior": 10, "extensive": 23}
        )
        signs["nonspecific_mv"] = float(rng.uniform(-0.05, 0.05))
    return signs


def _ecg_faults(rng: np.random.Generator, setting: Setting) -> dict[str, Any]:
    rare = setting.background
    faults: dict[str, Any] = {
        "wander_mv": float(rng.uniform(0.4, 0.6) if rng.random() < 0.03 else min(0.4, rng.gamma(4, 0.03))),
        "mains_mv": float(rng.uniform(0.002, 0.05) * (rng.random() < 0.3)),
        "emg_mv": float(rng.uniform(0.002, 0.02)),
        "limb_swap": bool(rng.random() < 0.015 * rare),
        "misplaced": bool(rng.random() < 0.4),
        "variety": 1.0,
    }
    if rng.random() < 0.0024:
        faults["dead_lead"] = int(rng.integers(12))
    if rng.random() < 0.013:
        faults["gap"] = (int(rng.integers(12)), float(rng.uniform(0, 8.5)), float(rng.uniform(0.1, 1.2)))
    return faults


def draw_film_signs(rng: np.random.Generator, causes: Causes, setting: Setting) -> FilmSigns:
    """Draws the signs of a patient's chest film, taken one to three days after ECG and labs."""
    chance = _Chance(rng, causes, setting, causes.__contains__)
    late_pneumonia = ("PNA",) if "PNA" in causes.late else ()
    signs: dict[str, Any] = {"male": causes.male}
    ill = sum(code in causes for code in ("SEP", "ARF", "PNA"))
    tube, line = chance("tube", FILM_SIGNS), chance("line", FILM_SIGNS)
    supine = rng.random() < 1 - 0.21 * 0.6**ill
    signs["view"] = "AP" if supine or tube else "PA"
    signs |= {"tube": tube, "line": line}
    for sign in ("pacemaker", "wires", "aorta", "hyperinflation"):
        signs[sign] = chance(sign, FILM_SIGNS)
    signs["poor_inspiration"] = (
        bool(rng.random() < 0.17 + 0.12 * ("OBESITY" in causes)) and not signs["hyperinflation"]
    )
    signs |= _opacity(rng, chance, causes, late_pneumonia)
    if chance("oedema", FILM_SIGNS):
        signs["oedema"] = float(rng.uniform(0.3, 1.0))
    if chance("effusion", FILM_SIGNS, halved=late_pneumonia):
        chance.extra.add("EFFUSION")
        sides = {"both": 73, "right": 15, "left": 12} if "HF" in causes else {"both": 40, "right": 32, "left": 28}
        side = chance.one_of(sides)
        if "PNA" in causes and signs["opacity"] and side != "both" and signs["opacity_zones"][0] != "both sides":
            side = signs["opacity_zones"][0].split()[0]  # beside its pneumonia
        signs |= {"effusion": side, "effusion_ml": float(250 + rng.gamma(1.6, 250))}
    if chance("atelectasis", FILM_SIGNS):
        signs["atelectasis"] = chance.one_of({"left": 40, "right": 30, "both": 30})
    signs["ctr"] = _heart(rng, causes, signs)
    signs |= {"rotation": float(rng.uniform(-3, 3)), "gamma": float(rng.uniform(0.8, 1.25)), "variety": 1.0}
    return FilmSigns(**_plain(signs))


def _heart(rng: np.random.Generator, causes: Causes, signs: dict[str, Any]) -> float:
    """Cardiothoracic ratio as it measures on the film."""
    hypertension = 0.003 if "HTN" in causes.treated else 0.01
    shifts = {"OBESITY": 0.01, "HF": 0.05, "AF": 0.02, "CKD": 0.015, "HTN": hypertension, "CAD": 0.01, "COPD": -0.03}
    ratio = rng.normal(0.449 + 0.006 * causes.decades, 0.038) + sum(
        shift for cause, shift in shifts.items() if cause in causes
    )
    return float(np.clip(ratio + 0.035 * (signs["view"] == "AP") + 0.03 * signs["poor_inspiration"], 0.36, 0.68))


def _opacity(
    rng: np.random.Generator, chance: _Chance, causes: Causes, late_pneumonia: tuple[str, ...]
) -> dict[str, Any]:
    if not chance("opacity", FILM_SIGNS, halved=late_pneumonia):
        return {"opacity": None}
    kind = chance.one_of({"lobar": 30, "patchy": 45, "interstitial": 25})
    zones = {
        **{"right base": 35, "left base": 22, "right middle": 15},
        **{"left middle": 10, "right upper": 10, "left upper": 8},
    }
    first = chance.one_of(zones)
    if kind == "interstitial":
        chosen: tuple[str, ...] = ("both sides",)
    elif kind == "patchy" and rng.random() < 0.4:
        second = chance.one_of({zone: share for zone, share in zones.items() if zone != first})
        chosen = (first, second)
    else:
        chosen = (first,)
    severity = causes.severity["PNA"] if "PNA" in causes else rng.beta(2, 3)
    return {"opacity": kind, "opacity_zones": chosen, "opacity_extent": float(0.25 + 0.7 * severity)}


def _plain(signs: dict[str, Any]) -> dict[str, Any]:
    """Python numbers and no more: signs are written as JSON and compared."""
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in signs.items()}
