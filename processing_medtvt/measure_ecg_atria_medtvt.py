# SPDX-License-Identifier: Apache-2.0
"""What the atria show in an ECG: P waves, the PR interval and flutter waves."""

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.signal import detrend, find_peaks


SAMPLING_RATE = 500  # Hz
STEP = 1000 / SAMPLING_RATE  # ms
MAINS = 8  # samples: their mean holds no 60 Hz and next to no 50 Hz
LONGEST_PR = 160  # samples
LEAD_I, LEAD_II, LEAD_III, AVR, AVF, V1 = 0, 1, 2, 3, 4, 6
LATERAL = (0, 9, 10, 11)  # I, V4-V6
UPRIGHT = ((LEAD_I, 1), (LEAD_II, 1), (AVR, -1), (AVF, 1))  # the sum in which P waves of the sinus node are upright
FOOT = 0.12  # of the height of P: where it begins and ends
ATRIA = ("p_regularity", "p_height", "p_ms", "pr_ms", "p_terminal_v1", "p_lead_i", "flutter_fit", "flutter_mv")


def measure_atria(
    signal: np.ndarray, beat: np.ndarray, onset: int, offset: int, starts: np.ndarray, rr: float, reversed_arms: bool
) -> dict[str, float]:
    """
    Args:
        signal (`np.ndarray`): (12, samples) in mV, 500 Hz, NaN where lost.
        beat (`np.ndarray`): (12, n), the median beat.
        onset, offset (`int`): of its QRS.
        starts (`np.ndarray`): onsets of the QRS complexes (samples) of the usual form that are not premature.
        rr (`float`): usual RR interval in s.
        reversed_arms (`bool`): I and V6 are contrary to each other, as with exchanged arm electrodes.

    Returns:
        `dict`: the names of `ATRIA` that could be measured, see [`measure_ecg`].
    """
    found: dict[str, float] = {}
    length = int(min(LONGEST_PR, rr * SAMPLING_RATE - 140, onset))
    upright = UPRIGHT if not reversed_arms else ((AVF, 1),)  # aVF stays as it is
    usable = [(lead, sign) for lead, sign in upright if np.isfinite(signal[lead]).mean() > 0.5]
    if length < 40 or not usable:
        return found
    track = uniform_filter1d(np.mean([sign * signal[lead] for lead, sign in usable], axis=0), MAINS)
    stack = [track[start - 5 - length : start - 5] for start in starts if 5 + length <= start <= track.size]
    stack = [part for part in stack if np.isfinite(part).all()]
    if len(stack) >= 3:
        found["p_regularity"] = _agreement(np.stack(stack))
    found |= _measure_flutter(beat, onset, offset, rr)
    curve = uniform_filter1d(np.mean([sign * beat[lead] for lead, sign in usable], axis=0), MAINS)
    edges = _edges(curve, onset, length)
    if edges is None:
        return found
    first, peak, last, height = edges
    found |= {"p_height": height, "p_ms": (last - first) * STEP, "pr_ms": (onset - first) * STEP}
    if np.isfinite(beat[LEAD_I]).all():
        wave = beat[LEAD_I]
        found["p_lead_i"] = float(wave[peak - 4 : peak + 5].mean() - (wave[first] + wave[last]) / 2)
    if np.isfinite(beat[V1]).all():
        late = uniform_filter1d(beat[V1], MAINS)[first : last + 1]
        late = late - np.linspace(late[0], late[-1], late.size)
        negative = np.minimum(late[late.size // 3 :], 0)
        found["p_terminal_v1"] = -float(negative.sum() * STEP)
    return found


def _agreement(stack: np.ndarray) -> float:
    """Mean correlation of the rows with each other."""
    stack = detrend(stack, axis=1)
    stack = stack / (np.linalg.norm(stack, axis=1, keepdims=True) + 1e-9)
    return float((np.linalg.norm(stack.sum(axis=0)) ** 2 - len(stack)) / (len(stack) * (len(stack) - 1)))


def resting_level(curve: np.ndarray) -> float:
    """
    The level beside a wave: median of the lowest quarter. The lowest point alone lies far from the wave where the baseline
    slopes, so that the wave would seem longer than it is.
    """
    return float(np.median(np.sort(curve)[: max(curve.size // 4, 3)]))


def _edges(curve: np.ndarray, onset: int, length: int) -> tuple[int, int, int, float] | None:
    """First sample, peak and last sample of the P wave, and its height over its feet."""
    begin, end = onset - length, onset - 5
    peaks, _ = find_peaks(curve[begin:end], prominence=0.02)
    if not peaks.size:
        return None
    peak = begin + int(peaks[-1])  # the ones before are T, or the first of a notched P
    before, after = curve[begin : peak + 1], curve[peak:end]
    low_before, low_after = resting_level(before[-70:]), resting_level(after)
    height = curve[peak] - max(low_before, low_after)
    if height <= 0.01:
        return None
    under = np.flatnonzero(before < low_before + FOOT * (curve[peak] - low_before))
    first = begin + int(under[-1]) if under.size else begin
    under = np.flatnonzero(after < low_after + FOOT * (curve[peak] - low_after))
    last = peak + int(under[0]) if under.size else end
    return first, peak, last, float(height)


def _measure_flutter(beat: np.ndarray, onset: int, offset: int, rr: float) -> dict[str, float]:
    """How much better a sawtooth of two waves a beat fits II, III and aVF than one P wave a beat does."""
    period = int(rr * SAMPLING_RATE)
    begin, end = offset + 8, min(onset + period - 8, beat.shape[1])
    leads = [lead for lead in (LEAD_II, LEAD_III, AVF) if np.isfinite(beat[lead]).all()]
    lateral = [lead for lead in LATERAL if np.isfinite(beat[lead]).all()]  # flutter waves are small there, T is not
    if not leads or not lateral or end - begin < 60 or end < onset + period - 20:
        return {}
    between = uniform_filter1d(beat[:, begin:end], MAINS, axis=1)
    time = np.arange(begin, end)
    common = [np.ones(time.size), time - time.mean(), np.mean(between[lateral], axis=0)]
    phases = np.arange(0, 1, 0.04)[:, None]
    cycles = 2 * (time - begin) / period + phases
    saws = sum(np.sin(2 * np.pi * k * cycles) * 0.85**k / k for k in range(1, 6))
    places = begin + phases * time.size
    bumps = np.exp(-0.5 * ((time - places) / 13) ** 2)
    base, _ = np.linalg.qr(np.stack(common, axis=1))
    target = between[leads] - (between[leads] @ base) @ base.T
    left = (target**2).sum()
    fits = []
    for shapes in (saws, bumps):
        shapes = shapes - (shapes @ base) @ base.T
        shapes = shapes / (np.linalg.norm(shapes, axis=1, keepdims=True) + 1e-9)
        share = target @ shapes.T  # (leads, phases)
        best = int(np.argmax((share**2).sum(axis=0)))
        fits.append((left - (share[:, best] ** 2).sum(), share[:, best], shapes[best]))
    (saw_left, share, shape), (bump_left, *_) = fits
    height = np.abs(share).max() * np.ptp(shape)
    return {"flutter_fit": float(np.log((bump_left + 1e-6) / (saw_left + 1e-6))), "flutter_mv": float(height)}
