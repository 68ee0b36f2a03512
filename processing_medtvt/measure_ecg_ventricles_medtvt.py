# SPDX-License-Identifier: Apache-2.0
"""What the ventricles show in the median beat of an ECG: form of QRS, Q waves, ST by contiguous leads, forms of T."""

import numpy as np
from scipy.ndimage import median_filter, uniform_filter1d
from scipy.signal import find_peaks


SAMPLING_RATE = 500  # Hz
STEP = 1000 / SAMPLING_RATE  # ms
MAINS = 8  # samples: their mean holds no 60 Hz and little 50 Hz
LEAD_I, LEAD_II, LEAD_III, AVR, AVF, AVL, V1, V2, V3, V4, V5, V6 = range(12)
LATEST_T_MS = 475  # from the onset of QRS to the peak of T, at 60 per minute: later is a U wave
SMALLEST = 0.04  # mV: a wave of QRS
T_PEAK_TO_END = 78  # ms
TERRITORIES = {"inferior": (LEAD_II, LEAD_III, AVF), "septal": (V1, V2), "anterior": (V3, V4)}
CONTIGUOUS = ((AVL, LEAD_I), (LEAD_II, AVF), (AVF, LEAD_III), (V1, V2), (V2, V3), (V3, V4), (V4, V5), (V5, V6))
VENTRICLES = (
    *("v1_net", "v1_end", "lateral_end", "lateral_start", "r_v4", "r_avl", "s_v3"),
    *(f"q_{what}_{territory}" for territory in TERRITORIES for what in ("ms", "share")),
    "q_share_ii",
    *(
        "st_elevation",
        "st_depression",
        "t_limb",
        "t_chest",
        "t_ms",
        "u_mv",
        "u_share",
        "t_ii",
        "t_v3_v4",
        "t_v5_v6",
        "i_v6",
        "spike",
    ),
)


def measure_ventricles(beat: np.ndarray, onset: int, offset: int, rr: float, qt_ms: float) -> dict[str, float]:
    """
    Args:
        beat (`np.ndarray`): (12, n) in mV, 500 Hz, the median beat, NaN where a lead is lost.
        onset, offset (`int`): of its QRS.
        rr (`float`): RR interval in s.
        qt_ms (`float`): QT; where it is NaN or out of place, the usual one of that RR interval stands for it.

    Returns:
        `dict`: the names of `VENTRICLES` that could be measured, see [`measure_ecg`].
    """
    beat = beat - np.median(beat[:, onset - 15 : onset - 3], axis=1, keepdims=True)
    qrs = uniform_filter1d(beat, 4, axis=1)[:, onset : offset + 1]
    beat = uniform_filter1d(beat, MAINS, axis=1)
    found = _qrs_form(qrs)
    for territory, leads in TERRITORIES.items():
        q_waves = sorted((_q_wave(qrs[lead]) for lead in leads if np.isfinite(qrs[lead]).all()), reverse=True)
        if len(q_waves) >= 2:  # what two leads have
            found[f"q_ms_{territory}"] = q_waves[1][0]
            found[f"q_share_{territory}"] = min(q_waves[0][1], q_waves[1][1])
    if np.isfinite(qrs[LEAD_II]).all():
        found["q_share_ii"] = _q_wave(qrs[LEAD_II])[1]
    st = beat[:, offset + 30 : offset + 40].mean(axis=1)
    pairs = [(st[a], st[b]) for a, b in CONTIGUOUS if np.isfinite([st[a], st[b]]).all()]
    if pairs:
        found["st_depression"] = max(min(-a, -b) for a, b in pairs)
    raised = np.minimum(st, beat[:, offset + 8 : offset + 18].mean(axis=1))  # not the rise of T
    raised[[V2, V3]] /= 2  # their limit is 0.2 mV, that of the others 0.1 mV
    pairs = [(raised[a], raised[b]) for a, b in CONTIGUOUS if np.isfinite([raised[a], raised[b]]).all()]
    if pairs:
        found["st_elevation"] = max(min(pair) for pair in pairs)
    next_qrs = min(offset + 210, onset + int(0.93 * rr * SAMPLING_RATE), beat.shape[1] - 1)
    return (
        found
        | _t_forms(beat, offset, next_qrs)
        | _t_peaks(beat, onset, rr, qt_ms)
        | _u_wave(beat, onset, offset, rr)
        | _lead_i(beat)
    )


def _qrs_form(qrs: np.ndarray) -> dict[str, float]:
    third = max(qrs.shape[1] // 3, 1)
    lateral = [lead for lead in (LEAD_I, V6) if np.isfinite(qrs[lead]).all()]
    found = {
        "v1_net": qrs[V1].max() + qrs[V1].min(),
        "v1_end": qrs[V1, -third:-2].mean(),
        "r_v4": max(qrs[V4].max(), 0),
        "r_avl": max(qrs[AVL].max(), 0),
        "s_v3": -min(qrs[V3].min(), 0),
    }
    if lateral:
        found["lateral_end"] = np.mean([qrs[lead, -third:-2].mean() for lead in lateral])
        found["lateral_start"] = min(qrs[lead, : qrs.shape[1] // 2].min() for lead in lateral)
    return {name: float(value) for name, value in found.items()}


def _q_wave(qrs: np.ndarray) -> tuple[float, float]:
    """Length (ms) of a Q wave, and its depth as a share of R (10 at most); zero without one."""
    moved = np.flatnonzero(np.abs(qrs) > SMALLEST)
    if not moved.size or qrs[moved[0]] > 0:
        return 0.0, 0.0
    rising = np.flatnonzero(qrs[moved[0] :] > 0)
    stop = moved[0] + int(rising[0]) if rising.size else qrs.size
    start = moved[0]
    depth, r = -qrs[start:stop].min(), max(qrs[stop:].max(initial=0), 0)
    return float((stop - start) * STEP), float(min(depth / max(r, 0.03), 10))


def _t_forms(beat: np.ndarray, offset: int, end: int) -> dict[str, float]:
    late = beat[:, offset + 40 : end]
    usable = np.isfinite(late).all(axis=1)
    if late.shape[1] < 60 or not usable.any():
        return {}
    found = {}
    places = np.abs(late).argmax(axis=1)
    t = np.take_along_axis(late, places[:, None], axis=1)[:, 0]
    limb = [lead for lead in range(6) if usable[lead]]
    chest = [lead for lead in range(6, 12) if usable[lead]]
    if limb:
        found["t_limb"] = t[limb].max()
    if chest:
        highest = chest[int(np.argmax(t[chest]))]
        wave = late[highest]
        found["t_chest"] = t[highest]
        found["t_ms"] = np.sum(wave > 0.5 * t[highest]) * STEP
    return {name: float(value) for name, value in found.items()}


def _t_peaks(beat: np.ndarray, onset: int, rr: float, qt_ms: float) -> dict[str, float]:
    """T where it peaks, in II, V3-V4 and V5-V6: not the ST segment before it, however deep."""
    correction = 154 * (1 - rr)
    if not 360 < qt_ms + correction < 560:
        qt_ms = 430 - correction
    middle = onset + int((qt_ms - T_PEAK_TO_END) / STEP)
    found = {}
    for name, leads in (("ii", (LEAD_II,)), ("v3_v4", (V3, V4)), ("v5_v6", (V5, V6))):
        usable = [lead for lead in leads if np.isfinite(beat[lead]).all()]
        if usable:
            found[f"t_{name}"] = float(beat[usable, middle - 12 : middle + 13].mean())
    return found


def _u_wave(beat: np.ndarray, onset: int, offset: int, rr: float) -> dict[str, float]:
    """Height (mV) of a wave in V2-V4 that peaks later than T can, and its share of T."""
    middle = [lead for lead in (V2, V3, V4) if np.isfinite(beat[lead]).all()]
    latest_t = onset + int((LATEST_T_MS - 154 * (1 - rr)) / STEP)
    next_p = min(onset + int(rr * SAMPLING_RATE) - 85, beat.shape[1] - 1)
    if not middle or next_p - latest_t < 16:
        return {}
    curve = uniform_filter1d(np.mean(beat[middle], axis=0), 15)[offset + 40 : next_p]
    peaks, about = find_peaks(curve, prominence=0.015)
    late = peaks > latest_t - offset - 40
    u = about["prominences"][late].max(initial=0)
    return {"u_mv": float(u), "u_share": float(u / max(curve[: latest_t - offset - 40].max(), 0.02))}


def _lead_i(beat: np.ndarray) -> dict[str, float]:
    """Correlation of QRS and T in I and V6: far below zero where the arm electrodes are exchanged."""
    first, sixth = beat[LEAD_I, 130:], beat[V6, 130:]
    if not np.isfinite(first + sixth).all():
        return {}
    return {"i_v6": float(np.corrcoef(first, sixth)[0, 1])}


def measure_spikes(signal: np.ndarray, starts: np.ndarray) -> float:
    """Steepness of what lies just before QRS, over the usual noise: high with a pacemaker's spike."""
    usable = signal[np.isfinite(signal).mean(axis=1) > 0.5]
    spikes = np.nan_to_num(np.abs(usable - median_filter(usable, (1, 7)))).max(axis=0)
    noise = np.percentile(spikes, 90)
    hits = [spikes[max(start - 20, 0) : start + 6].max() for start in starts if start > 20]
    return float(np.median(hits) / max(noise, 0.02)) if hits else float("nan")
