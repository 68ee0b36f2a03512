# SPDX-License-Identifier: Apache-2.0
"""Draws the ECG of an imaginary patient from its signs, writes it as a WFDB record and measures it."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from processing_medtvt.feature_extraction_medtvt_ecg import STANDARD_LEADS

from .ecg_person import Person, draw_person, shift_leads
from .ecg_recording import LIMB, SAMPLES, SAMPLING_RATE, SECONDS, record
from .signs import EcgSigns


GAIN = 200
STEP = 1000 / SAMPLING_RATE  # ms
INVALID_SAMPLE = -32768  # of WFDB format 16
V1, V2, V3, V4, V5, V6 = range(2, 8)
# Mean normal heights (mV). A frontal vector of length m and angle a is m cos(a) in I and m cos(a - 60 degrees) in II.
CHEST_R = np.array([0.20, 0.52, 0.94, 1.35, 1.35, 1.13])
CHEST_S = np.array([0.83, 1.27, 0.75, 0.42, 0.20, 0.08])
CHEST_T = np.array([0.03, 0.51, 0.54, 0.45, 0.36, 0.29])
MALE_CHEST = np.array([1, 1.2, 1.2, 1.2, 1.2, 1]) / np.array([1, 1.1, 1.1, 1.1, 1.1, 1])  # of the mean of both sexes
LIMB_R, LIMB_T, T_ANGLE = 0.98, 0.31, 39
# Start and end of Q, R and S as shares of the QRS. Each peak lies outside its neighbors, so that heights add up.
LIMB_WAVES = [(0, 0.26), (0.14, 0.74), (0.5, 1)]
QRS_WAVES = np.array(
    [
        LIMB_WAVES,
        LIMB_WAVES,
        [(0, 0.2), (0, 0.40), (0.22, 1)],
        [(0, 0.2), (0, 0.46), (0.26, 1)],
        [(0, 0.2), (0, 0.54), (0.34, 1)],
        [(0, 0.2), (0.04, 0.62), (0.42, 1)],
        [(0, 0.24), (0.13, 0.70), (0.46, 1)],
        [(0, 0.26), (0.15, 0.74), (0.5, 1)],
    ]
)
# Two humps that melt into a notched plateau, and their heights in V1-V6.
NOTCHED_WAVES = np.broadcast_to([(0, 0.62), (0.32, 1)], (8, 2, 2))
LBBB = np.array([(-0.5, -1.3), (-0.8, -1.8), (-0.7, -1.4), (0.35, -0.45), (0.75, 0.85), (0.85, 0.9)])
PACED = np.array([(-0.6, -1.2), (-0.8, -1.6), (-0.8, -1.5), (-0.3, -0.9), (0.4, 0.3), (0.55, 0.6)])
# Premature ventricular beats from the right and the left ventricle: frontal angle, heights in V1-V6.
PVCS = [(75, np.array([-1.2, -1.7, -0.7, 1.0, 1.5, 1.3])), (-65, np.array([1.3, 1.6, 1.1, 0.3, -0.9, -1.2]))]
# Share of the stated ST level in I, II, V1-V6. What I and II have, III, aVR, aVF and aVL follow.
ISCHAEMIA = {
    "lateral": [1, 0.6, 0, 0, 0, 0.4, 1, 1],
    "inferior/lateral": [0.3, 1, 0, 0, 0, 0.4, 1, 1],
    "extensive": [1, 1, -0.3, 0.3, 1, 1, 1, 1],
}
NONSPECIFIC = {
    "lateral": [1, 0.5, 0, 0, 0, 0, 1, 1],
    "inferior": [0.3, 1, 0, 0, 0, 0, 0, 0],
    "inferior/lateral": [0.5, 1, 0, 0, 0, 0, 1, 1],
    "anterior": [0, 0, 0, 0.5, 1, 1, 0, 0],
    "extensive": [1, 1, 0, 1, 1, 1, 1, 1],
}
INFARCT_LEADS = {"inferior": [], "septal": [V1, V2], "anterior": [V3, V4], "anteroseptal": [V1, V2, V3, V4]}
# Height of fibrillatory waves relative to V1, and of flutter waves (mV).
FIBRILLATION = np.array([0.25, 0.5, 1, 0.6, 0.35, 0.25, 0.2, 0.2])
FLUTTER = np.array([0.03, 0.28, -0.12, -0.05, 0.03, 0.04, 0.05, 0.05])
NEED_P = ("pacs", "left_atrium")
CHOICES = {
    "rhythm": ("sinus", "af", "flutter", "paced"),
    "infarct": (None, *INFARCT_LEADS),
    "ischaemia": (None, *ISCHAEMIA, "lateral T"),
    "acute": (None, "inferior", "anterior", "lateral"),
    "nonspecific": (None, *NONSPECIFIC),
    "conduction": (None, "lbbb", "rbbb", "rbbb_lafb"),
    "low_voltage": (None, "limb", "chest", "generalized"),
}


def draw_ecg(signs: EcgSigns, rng: np.random.Generator) -> np.ndarray:
    """
    Draw one ECG as a sum of waves, each zero outside its stated beginning and end.

    Where two ST changes meet in one lead, the later of nonspecific, strain, ischaemia, old infarct and acute holds.

    Args:
        signs ([`EcgSigns`]): what must be seen. PR belongs to `"sinus"` alone; a paced heart has no P waves.
        rng (`np.random.Generator`): what the signs leave open. The same state gives the same ECG.

    Returns:
        `np.ndarray`: (12, 5000) float32, mV, 500 Hz, in the order of `STANDARD_LEADS`; NaN in a gap.

    Raises:
        ValueError: if two signs cannot be seen in one ECG, or a name or a rate is not accepted.
    """
    _check(signs)
    # one generator a part, so that a sign of one part leaves the others as they were
    seeds = rng.integers(2**63, size=6)
    rhythm_rng, qrs_rng, t_rng, atria_rng, noise_rng, own_rng = map(np.random.default_rng, seeds)
    person = draw_person(signs.variety, own_rng)
    beats, p_beats, pac_beats, pvc_beats = _beat_times(signs, rhythm_rng)
    qrs = _qrs(signs, qrs_rng, person)
    st, t, u = _st_t(signs, t_rng, qrs, person)

    leads = np.zeros((8, SAMPLES), np.float32)
    strengths = 1 + person.breathing * np.sin(2 * np.pi * 0.25 * beats) + qrs_rng.normal(0, 0.01, beats.size)
    qt = signs.qtc_ms - 154 * (1 - 60 / signs.rate)
    complexes = _complex(qrs, st, t, u, signs.qrs_ms, qt, signs, person)
    for beat, strength in zip(beats, strengths):
        _add(leads, complexes, beat, strength)
    _draw_premature(leads, pvc_beats, qt, np.ptp(qrs, axis=1).max(), qrs_rng)
    _draw_atria(leads, signs, atria_rng, p_beats, pac_beats, person)
    if signs.rhythm == "paced":
        spike = np.outer(qrs_rng.uniform(0.4, 1) * np.array([0.3, 0.8, -0.4, -0.7, -0.8, -0.8, -0.6, -0.5]), [1, 0.4])
        for beat in beats:
            _add(leads, spike, beat - 0.006)
    return record(leads, signs, noise_rng, own_rng)


def _check(signs: EcgSigns) -> None:
    wide = signs.conduction == "lbbb" or signs.rhythm == "paced"
    hidden = ("infarct", "strain", "ischaemia", "acute", "nonspecific", "poor_r_progression")
    pairs = [
        ("lvh", "low chest voltage", signs.lvh > 0 and signs.low_voltage in ("chest", "generalized")),
        ("strain", "no lvh", signs.strain and not signs.lvh > 0),
        ("tented_t", "flat_t_u", signs.tented_t and signs.flat_t_u),
        ("conduction", "a paced rhythm", signs.conduction is not None and signs.rhythm == "paced"),
        *((name, "LBBB or a paced rhythm", wide and bool(getattr(signs, name))) for name in hidden),
        *((name, f"rhythm {signs.rhythm}", signs.rhythm != "sinus" and getattr(signs, name)) for name in NEED_P),
    ]
    for name, other, meet in pairs:
        if meet:
            raise ValueError(f"signs: {name} cannot be seen with {other}; draw one of the two.")
    if not 30 <= signs.rate <= 220:
        raise ValueError(f"signs: rate is {signs.rate}; accepted are 30 to 220 per minute.")
    for name, known in CHOICES.items():
        if getattr(signs, name) not in known:
            raise ValueError(f"signs: {name} is {getattr(signs, name)!r}; accepted are {', '.join(map(repr, known))}.")


def _beat_times(signs: EcgSigns, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Onsets (s) of the normally conducted QRS complexes, of those after a sinus P wave, of the PACs and the PVCs."""
    rr = 60 / signs.rate
    first = rng.uniform(0, rr)
    inside = int((SECONDS - first) / rr)  # intervals between beats on the paper; two beats lie before it, more behind
    count = inside + 4 + signs.pacs
    if signs.rhythm == "sinus":  # breathing and chance
        variation = np.sin(2 * np.pi * rng.uniform(0.2, 0.3) * rr * np.arange(count) + rng.uniform(0, 6.3))
        variation += 0.7 * rng.normal(size=count)
    else:  # no interval depends on the one before, and none is very short
        variation = rng.lognormal(0, 0.6, count)
    seen = variation[2 : 2 + inside]
    variation = (variation - seen.mean()) / seen.std()
    intervals = np.maximum(rr * (1 + signs.rr_variation * variation), 0.25)
    beats = first + np.concatenate([[0], np.cumsum(intervals)]) - intervals[:2].sum()

    premature = signs.pacs + signs.pvcs
    slots = inside - 1
    if premature > (slots + 1) // 2:
        raise ValueError(
            f"signs: {premature} premature beats do not fit into {SECONDS} s at {signs.rate:.0f}/min; "
            f"accepted are up to {(slots + 1) // 2}."
        )
    # never the first or the last on the paper, and never two in a row
    places = np.sort(rng.choice(slots - premature + 1, premature, replace=False)) + np.arange(premature) + 3
    is_pac = rng.permutation(premature) < signs.pacs
    coupling = rng.uniform(0.58, 0.66)
    shortest = (signs.qtc_ms - 154 * (1 - rr)) / 1000 + 0.03  # not on the T wave
    early = min(max(coupling, shortest / rr), 0.88)
    for place, pac in zip(places, is_pac):
        gained = (1 - early) * (beats[place] - beats[place - 1])
        beats[place] -= gained
        if pac:  # it resets the sinus node; after a PVC the next beat comes when it was due
            beats[place + 1 :] -= 0.9 * gained
    pacs, pvcs = beats[places[is_pac]], beats[places[~is_pac]]
    return np.delete(beats, places[~is_pac]), np.delete(beats, places), pacs, pvcs


def _frontal(length: float | np.ndarray, angle: float | np.ndarray) -> tuple[Any, Any]:
    """Heights (mV) in I and II of a frontal vector, angle in degrees."""
    return length * np.cos(np.radians(angle)), length * np.cos(np.radians(angle - 60))


def _bumps(
    times: np.ndarray, start: float | np.ndarray, end: float | np.ndarray, sharpness: float | np.ndarray = 1
) -> np.ndarray:
    """Smooth waves of height 1 between start and end: (..., 1) each -> (..., times); slender if sharpness is above 1."""
    phase = np.clip((times - start) / (end - start), 0, 1)
    return np.sin(np.pi * phase) ** (2 * sharpness)


def _qrs(signs: EcgSigns, rng: np.random.Generator, person: Person) -> np.ndarray:
    """QRS of the eight leads (8, samples) from its onset."""
    build, spread = rng.normal(0, 0.26), rng.normal(0, 0.22, (3, 6))
    sex = MALE_CHEST if signs.male else MALE_CHEST / np.array([1, 1.2, 1.2, 1.2, 1.2, 1])
    chest_r, chest_s = CHEST_R * sex * np.exp(build + spread[0]), CHEST_S * sex * np.exp(build + spread[1])
    limb_r = LIMB_R * np.exp(0.8 * build + rng.normal(0, 0.15))
    shift, share, small = rng.choice([-1, 1]), rng.uniform(0.35, 0.6), rng.uniform(0, 1, 3)
    angles, voltages, old_q = rng.normal(0, 15, 2), rng.uniform(0, 1, 2), rng.uniform(0.28, 0.38)
    if signs.misplaced:  # electrodes too high or too low: every lead looks like its neighbor
        neighbor = np.clip(np.arange(4) + shift, 0, 5)
        for heights in (chest_r, chest_s):
            heights[:4] += share * (heights[neighbor] - heights[:4])
    chest_r, chest_s = (
        person.chest_r * shift_leads(chest_r, person.turn),
        person.chest_s * shift_leads(chest_s, person.turn),
    )
    # R grows up to V4, and S outweighs it in V1
    chest_r[:4] = np.maximum.accumulate(np.maximum(chest_r[:4], [0.06, 0.2, 0.45, 0.7]))
    chest_r[0], chest_r[3] = min(chest_r[0], 0.5 * chest_s[0]), max(chest_r[3], 1.05 * chest_r[2])
    if signs.poor_r_progression:
        chest_r[:3] = (0.08, 0.13, 0.17) + small * (0.06, 0.08, 0.1)

    if signs.conduction == "lbbb" or signs.rhythm == "paced":
        heights = np.exp(0.7 * build) * (LBBB if signs.conduction == "lbbb" else PACED) * np.exp(spread[0])[:, None]
        heights = np.vstack([np.outer(_frontal(0.8 * limb_r, signs.axis), [0.9, 1]), heights])
        windows = NOTCHED_WAVES
    else:
        chest_q = np.array([0, 0, 0, 0.02, 0.05, 0.06]) * np.exp(spread[2])
        heights, windows = _narrow_waves(signs, limb_r, chest_q, chest_r, chest_s, angles, small, old_q, person)
        if signs.infarct is None and signs.conduction is None:
            windows = windows + person.delays[:, None, None]
    times = np.arange(0, signs.qrs_ms + STEP, STEP)
    start, end = np.split(windows * signs.qrs_ms, 2, axis=-1)
    shapes = _bumps(times, start, end, person.sharpness)
    qrs = (heights[..., None] * shapes).sum(axis=1)
    for place, sizes in zip(person.notch_places, person.notches.T):
        notch = _bumps(times, place * signs.qrs_ms - 13, place * signs.qrs_ms + 3)
        notch -= _bumps(times, place * signs.qrs_ms - 3, place * signs.qrs_ms + 13)
        qrs += np.outer(sizes * np.ptp(qrs, axis=1), notch)
    return _limit_voltages(qrs, signs, voltages)


def _narrow_waves(
    signs: EcgSigns,
    limb_r: float,
    chest_q: np.ndarray,
    chest_r: np.ndarray,
    chest_s: np.ndarray,
    angles: np.ndarray,
    small: np.ndarray,
    old_q: float,
    person: Person,
) -> tuple[np.ndarray, np.ndarray]:
    """Heights and windows of Q, R, S and a last wave, of a right bundle branch block, in eight leads."""
    windows = np.concatenate([QRS_WAVES, np.broadcast_to([0.45, 1.0], (8, 1, 2))], axis=1)
    # Q and S point away from R; the first forces of a left anterior fascicular block point down
    vectors = {0: (0.07 * person.q_size if signs.axis > -30 else 0.16, signs.axis + 180 + angles[0] + person.q_turn)}
    vectors[2] = (0.12 * person.s_size * limb_r, signs.axis + 180 + angles[1] + person.s_turn)
    last = np.zeros(6)
    if signs.conduction is not None:
        windows[:, :3] *= 0.64
        vectors[3] = (0.2 + 0.1 * small[0], 175)
        chest_s = chest_s * (0.4, 0.6, 0.8, 1, 1, 1)
        last = np.array([0.5, 0.25, 0, -0.15, -0.25, -0.3]) + np.array([0.5, 0.2, 0, 0, -0.1, -0.1]) * small[1]
        last[0] += chest_r[0]
        windows[V1, 3, 0], windows[V1, 2, 1] = 0.4, 0.56
    chest_q = chest_q.copy()
    chest_r = chest_r.copy()
    wide = min(52 / signs.qrs_ms, 0.6)  # an old Q wave lasts 40 ms and more
    for lead in INFARCT_LEADS.get(signs.infarct or "", []):
        if lead in (V1, V2):  # QS
            chest_r[lead - 2], windows[lead, 2, 0] = 0, 0
            chest_s[lead - 2] = max(chest_s[lead - 2], 0.5)
        else:
            chest_r[lead - 2] *= 0.6
            chest_q[lead - 2] = max(old_q * chest_r[lead - 2], 0.2)
            windows[lead, 0] = (0, wide)
            windows[lead, 1] = (wide - 0.06, max(windows[lead, 1, 1], wide + 0.3))
            windows[lead, 2, 0] = max(windows[lead, 2, 0], wide + 0.12)
    if signs.infarct == "inferior":
        limb_r *= 0.85
        windows[:2, 0], windows[:2, 1] = (0, wide), (wide - 0.06, max(windows[0, 1, 1], wide + 0.32))
        windows[:2, 2, 0] = max(windows[0, 2, 0], wide + 0.12)

    # R takes the angle nearest the axis at which the area of the whole QRS has the stated axis
    widths, turns = windows[0, :, 1] - windows[0, :, 0], np.arange(-100, 101)
    if signs.infarct == "inferior":  # Q points up, deep enough for II, III and aVF
        leads = np.array([60, 120, 90])
        down = np.maximum(np.cos(np.radians(signs.axis + turns[:, None] - leads)), 0)
        deep = old_q * limb_r * (down / np.cos(np.radians(100 - leads))).max(axis=1)
        vectors[0] = (np.maximum(0.25 * limb_r, deep), -80)
    across = limb_r * widths[1] * np.sin(np.radians(turns))
    for wave, (length, angle) in vectors.items():
        across = across + length * widths[wave] * np.sin(np.radians(angle - signs.axis))
    best = np.argmin(np.abs(across) + 1e-4 * np.abs(turns))
    vectors[0] = (np.broadcast_to(vectors[0][0], turns.shape)[best], vectors[0][1])
    vectors[1] = (limb_r, signs.axis + turns[best])
    heights = np.zeros((8, 4))
    for wave, vector in vectors.items():
        heights[:2, wave] = _frontal(*vector)
    heights[2:] = np.transpose([-chest_q, chest_r, -chest_s, last])
    return heights, windows


def _limit_voltages(qrs: np.ndarray, signs: EcgSigns, draws: np.ndarray) -> np.ndarray:
    """Scale leads so that exactly the stated voltage criteria are met."""
    limb, chest = LIMB @ qrs[:2], qrs[2:]
    highest = np.ptp(limb, axis=1).max()
    if signs.low_voltage in ("limb", "generalized"):
        qrs[:2] *= (0.32 + 0.14 * draws[0]) / highest
    else:
        qrs[:2] *= max(0.62 / highest, 1)
        if signs.lvh == 0:
            qrs[:2] *= min(1.0 / max((LIMB @ qrs[:2])[5].max(), 0.1), 1)
    highest = np.ptp(chest, axis=1).max()
    if signs.low_voltage in ("chest", "generalized"):
        chest *= (0.65 + 0.27 * draws[1]) / highest
        return qrs
    chest *= max(1.25 / highest, 1)
    sokolow = chest[4:].max() - chest[0].min()
    factor = (3.5 + signs.lvh) / sokolow if signs.lvh > 0 else min(3.25 / sokolow, 1)
    chest *= np.array([factor, factor**0.5, 1, factor**0.5, factor, factor])[:, None]
    if signs.lvh == 0:  # Cornell: R in aVL + S in V3
        room = (2.6 if signs.male else 1.85) - (LIMB @ qrs[:2])[5].max()
        chest[1] = np.where(chest[1] < 0, chest[1] * min(1, 2.4 / -chest[1].min()), chest[1])
        chest[2] = np.where(chest[2] < 0, chest[2] * min(1, room / max(-chest[2].min(), 0.01)), chest[2])
    return qrs


def _st_t(
    signs: EcgSigns, rng: np.random.Generator, qrs: np.ndarray, person: Person
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levels of ST and heights of T and U (mV) in eight leads."""
    st = np.clip(rng.normal(0, 0.006, 8), -0.012, 0.012) + person.st
    sex = MALE_CHEST if signs.male else MALE_CHEST / np.array([1, 1.2, 1.2, 1.2, 1.2, 1])
    common, spread, size = rng.normal(0, 0.22), rng.normal(0, 0.18, 6), rng.uniform(0, 1, 2)
    t_angle = np.clip(T_ANGLE + 0.4 * (signs.axis - 40) + rng.normal(0, 8), 8, 70)
    t = np.empty(8)
    t[:2] = _frontal(min(LIMB_T * signs.t_scale * np.exp(common), 0.5), t_angle)
    t[2:] = CHEST_T * sex * signs.t_scale * np.exp(common + spread) * person.chest_t
    t[V1] = rng.normal(0.02, 0.06) + person.t_v1
    if signs.low_voltage:
        t[: 2 if signs.low_voltage == "limb" else 8] *= 0.6
    # never so low that it looks flat, never tented
    t[[0, 1]] = np.maximum(t[[0, 1]], 0.09)
    t[3:] = np.clip(t[3:], np.maximum(0.12, 0.1 * qrs[3:].max(axis=1)), 0.85)

    if signs.conduction == "lbbb" or signs.rhythm == "paced":  # against the QRS
        net = qrs.max(axis=1) + qrs.min(axis=1)
        st, t = np.clip(-0.09 * net, -0.12, 0.16), np.clip(-0.32 * net, -0.4, 0.75) * signs.t_scale
    elif signs.conduction is not None:
        st[V1], t[[V1, V2]], t[V3] = -0.02, (-0.12 - 0.1 * size[0], 0.1 - 0.2 * size[0]), 0.7 * t[V3]
    if signs.nonspecific is not None:
        share = np.array(NONSPECIFIC[signs.nonspecific])
        st = np.where(share > 0, share * signs.nonspecific_mv, st)
        t = np.where(share == 1, 0.02 + 0.03 * size[0], np.where(share > 0, 0.5 * t, t))
        if share[0] < 1 and share[1] == 1:  # flat in III and aVF too
            t[0] = 0.07
    if signs.strain:
        level = -0.05 - 0.15 * min(signs.lvh, 1)
        st = np.where([1, 1, 1, 1, 0, 1, 1, 1], level * np.array([1, 0.4, -0.5, -0.5, 0, 0.4, 1, 1]), st)
        t[[0, 1, V4, V5, V6]] = np.array([-0.14, 0.06, 0.15, -0.24, -0.26]) * (1 + 0.6 * size[0])
    if signs.ischaemia == "lateral T":
        t[[0, 1, V4, V5, V6]] = np.array([-0.13, 0.03, 0.1, -0.2, -0.2]) * (1 + 0.6 * size[0])
    elif signs.ischaemia is not None:
        share = np.array(ISCHAEMIA[signs.ischaemia])
        st = np.where(share != 0, share * signs.ischaemia_mv, st)
        t = np.where((share == 1) & (t > 0), 0.6 * t, t)
    if signs.infarct is not None:
        depth = -0.14 - 0.2 * size[1]
        t[INFARCT_LEADS[signs.infarct]] = depth
        if signs.infarct == "inferior":
            t[:2] = -0.4 * depth, 0.8 * depth
    if signs.acute is not None:
        _raise_st(signs, st, t)
    if signs.tented_t:
        high = np.array([0.5, 0.75, 0.15, 1.1, 1.25, 1.2, 0.95, 0.7]) * (1 + 0.25 * size[0])
        t = np.where(np.arange(8) == V1, t, high)
    if signs.flat_t_u:
        return st, 0.12 * t, np.array([0.04, 0.07, 0.03, 0.11, 0.12, 0.1, 0.08, 0.06]) * (1 + 0.3 * size[0])
    return st, t, np.zeros(8)


def _raise_st(signs: EcgSigns, st: np.ndarray, t: np.ndarray) -> None:
    """ST elevation of an acute infarct with its reciprocal depression, in place."""
    level = signs.acute_mv
    if signs.acute == "inferior":
        changes = {0: min(-0.2 * level, level / 2 - 0.1), 1: level, V2: -0.06}
        t[:2] = 0.05, max(t[1], 0.2 + level)
    elif signs.acute == "anterior":
        septal = max(level, 0.2)
        changes = {0: 0.02, 1: -0.1, V1: 0.5 * septal, V2: septal, V3: septal, V4: level, V5: 0.4 * level}
        t[V2 : V4 + 1] = np.maximum(t[V2 : V4 + 1], 0.35 + level)
    else:
        changes = {0: level, 1: 0, V1: -0.06, V2: -0.06, V4: 0.4 * level, V5: level, V6: level}
        t[[0, V5, V6]] = np.maximum(t[[0, V5, V6]], 0.2 + level)
        t[1] = max(t[1], 0.1)
    st[list(changes)] = list(changes.values())


def _complex(
    qrs: np.ndarray,
    st: np.ndarray,
    t: np.ndarray,
    u: np.ndarray,
    qrs_ms: float,
    qt: float,
    signs: EcgSigns | None = None,
    person: Person | None = None,
) -> np.ndarray:
    """QRS, ST, T and U of one beat, (8, samples) float32 from the onset of QRS."""
    times = np.arange(0, qt + 250, STEP)
    peak = qt - (62 if signs and signs.strain else 78)
    if signs and signs.tented_t:
        start, peak = qt - 150, qt - 68
    else:
        if person and signs and not signs.strain:
            peak += person.t_delay
        start = min(qrs_ms + 40, peak - 90)
    end = peak + (qt - peak) / 0.818  # where the tangent to the falling limb meets the baseline is the end of T
    rising = _bumps(times, start, 2 * peak - start) ** (person.t_rise if person else 1.7)
    falling = _bumps(times, 2 * peak - end, end)
    wave = np.where(times < peak, rising, falling)
    rise = np.sin(0.5 * np.pi * np.clip((times - qrs_ms + 16) / 16, 0, 1)) ** 2
    climb = rise * (0.65 + 0.35 * np.sin(0.5 * np.pi * np.clip((times - qrs_ms) / 70, 0, 1)))
    hold = max(qrs_ms + 84, start)
    fall = np.cos(0.5 * np.pi * np.clip((times - hold) / max(qt - hold, 20), 0, 1)) ** 2
    beat = np.outer(np.minimum(st, 0), rise * fall) + np.outer(np.maximum(st, 0), climb * fall)
    beat += np.outer(t, wave) + np.outer(u, _bumps(times, qt + 10, qt + 190))
    beat[:, : qrs.shape[1]] += qrs
    return beat.astype(np.float32)


def _add(leads: np.ndarray, template: np.ndarray, time: float, strength: float = 1.0) -> None:
    """Add a template that begins at `time` (s), as far as it lies on the paper."""
    start = round(time * SAMPLING_RATE)
    first, last = max(start, 0), min(start + template.shape[1], SAMPLES)
    if first < last:
        leads[:, first:last] += np.float32(strength) * template[:, first - start : last - start]


def _draw_premature(
    leads: np.ndarray, beats: np.ndarray, qt: float, usual_mv: float, rng: np.random.Generator
) -> None:
    """Ventricular premature beats: one wide form without P, with ST and T against the QRS."""
    angle, chest = PVCS[rng.integers(2)]
    width, limb, spread = rng.uniform(144, 176), rng.uniform(1.1, 1.7), np.exp(rng.normal(0, 0.15, 6))
    heights = np.concatenate([_frontal(limb, angle + rng.normal(0, 10)), chest * spread]) * max(1, usual_mv / 2)
    shapes = _bumps(np.arange(0, width + STEP, STEP), *np.split(np.array([(0, 0.74), (0.44, 1)]) * width, 2, axis=-1))
    qrs = np.outer(heights, shapes[0] + 0.55 * shapes[1])
    template = _complex(qrs, -0.08 * heights, -0.35 * heights, np.zeros(8), width, max(qt + 40, width + 200))
    for beat in beats:
        _add(leads, template, beat)


def _draw_atria(
    leads: np.ndarray,
    signs: EcgSigns,
    rng: np.random.Generator,
    regular_beats: np.ndarray,
    pac_beats: np.ndarray,
    person: Person,
) -> None:
    """P waves, or the waves of fibrillation or flutter."""
    height, angle, chest = rng.uniform(0.095, 0.15), rng.normal(52, 8), rng.uniform(0.8, 1.2, 6)
    noise, phases, shift = rng.normal(size=(2, 26)), rng.uniform(0, 2 * np.pi, 4), rng.uniform(0.3, 0.6)
    height, angle, chest = height * person.p_size, angle + person.p_turn, chest * person.chest_p
    if signs.rhythm == "sinus":
        right = np.concatenate([_frontal(height, angle + 12), chest * (0.055, 0.06, 0.06, 0.06, 0.05, 0.045)])
        left = np.concatenate([_frontal(height, angle - 12), chest * (-0.025, 0.05, 0.06, 0.06, 0.055, 0.055)])
        _add_p_waves(leads, regular_beats, signs, right, left)
        # from another place in the atria
        _add_p_waves(leads, pac_beats, signs, *(np.where(np.arange(8) == V1, 1, -0.7) * x for x in (left, right)))
    elif signs.rhythm == "flutter":
        numbers = np.rint((regular_beats - regular_beats[0]) * signs.rate / 60)
        cycles = np.interp(np.arange(SAMPLES) / SAMPLING_RATE, regular_beats, 2 * numbers)
        grid = np.linspace(0, 1, 501)
        saw = sum(np.sin(2 * np.pi * k * (grid - shift)) * 0.85**k / k for k in range(1, 6))
        saw *= chest[0] / np.ptp(saw)
        leads += np.outer(FLUTTER, np.interp(cycles % 1, grid, saw)).astype(np.float32)
    elif signs.rhythm == "af":
        time = np.arange(SAMPLES)
        drawn = []
        for source, (first, second) in zip(noise, phases.reshape(2, 2)):  # the frequency wanders, and so does the size
            knots = np.linspace(0, SAMPLES, source.size)
            frequency = np.interp(time, knots, np.clip(6.2 + 0.7 * source, 4.8, 7.8))
            phase = first + 2 * np.pi * np.cumsum(frequency) / SAMPLING_RATE
            size = np.interp(time, knots, np.clip(1 + 0.35 * np.roll(source, 7), 0.4, 1.6))
            drawn.append(size * (np.sin(phase) + 0.25 * np.sin(2 * phase + second)))
        waves = np.array([drawn[0], 0.6 * drawn[0] + 0.8 * drawn[1]], np.float32)
        # the height from trough to crest of a sine of the same power
        waves *= signs.f_wave_mv / (2 * np.sqrt(2)) / waves.std(axis=1, keepdims=True)
        which = np.array([0, 1, 0, 0, 0, 1, 1, 1])
        leads += FIBRILLATION[:, None].astype(np.float32) * waves[which]


def _add_p_waves(leads: np.ndarray, beats: np.ndarray, signs: EcgSigns, right: np.ndarray, left: np.ndarray) -> None:
    """P = right, then left atrium. The feet of the waves are too flat to see, so they begin a little early."""
    width = signs.p_ms / 0.92
    times = np.arange(0, width + STEP, STEP)
    windows = np.array([(0, 0.7), (0.3, 1)])
    heights = np.transpose([right, left]) / 1.22
    if signs.left_atrium:  # the left one late and large: a notch, and a negative end in V1
        windows = np.array([(0, 0.58), (0.38, 1)])
        heights = np.transpose([right, 1.15 * left])
        heights[V1] = 0.05, -0.125
    template = heights @ _bumps(times, *np.split(windows * width, 2, axis=-1))
    for beat in beats:
        _add(leads, template.astype(np.float32), beat - (signs.pr_ms + 0.04 * width) / 1000)


def write_ecg(path: str | os.PathLike, signal: np.ndarray) -> None:
    """
    Write a WFDB record: `path` + `.hea` and `.dat` (format 16, 200 units/mV, NaN as invalid sample), replaced only
    once they are complete.

    Args:
        path: the record without extension. Its last part may hold letters, digits, `_` and `-`.
        signal (`np.ndarray`): (12, samples) in mV, 500 Hz, in the order of `STANDARD_LEADS`.

    Raises:
        ValueError: for another name or shape, or voltages beyond 160 mV.
    """
    path, signal = Path(path), np.asarray(signal)
    if not re.fullmatch(r"[\w-]+", path.name, re.ASCII):
        raise ValueError(f"path: record name {path.name!r}; accepted are letters, digits, _ and -, no extension.")
    check_signal(signal)
    if np.nanmax(np.abs(signal), initial=0) > 160:
        raise ValueError(f"signal: {np.nanmax(np.abs(signal)):.4g} mV; accepted are up to 160 mV.")
    digital = np.nan_to_num(np.rint(signal * GAIN), nan=INVALID_SAMPLE).astype("<i2")
    lines = [f"{path.name} 12 {SAMPLING_RATE} {signal.shape[1]}"]
    for lead, values in zip(STANDARD_LEADS, digital):
        checksum = int(values.sum(dtype=np.int64)) % 65536
        lines.append(f"{path.name}.dat 16 {GAIN}.0(0)/mV 16 0 {values[0]} {checksum} 0 {lead}")
    lines += ["# Synthetic, no real patient", ""]
    for extension, content in ((".dat", digital.T.tobytes()), (".hea", "\n".join(lines).encode("ascii"))):
        partial = path.with_name(f".{path.name}{extension}.partial")
        try:
            partial.write_bytes(content)
            partial.replace(path.with_name(path.name + extension))
        finally:
            partial.unlink(missing_ok=True)


def check_signal(signal: np.ndarray) -> None:
    """Raises ValueError unless the signal is (12, samples) of two seconds or more."""
    if signal.ndim != 2 or len(signal) != 12 or signal.shape[1] < 2 * SAMPLING_RATE:
        raise ValueError(f"signal: shape {signal.shape}; accepted is (12, samples), at least 2 s of 500 Hz.")
