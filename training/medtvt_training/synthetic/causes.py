# SPDX-License-Identifier: Apache-2.0
"""
The causes of one imaginary patient: age, sex, the seven diseases, hidden conditions, treatment and timing.

Prevalence, comorbidity and hidden conditions are those of the project's table of physiology, which fits them to the
code counts of MedTVT-QA (paper, Table 5) and to the open MIMIC-IV demo.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from modeling_medtvt import DISEASES


CODES = ("CAD", "ARF", "HTN", "AF", "PNA", "DM", "SEP")
DISEASE_OF_CODE = dict(zip(CODES, DISEASES))
# log-odds at 65 years, and the odds ratio of a decade
INTERCEPTS = {"CAD": -1.85, "ARF": -1.78, "HTN": 0.08, "AF": -1.42, "PNA": -2.17, "DM": -2.18, "SEP": -2.47}
AGE_ODDS = {"CAD": 1.35, "ARF": 1.1, "HTN": 1.45, "AF": 1.6, "PNA": 1.1, "DM": 1.05, "SEP": 1.05}
PAIR_ODDS = {
    ("ARF", "SEP"): 4,
    ("PNA", "SEP"): 3.5,
    ("HTN", "DM"): 3,
    ("HTN", "CAD"): 2.3,
    ("CAD", "DM"): 2,
    ("ARF", "HTN"): 1.6,
    ("CAD", "AF"): 1.5,
    ("ARF", "DM"): 1.5,
    ("ARF", "PNA"): 1.5,
    ("ARF", "AF"): 1.4,
    ("HTN", "AF"): 1.4,
    ("CAD", "ARF"): 1.3,
    ("AF", "SEP"): 1.3,
    ("AF", "PNA"): 1.2,
    ("DM", "SEP"): 1.2,
    ("AF", "DM"): 1.1,
    ("SEP", "HTN"): 0.9,
    ("SEP", "CAD"): 0.9,
    ("PNA", "HTN"): 0.9,
}
LABEL_SETS = np.array(list(product((0, 1), repeat=len(CODES))))


def _label_set_log_odds() -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of the 128 label sets at 65 years, and what a decade adds."""
    at_65 = LABEL_SETS @ np.array([INTERCEPTS[code] for code in CODES])
    for (one, other), odds in PAIR_ODDS.items():
        at_65 = at_65 + np.log(odds) * LABEL_SETS[:, CODES.index(one)] * LABEL_SETS[:, CODES.index(other)]
    return at_65, LABEL_SETS @ np.log([AGE_ODDS[code] for code in CODES])


AT_65, PER_DECADE = _label_set_log_odds()


@dataclass(frozen=True)
class Setting:
    """
    How plainly causes show. Causes, signs and their sizes are the same in every setting.

    Args:
        sign_gain (`float`): a cause that shows a sign with probability p shows it with 1 - (1 - p) ** sign_gain.
        background (`float`): factor of how often a sign is there without any cause.
        confounders (`float`): factor of how often hidden conditions occur that are no label.
        late (`float`): factor of how often a disease begins after ECG and labs were taken.
        controlled (`float`): factor of how often treatment hides hypertension or diabetes.
        severity (`tuple[float, float]`): parameters of the Beta distribution of severity.
    """

    sign_gain: float
    background: float
    confounders: float
    late: float
    controlled: float
    severity: tuple[float, float]


SETTINGS = {
    "realistic": Setting(1.0, 1.0, 1.0, 1.0, 1.0, (2, 3)),
    "clear": Setting(6.0, 0.15, 0.25, 0.1, 0.12, (5, 2)),
}


@dataclass(frozen=True)
class Causes:
    """
    Everything behind a patient's data; for evaluation only, never an input of a model.

    Args:
        age (`int`): years, 20 to 92.
        male (`bool`): sex.
        diseases (`tuple[str]`): codes of the label set, a subset of `CODES`.
        severity (`dict[str, float]`): 0 to 1 for each disease, and for `INF`.
        hidden (`tuple[str]`): CKD, ESRD, HF, MI (old infarct), ACUTE_MI, BYPASS, COPD, DEHYDRATION, OBESITY, INF (sterile
            inflammation), HAEMOLYSIS.
        late (`tuple[str]`): diseases that begin after ECG and labs were taken.
        treated (`tuple[str]`): HTN and DM where controlled, WARFARIN, RATE_CONTROL.
    """

    age: int
    male: bool
    diseases: tuple[str, ...]
    severity: dict[str, float]
    hidden: tuple[str, ...]
    late: tuple[str, ...]
    treated: tuple[str, ...]

    def __contains__(self, cause: str) -> bool:
        return cause in self.diseases or cause in self.hidden

    def active(self, cause: str) -> bool:
        """Whether the cause acts already on ECG and labs."""
        return cause in self and cause not in self.late

    def s(self, cause: str) -> float:
        """Severity of a cause on ECG and labs, 0 where it does not act yet."""
        return self.severity[cause] if self.active(cause) else 0.0

    @property
    def decades(self) -> float:
        """Age in decades from 65."""
        return (self.age - 65) / 10


def draw_causes(rng: np.random.Generator, setting: Setting) -> Causes:
    """Draws the causes of a patient."""

    def chance(probability: float) -> bool:
        return bool(rng.random() < probability)

    def logit(value: float) -> float:
        return 1 / (1 + np.exp(-value))

    age = int(np.clip(round(rng.normal(65, 16)), 20, 92))
    male = chance(0.54)
    decades = (age - 65) / 10
    odds = np.exp(AT_65 + decades * PER_DECADE)
    chosen = LABEL_SETS[rng.choice(len(odds), p=odds / odds.sum())]
    has = {code: bool(flag) for code, flag in zip(CODES, chosen)}
    severity = {code: float(rng.beta(*setting.severity)) for code in (*CODES, "INF")}

    rate = setting.confounders
    hidden = []
    if chance(rate * logit(-3 + 2.1 * has["HTN"] + 0.5 * has["DM"] + 0.8 * has["ARF"] + 0.15 * decades)):
        hidden.append("CKD")
        if chance(0.22):
            hidden.append("ESRD")
    logit_hf = -2.55 + has["CAD"] + has["AF"] + 0.5 * has["HTN"] + 0.4 * has["DM"] + 0.6 * ("CKD" in hidden)
    if chance(rate * logit(logit_hf + 0.25 * decades)):
        hidden.append("HF")
    if has["CAD"]:
        # these are CAD itself, no confounders
        hidden += [name for name, p in (("MI", 0.33), ("BYPASS", 0.20), ("ACUTE_MI", 0.06)) if chance(p)]
    elif chance(0.01 * rate):
        hidden.append("MI")
    others = (("COPD", 0.11), ("DEHYDRATION", 0.12), ("OBESITY", 0.48 if has["DM"] else 0.28), ("INF", 0.14))
    hidden += [name for name, p in (*others, ("HAEMOLYSIS", 0.03)) if chance(rate * p)]

    late = [code for code, p in (("ARF", 0.25), ("SEP", 0.2), ("PNA", 0.2)) if has[code] and chance(setting.late * p)]
    treated = [c for c, p in (("HTN", 0.6), ("DM", 0.35)) if has[c] and chance(setting.controlled * p)]
    treated += [name for name in ("WARFARIN", "RATE_CONTROL") if has["AF"] and chance(0.38)]
    diseases = tuple(code for code in CODES if has[code])
    return Causes(age, male, diseases, severity, tuple(hidden), tuple(late), tuple(treated))
