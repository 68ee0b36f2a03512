# SPDX-License-Identifier: Apache-2.0
"""What the ventricles show in the median beat of an ECG: form of QRS, Q waves, ST by contiguous leads, forms of T."""

import numpy as np
from scipy.ndimage import median_filter, uniform_filter1d
from scipy.signal import find_peaks


SAMPLING_RATE = 500  # Hz
STEP = 1000 / SAMPLING_RATE  # ms
MAINS = 8  # samples: their mean holds no 60 Hz and little 50 Hz
LEAD_I, LEAD_II, LEAD_III, AVR, AVF, AVL, V1, V2, V3, V4, V5, V6 = range(12)
TERRITORIES = {"inferior": (LEAD_II, LEAD_III, AVF), "septal": (V1, V2), "anterior": (V3, V4)}
CONTIGUOUS = ((AVL, LEAD_I), (LEAD_II, AVF), (AVF, LEAD_III), (V1, V2), (V2, V3), (V3, V4), (V4, V5), (V5, V6))
VENTRICLES = (
    *("v1_net", "v1_end", "lateral_end", "lateral_start", "r_v4", "r_avl", "s_v3"),
    *(f"q_{what}_{territory}" for territory in TERRITORIES for what in ("ms", "share")),
    "q_share_ii",
    *("st_elevation", "st_depression", "t_flat", "t_limb", "t_chest", "t_ms", "u_mv", "u_share", "t_v5_v6", "i_v6", "spike"),
)


def measure_ventricles(beat: np.ndarray, onset: int, offset: int, rr: float) -> dict[str, float]:
    """
    Args:
        beat (`np.ndarray`): (12, n) in mV, 500 Hz, the median beat, NaN where a lead is lost.
        onset, offset (`int`): of its QRS.
        rr (`float`): RR interval in s.

    Returns:
        `dict`: the names of `VENTRICLES` that could be measured, see [`measure_ecg`].
    """
    beat = uniform_filter1d(beat, MAINS, axis=1)
    beat = beat - np.median(beat[:, onset - 15 : onset - 3], axis=1, keepdims=True)
    qrs = beat[:, onset : offset + 1]
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
        found["st_elevation"] = max(min(pair) for pair in pairs)
        found["st_depression"] = max(min(-a, -b) for a, b in pairs)
    next_p = min(onset + int(rr * SAMPLING_RATE) - 90, beat.shape[1] - 1)
    next_qrs = min(offset + 210, onset + int(0.93 * rr * SAMPLING_RATE), beat.shape[1] - 1)
    return found | _t_forms(beat, offset, next_qrs) | _u_wave(beat, offset, next_p) | _lead_i(beat)


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
    small = 0.025
    moved = np.flatnonzero(np.abs(qrs) > small)
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
    # T of a lead against its R, the second flattest of the leads where T is upright
    tall = [lead for lead in (LEAD_I, LEAD_II, V3, V4, V5, V6) if usable[lead]]
    if len(tall) >= 3:
        found["t_flat"] = np.sort(np.abs(t[tall]))[1]
    both = [lead for lead in (V5, V6) if usable[lead]]
    if both:
        found["t_v5_v6"] = np.mean(t[both])
    return {name: float(value) for name, value in found.items()}


def _u_wave(beat: np.ndarray, offset: int, end: int) -> dict[str, float]:
    """Height (mV) of a second wave after T in V2-V4, over the level after it, and its share of T."""
    middle = [lead for lead in (V2, V3, V4) if np.isfinite(beat[lead]).all()]
    if not middle or end - offset < 120:
        return {}
    curve = uniform_filter1d(np.mean(beat[middle], axis=0), 15)[offset + 50 : end]
    peaks, about = find_peaks(curve, prominence=0.015)
    if peaks.size < 2:
        return {"u_mv": 0.0, "u_share": 0.0}
    u = about["prominences"][-1]
    return {"u_mv": float(u), "u_share": float(u / max(about["prominences"][:-1].max(), 0.02))}


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
