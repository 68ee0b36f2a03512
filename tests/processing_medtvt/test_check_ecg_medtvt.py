# SPDX-License-Identifier: Apache-2.0
"""Warnings: a signal that is no ECG, leads that contradict each other, electrodes exchanged; and no alarm on real records."""

from itertools import combinations

import numpy as np
import pytest

from processing_medtvt import MedTVTEcgFeatureExtractor

from .ecg_files import LEADS, LIMB, RATE, draw_ecg
from tests.toy import FIXTURES


EXTRACTOR = MedTVTEcgFeatureExtractor()
TIME = np.arange(10 * RATE) / RATE
MV = {"sampling_rate": RATE, "leads": LEADS, "unit": "mV"}


def doubts(signal, **kwargs):
    """Notes beside that of resampling."""
    notes = EXTRACTOR(signal, **{**MV, **kwargs}, return_alterations=True)["alterations"][0]
    return [note for note in notes if "resampled" not in note]


def twelve(eight):
    """Twelve leads that obey Einthoven and Goldberger, from I, II, V1-V6."""
    return np.concatenate([LIMB @ eight[:2], eight[2:]])


def no_ecg(kind, seed):
    rng = np.random.default_rng(seed)
    heights = rng.normal(0.5, 0.5, 8)
    spikes = np.zeros(TIME.size)
    spikes[rng.integers(100, 300) :: rng.integers(300, 500)] = 2
    return {
        "white noise": lambda: rng.normal(0, 0.2, (8, TIME.size)),
        "random walk": lambda: np.cumsum(rng.normal(0, 0.02, (8, TIME.size)), axis=1),
        "muscle": lambda: rng.normal(0, 0.2, (8, TIME.size)) * np.repeat(rng.random(20), TIME.size // 20),
        "mains": lambda: np.outer(heights, np.sin(100 * np.pi * TIME)) + rng.normal(0, 0.01, (8, TIME.size)),
        "sine": lambda: np.outer(heights, np.sin(2 * np.pi * rng.uniform(0.3, 12) * TIME)),
        "square": lambda: np.outer(heights, np.sign(np.sin(2 * np.pi * rng.uniform(0.5, 3) * TIME))),
        "spikes": lambda: np.outer(heights, spikes) + rng.normal(0, 0.003, (8, TIME.size)),
        "one beat": lambda: np.outer(heights, np.exp(-0.5 * ((TIME - 5) / 0.02) ** 2)),
    }[kind]()


KINDS = ["white noise", "random walk", "muscle", "mains", "sine", "square", "spikes", "one beat"]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_ecg_is_warned_of_or_refused(kind, seed):
    signal = twelve(no_ecg(kind, seed))
    (note,) = doubts(signal)
    assert note.endswith("is this an ECG?")
    with pytest.raises(ValueError, match="is this an ECG"):
        EXTRACTOR(signal, **MV, strict=True)


def test_flat_and_copied_signals():
    assert doubts(np.full((12, 5000), 0.3) + draw_ecg() * 1e-3)[-1].endswith("suspiciously small: is the unit right?")
    with pytest.raises(ValueError, match="suspiciously small"):
        EXTRACTOR(draw_ecg() * 1e-3, **MV, strict=True)
    notes = doubts(np.tile(draw_ecg()[:1], (12, 1)))
    assert any("contradict" in note for note in notes) and any("the same signal" in note for note in notes)


REAL = sorted(path for path in (FIXTURES / "ecg").rglob("*.hea") if path.stem != "A00001")
REAL += [*(FIXTURES / "ecg" / "philips_xml").glob("*.xml"), *(FIXTURES / "ecg" / "dicom").glob("*.dcm")]


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_no_false_alarm_on_real_records(path):
    """With pacemaker spikes, atrial fibrillation, bundle branch block, dead leads, static noise."""
    assert EXTRACTOR(path, strict=True)["ecg_values"].any()


@pytest.mark.parametrize("first, second", combinations(LEADS[:6], 2))
def test_exchanged_names_of_limb_leads_are_named(first, second):
    names = LEADS.copy()
    i, j = names.index(first), names.index(second)
    names[i], names[j] = names[j], names[i]
    (note,) = doubts(draw_ecg(), leads=names)
    order = MedTVTEcgFeatureExtractor().leads
    pair = " and ".join(sorted((first, second), key=order.index))
    assert note == f"ecg: limb leads contradict each other (Einthoven, Goldberger): {pair} look exchanged"
    with pytest.raises(ValueError, match="look exchanged"):
        EXTRACTOR(draw_ecg(), **{**MV, "leads": names}, strict=True)


def test_other_contradictions_of_limb_leads():
    signal = draw_ecg()
    signal[3] *= -1  # Cabrera's -aVR
    assert "aVR looks inverted" in doubts(signal)[0]
    signal[3] = signal[8]
    assert "aVR does not fit the others" in doubts(signal)[0]
    names = [*(LEADS[i] for i in (1, 2, 0)), *LEADS[3:]]
    assert "their names look mixed up" in doubts(draw_ecg(), leads=names)[0]
    assert not doubts(draw_ecg()[[0, 1, *range(6, 12)]], leads=[*LEADS[:2], *LEADS[6:]])[4:]  # nothing to compare


def reversal(signal, right_arm, left_arm, left_leg):
    """The limb leads that the electrodes give where they sit on other limbs; potentials relative to the right arm."""
    potential = {"RA": np.zeros(signal.shape[1]), "LA": signal[0], "LL": signal[1], "RL": signal[1] * 0.99}
    one, two = potential[left_arm] - potential[right_arm], potential[left_leg] - potential[right_arm]
    return np.concatenate([LIMB @ np.stack([one, two]), signal[6:]])


REVERSALS = [
    (("LA", "RA", "LL"), "lead I is upside down: were the electrodes of the arms exchanged"),
    (("LL", "LA", "RA"), "upside down"),
    (("RL", "LA", "LL"), "lead II is almost flat: were the electrodes of right arm and right leg exchanged"),
    (("RA", "RL", "LL"), "lead III is almost flat: were the electrodes of left arm and right leg exchanged"),
]


@pytest.mark.parametrize("limbs, message", REVERSALS)
def test_exchanged_electrodes(limbs, message):
    signal = reversal(draw_ecg(), *limbs)
    (note,) = doubts(signal)
    assert message in note
    with pytest.raises(ValueError, match=message[:20]):
        EXTRACTOR(signal, **MV, strict=True)
    assert not doubts(reversal(draw_ecg(), "RA", "LA", "LL"))


@pytest.mark.parametrize("rate", [62.5, 100, 250, 1000])
def test_other_rates_of_the_output(rate):
    extractor = MedTVTEcgFeatureExtractor(sampling_rate=rate)
    assert extractor(draw_ecg(), **MV, strict=True)["ecg_values"].any()
    with pytest.raises(ValueError, match="is this an ECG"):
        extractor(twelve(no_ecg("muscle", 0)), **MV, strict=True)
