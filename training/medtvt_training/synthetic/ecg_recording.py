# SPDX-License-Identifier: Apache-2.0
"""From the heart's eight independent leads to the twelve that a machine records: noise, filters and faults."""

import numpy as np

from processing_medtvt.feature_extraction_medtvt_ecg import LIMB_LEADS

from .signs import EcgSigns


SAMPLING_RATE, SECONDS = 500, 10
SAMPLES = SAMPLING_RATE * SECONDS
# Everything is drawn in the eight independent leads I, II, V1-V6; the other limb leads follow from I and II.
LIMB = np.array(list(LIMB_LEADS.values()), np.float32)
# Leads from the electrodes RA, LA, LL, C1-C6: chest leads are against the mean of the limbs.
ELECTRODES = np.hstack([np.full((8, 3), -1 / 3), np.eye(8)[:, 2:]])
ELECTRODES[:2, :3] = [(-1, 1, 0), (-1, 0, 1)]
FREQUENCIES = np.fft.rfftfreq(SAMPLES, 1 / SAMPLING_RATE)


def record(leads: np.ndarray, signs: EcgSigns, rng: np.random.Generator, own_rng: np.random.Generator) -> np.ndarray:
    """
    What a machine records of the heart's leads (8, samples): (12, samples) float32, mV, NaN in a gap.

    `own_rng` draws what `signs.variety` adds: wander that differs from electrode to electrode, electrodes that move,
    noise whose spectrum falls, hum of 50 Hz and the filters of machines.
    """
    if signs.limb_swap:
        leads[:2] = -leads[0], leads[1] - leads[0]
    variety, hum = signs.variety, 60 if own_rng.random() >= 0.5 * signs.variety else 50
    # wander and mains: waves common to all electrodes, in each with its own sizes
    time = np.arange(SAMPLES, dtype=np.float32) / SAMPLING_RATE
    slow = np.concatenate([rng.uniform(0.05, 0.15, 2), rng.uniform(0.15, 0.5, 2)]).astype(np.float32)
    angles = 2 * np.pi * np.concatenate([np.outer(slow, time), [hum * time]]).astype(np.float32)
    waves = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    electrodes = rng.normal(size=(9, 10))
    electrodes[:, :8] *= np.exp(variety * own_rng.normal(0, 0.8, (9, 1)))
    sizes = (ELECTRODES @ electrodes).astype(np.float32)
    wander, mains = sizes[:, :8] @ waves[:4].reshape(8, -1), sizes[:, 8:] @ waves[4]
    # muscle: white noise without its slowest and fastest parts
    white = rng.standard_normal((9, SAMPLES + 3), np.float32)
    white = white[:, 1:] - white[:, :-1]
    muscle = ELECTRODES.astype(np.float32) @ (white[:, 2:] + 2 * white[:, 1:-1] + white[:, :-2])
    if variety:
        muscle, wander = _disturb(muscle, wander, variety, own_rng)
    leads += wander * np.float32(signs.wander_mv / np.ptp(wander, axis=1).mean())
    leads += mains * np.float32(signs.mains_mv / mains.std(axis=1).mean())
    leads += muscle * np.float32(signs.emg_mv / muscle.std(axis=1).mean())
    if variety:
        leads = _filter(leads, variety, own_rng)

    recorded = np.concatenate([LIMB @ leads[:2], leads[2:]]).astype(np.float32)
    if signs.dead_lead is not None:
        recorded[signs.dead_lead] = 0
    if signs.gap is not None:
        lead, start, length = signs.gap
        recorded[lead, round(start * SAMPLING_RATE) : round((start + length) * SAMPLING_RATE)] = np.nan
    return recorded


def _disturb(
    muscle: np.ndarray, wander: np.ndarray, variety: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a falling spectrum, more in some electrodes; wander with small moves of the electrodes."""
    corner, slope = rng.uniform(15, 60), variety * rng.uniform(0.8, 1.8)
    fall = (1 + (FREQUENCIES / corner) ** 2) ** (-0.5 * slope)
    muscle = np.fft.irfft(np.fft.rfft(muscle) * fall, SAMPLES)
    muscle *= np.exp(variety * rng.normal(0, 0.4, (8, 1)))
    # a walk: skin and contact never rest
    walk = np.cumsum(rng.standard_normal((9, SAMPLES // 25 + 1)), axis=1)
    walk = ELECTRODES @ (walk * np.exp(rng.normal(0, 0.5, (9, 1))))
    walk -= walk.mean(axis=1, keepdims=True)
    place = np.arange(SAMPLES) / 25
    walk = np.stack([np.interp(place, np.arange(walk.shape[1]), row) for row in walk])
    share = variety * rng.uniform(0.1, 0.6) * np.ptp(wander, axis=1).mean() / np.ptp(walk, axis=1).mean()
    return muscle.astype(np.float32), (wander + share * walk).astype(np.float32)


def _filter(leads: np.ndarray, variety: float, rng: np.random.Generator) -> np.ndarray:
    """The machine's pass band: its lower end between 0.01 and 0.06 Hz, its upper one at 250, 150, 100 or, rarely, 40 Hz."""
    low, high = rng.uniform(0.01, 0.06), rng.choice([250, 150, 100, 40], p=[0.35, 0.35, 0.25, 0.05])
    band = 1 / np.sqrt(1 + (FREQUENCIES / high) ** 4)
    band *= np.where(FREQUENCIES > 0, FREQUENCIES**2 / (FREQUENCIES**2 + low**2), 1)
    band = 1 + variety * (band - 1)
    return np.fft.irfft(np.fft.rfft(leads) * band, SAMPLES).astype(np.float32)
