# SPDX-License-Identifier: Apache-2.0
"""Whether a signal is a 12-lead ECG, and whether its leads are what they are called: cheap measures, for warnings."""

from functools import lru_cache
from itertools import combinations, permutations

import numpy as np

from .leads_ecg_medtvt import LIMB_LEADS


RATE = 100  # Hz, of everything that is measured on beats
SMALL_MV = 0.01  # a lead that varies by no more carries nothing
# Thresholds lie between real records (60, of eight sources) and noise, test waves and simulated faults: real ones are
# busy at most 0.23, alike at least 0.9, and their limb leads contradict each other by at most 0.03.
MAX_BUSY, MIN_ALIKE, MAX_CONTRADICTION = 0.7, 0.6, 0.1
MIN_SECONDS_TO_JUDGE = 5


def find_contradictions(signals: dict[str, np.ndarray]) -> list[str]:
    """
    Whether the recorded limb leads obey Einthoven (I + III = II) and Goldberger, which any three of them can break.

    Args:
        signals (`dict[str, np.ndarray]`): Recorded leads in mV, by name; NaN where samples are missing.

    Returns:
        `list[str]`: Empty, or one note that names the leads whose exchange or inversion would explain it.
    """
    leads = [lead for lead in LIMB_LEADS if lead in signals and np.nanmax(signals[lead], initial=-np.inf) > -np.inf]
    leads = [lead for lead in leads if np.nanmax(signals[lead]) - np.nanmin(signals[lead]) > SMALL_MV]
    if len(leads) < 3:
        return []
    values = np.stack([signals[lead] for lead in leads])
    values = values[:, np.isfinite(values).all(axis=0)]
    if values.shape[1] < 2:
        return []
    products = np.cov(values)  # the baselines do not count
    if _contradiction(products, leads) <= MAX_CONTRADICTION:
        return []
    return [f"limb leads contradict each other (Einthoven, Goldberger): {_explain(products, leads)}"]


def _contradiction(products: np.ndarray, leads: list[str] | tuple[str, ...]) -> float:
    """Share of the limb leads' amplitude that no heart vector explains, with the rows of `products` called `leads`."""
    unexplained = float((_outside(tuple(leads)) * products).sum())
    return float(np.sqrt(max(unexplained, 0) / max(float(np.trace(products)), 1e-12)))


@lru_cache
def _outside(leads: tuple[str, ...]) -> np.ndarray:
    """Projection on what no heart vector gives in these limb leads."""
    plane = np.array([LIMB_LEADS[lead] for lead in leads])
    return np.eye(len(leads)) - plane @ np.linalg.pinv(plane)


def _explain(products: np.ndarray, leads: list[str]) -> str:
    """The simplest mistake that makes the limb leads fit."""
    found = []
    for first, second in combinations(range(len(leads)), 2):
        names = leads.copy()
        names[first], names[second] = names[second], names[first]
        if _contradiction(products, names) <= MAX_CONTRADICTION / 2:
            found.append(f"{leads[first]} and {leads[second]} look exchanged")
    for row, lead in enumerate(leads):
        signs = np.ones(len(leads))
        signs[row] = -1
        if _contradiction(products * np.outer(signs, signs), leads) <= MAX_CONTRADICTION / 2:
            found.append(f"{lead} looks inverted")
    if len(found) == 1:
        return found[0]
    if not found and len(leads) > 3:
        kept = [[other for other in range(len(leads)) if other != row] for row in range(len(leads))]
        odd = [
            leads[row]
            for row, rest in enumerate(kept)
            if _contradiction(products[np.ix_(rest, rest)], [leads[i] for i in rest]) <= MAX_CONTRADICTION / 2
        ]
        if len(odd) == 1:
            return f"{odd[0]} does not fit the others"
        if any(_contradiction(products, names) <= MAX_CONTRADICTION / 2 for names in permutations(leads)):
            return "their names look mixed up"
    return "names, signs or units of some are wrong"


def find_doubts(values: np.ndarray, leads: list[str], sampling_rate: float, electrodes: bool = True) -> list[str]:
    """
    Whether a signal looks like an ECG and, if so, like one with electrodes exchanged.

    Args:
        values (`np.ndarray`): (leads, samples) in mV, without missing samples or padding.
        leads (`list[str]`): Names of the rows.
        sampling_rate (`float`): In Hz.
        electrodes (`bool`): Whether to look for exchanged electrodes too; for limb leads that fit each other.

    Returns:
        `list[str]`: Empty, or one note. A signal without any variation has none: it is noted elsewhere.
    """
    signal = _at_rate(np.asarray(values, np.float64), sampling_rate)
    live = np.ptp(signal, axis=1) > SMALL_MV
    if not live.any() or signal.shape[1] < 2 * RATE:
        return []
    if len(leads) > 2 and live.all() and np.ptp(signal, axis=0).max() < 1e-3 * np.ptp(signal):
        return ["all leads carry the same signal: is this a 12-lead ECG?"]
    beats, busy = _find_beats(signal[live])
    if _jumps(signal[live]):
        reason = "the signal jumps between two levels"
    elif beats.size < 2:
        if signal.shape[1] < MIN_SECONDS_TO_JUDGE * RATE:
            return []
        reason = "no heartbeat can be made out"
    else:
        beat = _median_beat(signal, beats)
        reason = _no_heartbeat(signal[live], beats, beat[live], busy)
        if not reason:
            return _find_reversal(dict(zip(leads, beat))) if electrodes else []
    return [f"{reason}: is this an ECG?"]


def _at_rate(values: np.ndarray, sampling_rate: float) -> np.ndarray:
    if sampling_rate == RATE:
        return values
    times = np.arange(0, values.shape[1] - 1, sampling_rate / RATE)
    return np.stack([np.interp(times, np.arange(values.shape[1]), row) for row in values])


def _find_beats(signal: np.ndarray) -> tuple[np.ndarray, float]:
    """Samples of the steepest parts, and the share of time in which the signal is about as steep."""
    from scipy.ndimage import uniform_filter1d
    from scipy.signal import find_peaks

    speed = uniform_filter1d(np.sqrt(((signal[:, 2:] - signal[:, :-2]) ** 2).mean(axis=0)), 5)
    blocks = np.array_split(speed, max(1, speed.size // (2 * RATE)))  # 2 s hold a beat
    usual = float(np.median([block.max() for block in blocks]))
    beats, _ = find_peaks(speed, height=0.4 * usual, distance=25)
    beats = beats + 1
    return beats[(beats >= 30) & (beats < signal.shape[1] - 45)], float((speed > 0.3 * usual).mean())


def _jumps(signal: np.ndarray) -> bool:
    """Whether most of the time is spent near the two ends of the range."""
    low, high = signal.min(axis=1, keepdims=True), signal.max(axis=1, keepdims=True)
    level = (signal - low) / np.maximum(high - low, SMALL_MV)
    down, up = (level < 0.15).mean(axis=1), (level > 0.85).mean(axis=1)
    return bool(np.median(np.minimum(down, up)) > 0.2 and np.median(down + up) > 0.8)


def _no_heartbeat(signal: np.ndarray, beats: np.ndarray, beat: np.ndarray, busy: float) -> str:
    """Why what was found are no heartbeats; empty if they are."""
    from scipy.ndimage import uniform_filter1d

    inner = np.arange(-12, 13)
    typical = _centered(beat[:, 18:43])
    shifted = _centered(signal[:, beats[:, None, None] + np.arange(-3, 4)[:, None] + inner])
    size = np.sqrt(np.einsum("lbsi,lbsi->bs", shifted, shifted) * (typical**2).sum())
    alike = (np.einsum("lbsi,li->bs", shifted, typical) / np.maximum(size, 1e-12)).max(axis=1)
    if busy > MAX_BUSY or np.median(alike) < MIN_ALIKE:
        return "no repeated heartbeat can be made out (noise, an artifact or ventricular fibrillation)"
    height = np.abs(beat).max(axis=0)
    after = np.abs(uniform_filter1d(beat, 4, axis=1)[:, 38:]).max(axis=1)  # from 80 ms after the middle
    within = np.abs(beat[:, 27:34]).max(axis=1)
    if (height > 0.25 * height.max()).sum() <= 2 and np.median(after / np.maximum(within, 1e-12)) < 0.04:
        return "there are only spikes, without the waves of a heartbeat (pacing without an answer, or an artifact)"
    return ""


def _centered(windows: np.ndarray) -> np.ndarray:
    return windows - windows.mean(axis=-1, keepdims=True)


def _median_beat(signal: np.ndarray, beats: np.ndarray) -> np.ndarray:
    """(leads, 75): 300 ms before to 450 ms after the middle of QRS, with the level before QRS as zero."""
    beat = np.median(signal[:, beats[:, None] + np.arange(-30, 45)], axis=1)
    return beat - beat[:, 18:24].mean(axis=1, keepdims=True)


def _find_reversal(beat: dict[str, np.ndarray]) -> list[str]:
    """
    Exchanged limb electrodes by the shapes of the waves, since the limb leads still agree with each other then: I or II
    upside down against V5 and V6, or one limb lead almost flat. It is a suspicion: a left arm on the left leg shows in
    nothing.
    """
    if not {*LIMB_LEADS, "V5", "V6"} <= set(beat):
        return []
    chest = (beat["V5"] + beat["V6"]) / 2

    def follows(lead: str) -> float:
        norm = np.linalg.norm(_centered(beat[lead])) * np.linalg.norm(_centered(chest))
        return float(_centered(beat[lead]) @ _centered(chest) / max(norm, 1e-12))

    def height(values: np.ndarray) -> float:
        return float(values.max() + values.min())

    qrs, before = slice(24, 37), slice(8, 22)
    tallest = max(np.ptp(beat[lead]) for lead in LIMB_LEADS)
    for lead, electrodes in (("II", "right arm and right leg"), ("III", "left arm and right leg")):
        if np.ptp(beat[lead]) < 0.05 * tallest:
            return [f"lead {lead} is almost flat: were the electrodes of {electrodes} exchanged?"]
    if height(chest[qrs]) <= 0:
        return []
    if follows("I") < -0.4 and height(beat["I"][qrs]) < 0 and height(beat["I"][before]) < 0.03:  # P is not upright
        return ["lead I is upside down: were the electrodes of the arms exchanged (or is it dextrocardia)?"]
    p_is_down = height(beat["II"][before]) < -0.02
    if follows("II") < -0.4 and follows("aVR") > 0.4 and height(beat["II"][qrs]) < 0 and p_is_down:
        return ["lead II is upside down and aVR upright: were the electrodes of right arm and left leg exchanged?"]
    return []


__all__ = ["SMALL_MV", "find_contradictions", "find_doubts"]
