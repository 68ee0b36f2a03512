# SPDX-License-Identifier: Apache-2.0
"""Intervals and amplitudes of an ECG, from the signal alone."""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import median_filter, uniform_filter1d
from scipy.signal import detrend, find_peaks

from .measure_ecg_atria_medtvt import ATRIA, measure_atria
from .measure_ecg_ventricles_medtvt import VENTRICLES, measure_spikes, measure_ventricles


SAMPLING_RATE = 500  # Hz
STEP = 1000 / SAMPLING_RATE  # ms
MAINS = 8  # samples: their mean holds no 60 Hz and little 50 Hz
WIDE = 50  # samples: of a beat, where it changes fast
EARLIEST_P = -150  # samples from the middle of QRS to the peak of P
LATEST_T = 200  # samples from the middle of QRS to the peak of T
BEFORE, AFTER = 200, 325  # samples of the median beat around the middle of QRS
RHYTHM = ("rr_spread", "other_forms", "wide_beats", "longest_rr", "shortest_rr", "early_beats")
LEAD_GROUPS = {"inferior": (1, 2, 4), "septal": (6, 7), "anterior": (8, 9), "lateral": (0, 5, 10, 11)}


def measure_ecg(signal: np.ndarray) -> dict[str, float]:
    """
    Intervals and amplitudes of the median beat, from the signal alone: for the evidence check, reports and baselines.

    Waves of 50 and 60 Hz higher than 0.01 mV are taken out first.

    Args:
        signal (`np.ndarray`): (12, samples) in mV, 500 Hz, in the order of `STANDARD_LEADS`; NaN and flat leads are
            left out.

    Returns:
        `dict`: NaN where it cannot be measured. Times in ms and heights in mV unless stated.

        - Rhythm: `heart_rate` (1/min), `rr_variation` (standard deviation over mean, without beats of another form),
          `rr_spread` (quartiles over median), `other_forms` and `wide_beats` (beats of another form, and those of them
          that are early and wide), `longest_rr` (s), `shortest_rr` (of the usual form, over the shorter of its
          neighbors), `early_beats` (below 0.87 of it).
        - Atria: `p_amplitude` (lead II; near zero without P waves), `p_regularity` (mean correlation of the stretches
          before QRS: 1 with P waves, 0 in fibrillation), `p_height`, `p_ms`, `pr_ms`, `p_terminal_v1` (negative area of
          P in V1, mV ms), `p_lead_i`, `flutter_fit` (logarithm of how much better a 2:1 sawtooth fits the inferior
          leads than one P wave), `flutter_mv`.
        - QRS: `qrs_ms`, `axis` (degrees, from the area of QRS), `sv1_rv56`, `r_v3`, `r_v4`, `r_avl`, `s_v3`,
          `limb_voltage` and `chest_voltage` (largest QRS), `v1_net` (maximum + minimum), `v1_end` and `lateral_end`
          (mean of the last third in V1, in I and V6), `lateral_start`, `spike` (of a pacemaker, over the noise), `i_v6`
          (correlation of I and V6), and for inferior, septal and anterior leads `q_ms_{group}` and `q_share_{group}`
          (Q wave of the lead with the second longest, and as a share of R); `q_share_ii`.
        - ST and T: `qt_ms`, `qtc_ms` (QT + 154 (1 - RR)); for the groups inferior, septal, anterior and lateral
          `st_{group}` (at J + 60-80 ms) and `t_{group}`; `st_elevation` and `st_depression` (what two neighboring leads
          have; elevation in V2 and V3 counts half), `t_limb`, `t_chest` (highest), `t_ms` (width at half height),
          `t_ii`, `t_v3_v4`, `t_v5_v6` (where T peaks), `u_mv` and `u_share` (of a wave after T).

    Raises:
        ValueError: if `signal` has another shape, or is shorter than two seconds.
    """
    signal, filled, lost = _clean(signal)
    beats, conducted = find_beats(filled[~lost])
    names = ["heart_rate", "rr_variation", "p_amplitude", "qrs_ms", "qt_ms", "qtc_ms", "axis", "sv1_rv56", "r_v3"]
    names += ["limb_voltage", "chest_voltage", *(f"{wave}_{group}" for group in LEAD_GROUPS for wave in ("st", "t"))]
    found = dict.fromkeys([*names, *RHYTHM, *ATRIA, *VENTRICLES], float("nan"))
    if beats.size < 3 or conducted.sum() < 2:
        return found
    rr = np.diff(beats) / SAMPLING_RATE
    normal = conducted[1:] & conducted[:-1]
    rr_normal = rr[normal] if normal.any() else rr
    found["heart_rate"] = 60 / rr.mean()
    found["rr_variation"] = rr_normal.std() / rr_normal.mean()
    found["rr_spread"] = np.subtract(*np.percentile(rr_normal, [75, 25])) / np.median(rr_normal)
    early = _early(rr, normal)
    found |= _measure_rhythm(rr, conducted, early)
    found["wide_beats"] = _count_wide(filled[~lost], beats, conducted, rr)
    inside = _whole_beats(beats[conducted], signal.shape[1])
    if not inside.size:
        return {name: float(value) for name, value in found.items()}
    beat, onset, offset = _median_beat(signal, inside, ~lost)
    if offset <= onset + 1:  # noise, no QRS
        return {name: float(value) for name, value in found.items()}
    found |= _measure_beat(beat, onset, offset, rr.mean())
    on_time = np.append(True, ~(early < 0.87)) & conducted
    starts = beats[on_time] + onset - BEFORE
    typical = np.median(rr)
    found |= measure_ventricles(beat, onset, offset, typical, found["qt_ms"])
    found |= measure_atria(signal, beat, onset, offset, starts, typical, found["i_v6"] < -0.5)
    found["spike"] = measure_spikes(signal, starts)
    return {name: float(value) for name, value in found.items()}


class Waves(NamedTuple):
    """
    Where the waves of an ECG lie.

    Args:
        onsets (`list[float]`): of the QRS complexes of the usual form, in s.
        spans (`dict[str, tuple[float, float]]`): start and end of P, PR, QRS, ST (to J + 80 ms), T, ST-T and QT in s from
            the onset of QRS; what could not be measured is left out.
    """

    onsets: list[float]
    spans: dict[str, tuple[float, float]]


def find_waves(signal: np.ndarray) -> Waves | None:
    """
    The intervals that [`measure_ecg`] measures, with their places in the recording; None where it finds no QRS.

    Args:
        signal (`np.ndarray`): as for [`measure_ecg`].

    Raises:
        ValueError: as there.
    """
    cleaned, filled, lost = _clean(signal)
    beats, conducted = find_beats(filled[~lost])
    inside = _whole_beats(beats[conducted], cleaned.shape[1])
    if beats.size < 3 or not inside.size:
        return None
    _, onset, offset = _median_beat(cleaned, inside, ~lost)
    if offset <= onset + 1:
        return None
    measured = measure_ecg(signal)
    pr, p, qt = (measured[name] / 1000 for name in ("pr_ms", "p_ms", "qt_ms"))
    qrs, st = (offset - onset) / SAMPLING_RATE, (offset - onset) / SAMPLING_RATE + 0.08
    spans = {"QRS": (0.0, qrs), "ST": (qrs, st), "P": (-pr, p - pr), "PR": (-pr, 0.0), "QT": (0.0, qt)}
    spans |= {"T": (st, qt), "ST-T": (qrs, qt)}
    onsets = (beats[conducted] + onset - BEFORE) / SAMPLING_RATE
    known = {name: (float(a), float(b)) for name, (a, b) in spans.items() if b > a}  # NaN is not
    return Waves(onsets.tolist(), known)


def _clean(signal: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The leads without mains, NaN where lost; the same with zeros there; and which leads are lost altogether."""
    signal = np.array(signal, np.float32)
    if signal.ndim != 2 or len(signal) != 12 or signal.shape[1] < 2 * SAMPLING_RATE:
        raise ValueError(f"signal: shape {signal.shape}; accepted is (12, samples), at least 2 s of 500 Hz.")
    gaps = np.isnan(signal)
    filled = np.where(gaps, 0, signal)
    lost = (gaps.mean(axis=1) > 0.5) | (np.ptp(filled, axis=1) < 0.02)
    filled = _without_mains(filled)
    return np.where(gaps | lost[:, None], np.nan, filled), filled, lost


def _whole_beats(beats: np.ndarray, samples: int) -> np.ndarray:
    return beats[(beats >= BEFORE) & (beats < samples - AFTER)]


def _without_mains(leads: np.ndarray) -> np.ndarray:
    """The leads less waves of 50 and 60 Hz, where these are more than 0.01 mV high."""
    leads = leads.copy()
    blocks = range(0, leads.shape[1] - SAMPLING_RATE + 1, SAMPLING_RATE)  # of one second: whole cycles of both
    for start in blocks:
        stop = leads.shape[1] if start == blocks[-1] else start + SAMPLING_RATE
        angles = 2 * np.pi * np.outer([50, 60], np.arange(stop - start)) / SAMPLING_RATE
        waves = np.concatenate([np.sin(angles), np.cos(angles)]).astype(np.float32)
        sizes = leads[:, start:stop] @ waves.T * np.float32(2 / (stop - start))
        sizes[np.hypot(sizes, np.roll(sizes, 2, axis=1)) < 0.01] = 0
        leads[:, start:stop] -= sizes @ waves
    return leads


def _early(rr: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Each RR interval as a share of the usual ones around it, NaN before or after a beat of another form."""
    early = np.full(rr.size, np.nan)
    places = np.flatnonzero(normal)
    for i in places:
        near = rr[places[abs(places - i) == 1]]  # sinus arrhythmia shortens several in a row
        if near.size:
            early[i] = rr[i] / near.min()
    return early


def _count_wide(leads: np.ndarray, beats: np.ndarray, conducted: np.ndarray, rr: np.ndarray) -> float:
    """How many beats of another form, not the first or the last, are early and wider than the usual ones."""
    speed = uniform_filter1d(leads, MAINS, axis=1)
    speed = np.sqrt(np.sum((speed[:, 4:] - speed[:, :-4]) ** 2, axis=0))
    around = np.stack([speed[beat - 62 : beat + 58] for beat in beats[1:-1] if 62 <= beat < speed.size - 58])
    widths = np.sum(around > 0.25 * around.max(axis=1, keepdims=True), axis=1)
    early = rr[:-1] < 0.9 * np.median(rr)
    other = ~conducted[1:-1]
    usual = np.median(widths[~other]) if not other.all() else 0
    return float(np.sum(other & early & (widths > min(1.15 * usual, WIDE))))


def _measure_rhythm(rr: np.ndarray, conducted: np.ndarray, early: np.ndarray) -> dict[str, float]:
    found = {"other_forms": np.sum(~conducted[1:-1]), "longest_rr": rr.max()}
    if np.isfinite(early).any():
        found |= {"shortest_rr": np.nanmin(early), "early_beats": np.sum(early < 0.87)}
    return found


def find_beats(leads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middles of the QRS complexes (samples) in (n, samples) leads, and which of them have the usual form."""
    nothing = np.zeros(0, int), np.zeros(0, bool)
    if not len(leads):
        return nothing
    leads = uniform_filter1d(leads, MAINS, axis=1)
    speed = np.sum((leads[:, 4:] - leads[:, :-4]) ** 2, axis=0)  # over 8 ms
    speed = uniform_filter1d(speed, 45)
    blocks = np.array_split(speed, max(speed.size // 990, 1))  # 2 s hold a beat
    usual = np.percentile([block.max() for block in blocks], 25)  # premature beats may be larger
    peaks, _ = find_peaks(speed, height=0.1 * usual, distance=120)
    if peaks.size < 3:
        return nothing
    # a small one soon after a beat, or before the first, is a T wave
    small = speed[peaks] < 0.5 * usual
    soon = np.diff(peaks, prepend=-200 if not small[0] else 0) < 178
    peaks = peaks[~(small & soon)] + 2
    peaks = peaks[(peaks >= 60) & (peaks < leads.shape[1] - 60)]
    if peaks.size < 3:
        return nothing
    large = speed[np.clip(peaks - 2, 0, None)] > 0.5 * usual
    # shape around each peak, all leads together, moved to where it fits the median best
    alike, peaks = _compare_forms(leads, peaks, large)
    usual_form = alike > 0.75
    echoes = _follow_every_beat(leads, peaks, usual_form & large, ~large)
    return peaks[~echoes], usual_form[~echoes]


def _compare_forms(leads: np.ndarray, peaks: np.ndarray, large: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of each complex with the median of the large ones, and the peaks moved to where it is highest."""
    offsets = np.arange(-50, 51, 2)
    window = np.stack([leads[:, peak + offsets] for peak in peaks])
    window = detrend(window, axis=2).reshape(peaks.size, -1)
    typical = np.median(window[large], axis=0)
    alike = window @ typical / (np.linalg.norm(window, axis=1) * np.linalg.norm(typical) + 1e-9)
    shifts = np.arange(-8, 9)
    peaks = peaks.copy()
    for i in np.flatnonzero(alike > 0.6):
        shifted = leads[:, peaks[i] + offsets[:, None] + shifts[None]].reshape(-1, shifts.size)
        peaks[i] += shifts[np.argmax(typical @ shifted)]
    return alike, peaks


def _follow_every_beat(leads: np.ndarray, peaks: np.ndarray, usual: np.ndarray, small: np.ndarray) -> np.ndarray:
    """Which complexes are T or P waves: the same wave lies at the same distance from the other beats too."""
    offsets = np.arange(-40, 41, 2)
    found = np.zeros(peaks.size, bool)
    beats = np.flatnonzero(usual)
    for i in np.flatnonzero(~usual):
        own = detrend(leads[:, peaks[i] + offsets], axis=1).ravel()
        for beat in (*beats[beats < i][-1:], *beats[beats > i][:1]):
            distance = peaks[i] - peaks[beat]
            # farther away are premature beats, which may follow every beat
            if not (0 if not small[i] else EARLIEST_P) < distance < LATEST_T:
                continue
            places = peaks[beats[beats != beat]] + distance
            places = places[(places >= 50) & (places < leads.shape[1] - 50)]
            if places.size >= 2:
                others = np.median([leads[:, place + offsets] for place in places], axis=0)
                others = detrend(others, axis=1).ravel()
                found[i] |= own @ others > 0.7 * np.linalg.norm(own) * np.linalg.norm(others)
    return found


def _median_beat(signal: np.ndarray, beats: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Median of the beats (12, 525) with the level before QRS as zero; onset and offset of QRS."""
    stack = np.stack([signal[:, beat - BEFORE : beat + AFTER] for beat in beats])
    stack = stack - np.median(stack[:, :, BEFORE - 70 : BEFORE - 40], axis=2, keepdims=True)  # a gap there: all NaN
    with_gaps = np.isnan(stack).any(axis=(0, 2)) & usable
    beat = np.median(stack, axis=0)
    if with_gaps.any():
        beat[with_gaps] = np.nanmedian(stack[:, with_gaps], axis=0)
    without_spikes = uniform_filter1d(median_filter(beat[usable], (1, 5)), 3, axis=1)
    speed = np.sqrt((np.diff(without_spikes, axis=1, prepend=0) ** 2).sum(axis=0))
    qrs = slice(BEFORE - 60, BEFORE + 60)
    limit = max(0.05 * speed[qrs].max(), 2.5 * np.percentile(speed, 30))
    fast = np.flatnonzero(speed[BEFORE - 75 : BEFORE + 75] > limit) + BEFORE - 75
    groups = np.split(fast, np.flatnonzero(np.diff(fast) > 8) + 1)
    if not fast.size:  # noise, no QRS
        return beat, 0, 0
    steep = [group for group in groups if speed[group].max() > 0.3 * speed[qrs].max()]  # not P, not T
    first = last = int(np.argmax([speed[group].max() for group in steep]))
    while first and steep[first][0] - steep[first - 1][-1] < 25:
        first -= 1
    while last < len(steep) - 1 and steep[last + 1][0] - steep[last][-1] < 25:  # farther away is a tented T
        last += 1
    return beat, steep[first][0] - 1, steep[last][-1] + 1


def _measure_beat(beat: np.ndarray, onset: int, offset: int, rr: float) -> dict[str, float]:
    """The measures of [`measure_ecg`] that come from the median beat."""
    beat = beat - np.median(beat[:, onset - 12 : onset - 1], axis=1, keepdims=True)  # not of a spike
    qrs = beat[:, onset : offset + 1]
    heights = np.ptp(qrs, axis=1)
    found = {"qrs_ms": (offset - onset) * STEP}
    found["limb_voltage"], found["chest_voltage"] = np.fmax.reduce(heights[:6]), np.fmax.reduce(heights[6:])
    found["sv1_rv56"] = np.fmax(qrs[10].max(), qrs[11].max()) - qrs[6].min()
    found["r_v3"] = max(qrs[8].max(), 0)
    found["axis"] = np.degrees(np.arctan2(qrs[4].sum() * 2 / np.sqrt(3), qrs[0].sum()))

    end = min(offset + 210, beat.shape[1] - 1, onset + int(0.93 * rr * SAMPLING_RATE))
    size = uniform_filter1d(np.sqrt(np.nanmean(beat[:, offset:end] ** 2, axis=0)), 7)
    peak = 30 + int(np.argmax(size[30:]))
    fall = np.diff(size[peak : peak + 80])
    if fall.size > 10:
        steepest = int(np.argmin(fall))
        t_end = peak + steepest + 0.5 + size[peak + steepest] / max(-fall[steepest], 1e-6)
        found["qt_ms"] = (offset - onset + min(t_end, size.size)) * STEP
        found["qtc_ms"] = found["qt_ms"] + 154 * (1 - rr)
    st = beat[:, offset + 30 : offset + 40].mean(axis=1)
    late = beat[:, offset + 40 : end]
    t = np.take_along_axis(late, np.abs(late).argmax(axis=1)[:, None], axis=1)[:, 0]
    for group, leads in LEAD_GROUPS.items():
        for wave, values in (("st", st[list(leads)]), ("t", t[list(leads)])):
            found[f"{wave}_{group}"] = np.nanmean(values) if np.isfinite(values).any() else np.nan
    # lead II between T and QRS
    before = beat[1, max(onset - 130, onset - int((rr - 0.35) * SAMPLING_RATE), 0) : onset - 8]
    if before.size > 30:
        found["p_amplitude"] = uniform_filter1d(before, 9).max() - np.percentile(before, 15)
    return found
