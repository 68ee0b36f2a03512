# SPDX-License-Identifier: Apache-2.0
"""
What the measurements of an ECG say of a finding that a text states: it holds, it does not hold, or it stays open.

Each limit has a gray zone in which nothing is said. The limits are a reader's (100 per minute, 200 ms, 480 ms, 0.1 mV);
how far the gray zones reach was chosen on drawn ECGs whose signs are known and on 360 real records with a reader's labels
(PTB-XL and others). On real ones PR measures up to 12 ms long and QT some 30 ms short (the tangent leaves out the slow end
of T; where T falls to a share of its height, noise ends it anywhere), so PR and QTc have wide gray zones on that side.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import NamedTuple


Measured = Mapping[str, float]
Criterion = Callable[[Measured], bool | None]
ARMS_EXCHANGED = "the arm electrodes seem exchanged"


class Rule(NamedTuple):
    """
    Args:
        holds (`Criterion`): whether the finding is there.
        words (`tuple[str]`): the measurements that it rests on, to be filled in; those not measured are left out.
        limb (`bool`): needs the limb leads as they are named, so that exchanged electrodes leave it open.
    """

    holds: Criterion
    words: tuple[str, ...]
    limb: bool = False


def above(name: str, no: float, yes: float) -> Criterion:
    """True above `yes`, False below `no`, None between them or where it was not measured."""

    def judge(measured: Measured) -> bool | None:
        value = measured.get(name, math.nan)
        return True if value > yes else False if value < no else None

    return judge


def below(name: str, yes: float, no: float) -> Criterion:
    """True below `yes`, False above `no`, None between them or where it was not measured."""
    return absent(above(name, yes, no))


def absent(criterion: Criterion) -> Criterion:
    """True where the criterion is False, False where it is True, else None."""

    def judge(measured: Measured) -> bool | None:
        verdict = criterion(measured)
        return None if verdict is None else not verdict

    return judge


def every(*criteria: Criterion) -> Criterion:
    """False where one is False, else None where one is None, else True."""

    def judge(measured: Measured) -> bool | None:
        verdicts = [criterion(measured) for criterion in criteria]
        return False if False in verdicts else None if None in verdicts else True

    return judge


def some(*criteria: Criterion) -> Criterion:
    """True where one is True, else None where one is None, else False."""
    return absent(every(*map(absent, criteria)))


def where(condition: Criterion, criterion: Criterion) -> Criterion:
    """The criterion where the condition is True; else None."""

    def judge(measured: Measured) -> bool | None:
        return criterion(measured) if condition(measured) else None

    return judge


def sure(criterion: Criterion) -> Criterion:
    """True where the criterion is True, else False: for what must not be there for another to be judged."""

    def judge(measured: Measured) -> bool | None:
        return criterion(measured) is True

    return judge


def possible(criterion: Criterion) -> Criterion:
    """False where the criterion is False, else True."""
    return absent(sure(absent(criterion)))


FAST, SLOW = above("heart_rate", 99.7, 100.5), below("heart_rate", 59, 59.7)
WIDE = above("qrs_ms", 112, 117)  # of 120: QRS measures some 3 ms short
SPIKES = above("spike", 2.5, 3.6)
PACED = every(SPIKES, above("qrs_ms", 110, 119))
RIGHT_FORM = every(above("v1_end", 0.0, 0.1), below("lateral_end", -0.06, 0.0), above("v1_net", -0.2, 0.0))
# S in V1, and no Q in I and V6; the end of QRS is no guide, as ST-T reaches into it
LEFT_FORM = every(below("v1_net", -0.4, 0), above("lateral_start", -0.1, -0.03), absent(sure(RIGHT_FORM)))
RBBB = every(WIDE, RIGHT_FORM, absent(sure(PACED)))
LBBB = every(WIDE, LEFT_FORM, absent(PACED))
# QRS of left bundle branch block or pacing hides infarcts, voltages and ST-T; right bundle branch block has ST-T of its own
OWN_FORM = absent(some(possible(LBBB), possible(PACED)))
OWN_ST = every(OWN_FORM, absent(possible(RBBB)))

FLUTTER = every(
    above("flutter_fit", -0.3, 0.6),
    above("flutter_mv", 0.06, 0.1),
    above("heart_rate", 115, 125),
    below("heart_rate", 175, 185),
    below("rr_spread", 0.012, 0.025),  # of two to one
)
FIBRILLATION = every(above("rr_variation", 0.09, 0.12), below("p_regularity", 0.5, 0.65))
P_REGULAR = above("p_regularity", 0.2, 0.45)
P_WAVES = every(P_REGULAR, some(above("p_height", 0.01, 0.03), FAST))  # on the T wave before it, P has no foot
SINUS = every(P_WAVES, absent(FLUTTER), absent(PACED), absent(FIBRILLATION))
TENTED = every(above("t_chest", 0.95, 1.05), above("t_limb", 0.45, 0.6), below("t_ms", 90, 110))
U_WAVES = every(
    above("u_mv", -1, 0.055),
    below("t_chest", 0.3, 0.42),
    some(above("u_mv", 0.012, 0.012), below("t_chest", 0.25, 0.25)),
)
P_FOUND = above("p_ms", 60, 65)
P_SEEN_WHOLE = every(SINUS, P_FOUND, below("p_ms", 150, 153))
# where P seems to begin too early, PR is shorter than measured
LONG_PR = every(above("pr_ms", 194, 232), where(P_SEEN_WHOLE, above("pr_ms", 194, 232)))
QT_SEEN_WHOLE = every(
    absent(sure(FLUTTER)),
    absent(sure(U_WAVES)),
    above("t_chest", 0.15, 0.15),
    above("qtc_ms", 350, 350),
    below("qtc_ms", 560, 560),
    below("heart_rate", 132, 132),
)

LVH = some(above("sv1_rv56", 3.4, 3.6), above("r_avl", 1.05, 1.2))
QS_SEEN = every(above("q_ms_septal", 30, 45), above("q_share_septal", 0.2, 0.33))
# where R hardly grows, it may be too small to be seen; waves of the atria may look like R
SEPTAL_Q = where(
    some(
        above("q_ms_septal", 0, 30), every(above("r_v3", 0.3, 0.3), absent(sure(FIBRILLATION)), absent(sure(FLUTTER)))
    ),
    QS_SEEN,
)
ANTERIOR_QS = every(above("q_ms_anterior", 20, 24), above("q_share_anterior", 0.1, 0.28))
# where R is small, a reader may see none
ANTERIOR_Q = where(
    some(above("q_ms_anterior", 20, 20), every(above("r_v3", 0.3, 0.3), above("r_v4", 0.3, 0.3))), ANTERIOR_QS
)
# with a left axis R may be too small to be seen
INFERIOR_Q = where(
    some(above("q_ms_inferior", 15, 15), above("axis", -30, -30)),
    every(
        above("q_ms_inferior", 15, 28),
        above("q_share_inferior", 0.1, 0.33),
        above("q_share_ii", -1, 0.2),
        some(
            *(above("axis", -181, -32), below("t_ii", -0.1, 9)),
            every(above("q_ms_inferior", -1, 60), above("q_share_ii", -1, 0.5)),
        ),
    ),
)
ELEVATION = above("st_elevation", 0.08, 0.14)
T_INVERTED = below("t_v5_v6", -0.13, -0.06)
LATERAL_T_INVERTED = below("t_v5_v6", -0.13, 0.03)
DEPRESSED = above("st_depression", 0.03, 0.064)
LATERAL_DEPRESSED = below("st_lateral", -0.04, -0.02)
STRAIN = every(T_INVERTED, LATERAL_DEPRESSED)
# strain keeps to I, aVL, V5 and V6
BEYOND_STRAIN = some(below("st_inferior", -0.05, -0.05), below("st_anterior", -0.07, -0.07))


def flat(name: str, limit: float) -> Criterion:
    """T no higher or deeper than a limit; not from 0.11 mV on."""
    return every(below(name, limit, 0.11), above(name, -0.11, -limit))


T_GROUPS = ("t_ii", "t_v3_v4", "t_v5_v6")
FLAT_T = some(
    *(flat(name, 0.045) for name in T_GROUPS),
    *(every(flat(a, 0.06), flat(b, 0.06)) for a, b in combinations(T_GROUPS, 2)),
)

RATE = "rate {heart_rate:.0f} per minute"
P = "{p_waves}"
RR = "RR intervals vary by {rr_variation:.0%}"
PR = "PR {pr_ms:.0f} ms (long above 200)"
QTC = "QTc {qtc_ms:.0f} ms (prolonged above 480)"
ST_HIGH = "ST elevation in two neighboring leads {st_elevation:.2f} mV (from 0.1; V2 and V3 count half)"
ST_LOW = "ST depression in two neighboring leads {st_depression:.2f} mV (from 0.05)"
QRS = "QRS {qrs_ms:.0f} ms (wide from 120)"
V1_END = "end of QRS in V1 {v1_end:+.2f} mV"
LATERAL_END = "in I and V6 {lateral_end:+.2f} mV"
AXIS = "axis {axis:.0f} degrees (normal -30 to 90)"
VOLTAGE = "S in V1 + R in V5 or V6 {sv1_rv56:.1f} mV (high from 3.5)"
T_LATERAL = "T in V5 and V6 {t_v5_v6:+.2f} mV"
ST_LATERAL = "ST in lateral leads {st_lateral:+.2f} mV"
Q_SEPTAL = "Q in V1-V2 {q_ms_septal:.0f} ms"
Q_ANTERIOR = "Q in V3-V4 {q_ms_anterior:.0f} ms, {q_share_anterior:.2f} of R"

RULES: dict[str, Rule] = {
    # at another rate it is one too, though it has a name of its own
    "ecg: sinus rhythm": Rule(every(SINUS, where(absent(some(FAST, SLOW)), SINUS)), (RATE, RR, P)),
    "ecg: sinus tachycardia": Rule(every(SINUS, FAST), (RATE, RR, P)),
    "ecg: sinus bradycardia": Rule(every(SINUS, SLOW), (RATE, RR, P)),
    "ecg: fibrillation": Rule(FIBRILLATION, (RR, P)),
    "ecg: flutter": Rule(
        FLUTTER, (RATE, RR, "sawtooth in inferior leads {flutter_mv:.2f} mV, fit against a P wave {flutter_fit:+.1f}")
    ),
    "ecg: rapid response": Rule(every(FIBRILLATION, FAST), (RATE, RR, P)),
    "ecg: paced": Rule(PACED, ("spikes before QRS {spike:.1f} times the noise (from 3.6)", QRS)),
    "ecg: premature atrial beats": Rule(
        every(absent(FIBRILLATION), below("shortest_rr", 0.75, 0.885), possible(P_WAVES)),
        ("earliest beat of usual form at {shortest_rr:.0%} of the RR interval",),
    ),
    "ecg: premature ventricular beats": Rule(
        where(
            every(
                absent(sure(FLUTTER)),
                some(above("other_forms", 0.5, 0.5), below("early_beats", 0.5, 0.5), FIBRILLATION),
            ),
            every(above("other_forms", 0.5, 0.5), above("wide_beats", -1, 0.5)),
        ),
        ("{other_forms:.0f} beats of another form", "{wide_beats:.0f} of them early and wide"),
    ),
    "ecg: left atrial enlargement": Rule(
        every(possible(SINUS), where(P_SEEN_WHOLE, every(above("p_terminal_v1", 1.6, 4.0), above("p_ms", 75, 118)))),
        ("P {p_ms:.0f} ms", "its negative end in V1 {p_terminal_v1:z.1f} mV ms (large from 4)"),
    ),
    "ecg: prolonged PR": Rule(every(SINUS, where(P_FOUND, every(LONG_PR, below("heart_rate", 105, 999)))), (PR,)),
    "ecg: left bundle branch block": Rule(LBBB, (QRS, V1_END, LATERAL_END)),
    "ecg: right bundle branch block": Rule(RBBB, (QRS, V1_END, LATERAL_END)),
    "ecg: left axis": Rule(where(absent(sure(FLUTTER)), below("axis", -34, -27)), (AXIS,), limb=True),
    "ecg: right axis": Rule(where(absent(sure(FLUTTER)), above("axis", 87, 94)), (AXIS,), limb=True),
    "ecg: prolonged QTc": Rule(
        where(QT_SEEN_WHOLE, every(above("qtc_ms", 440, 482), below("heart_rate", 115, 999))), (QTC,)
    ),
    "ecg: LVH voltage": Rule(where(OWN_FORM, LVH), (VOLTAGE, "R in aVL {r_avl:.1f} mV (high from 1.1)")),
    "ecg: strain": Rule(
        where(every(OWN_FORM, absent(possible(ELEVATION))), every(LVH, STRAIN)),
        (VOLTAGE, T_LATERAL, ST_LATERAL),
        limb=True,
    ),
    "ecg: low voltage": Rule(
        some(below("limb_voltage", 0.48, 0.53), below("chest_voltage", 0.96, 1.06)),
        (
            "largest QRS {limb_voltage:.2f} mV in limb leads (low below 0.5)",
            "{chest_voltage:.2f} mV in chest leads (1.0)",
        ),
    ),
    "ecg: poor R progression": Rule(
        where(
            every(
                OWN_FORM, absent(possible(QS_SEEN)), absent(possible(ANTERIOR_QS)), above("chest_voltage", 1.06, 1.06)
            ),
            below("r_v3", 0.3, 0.38),
        ),
        ("R in V3 {r_v3:.2f} mV (small below 0.3)",),
    ),
    "ecg: inferior Q waves": Rule(
        where(every(OWN_FORM, absent(sure(FLUTTER))), INFERIOR_Q),
        ("Q in II, III, aVF {q_ms_inferior:.0f} ms, {q_share_inferior:.2f} of R",),
        limb=True,
    ),
    "ecg: anterior Q waves": Rule(
        where(every(OWN_FORM, absent(possible(every(ANTERIOR_Q, QS_SEEN)))), ANTERIOR_Q), (Q_ANTERIOR, Q_SEPTAL)
    ),
    "ecg: anteroseptal Q waves": Rule(where(OWN_FORM, every(ANTERIOR_Q, SEPTAL_Q)), (Q_ANTERIOR, Q_SEPTAL)),
    "ecg: septal Q waves": Rule(
        where(every(OWN_FORM, absent(possible(every(ANTERIOR_QS, SEPTAL_Q)))), SEPTAL_Q), (Q_SEPTAL, Q_ANTERIOR)
    ),
    "ecg: ST elevation": Rule(where(OWN_FORM, ELEVATION), (ST_HIGH,)),
    "ecg: ST depression": Rule(
        where(
            every(OWN_ST, absent(possible(ELEVATION)), some(absent(possible(every(LVH, STRAIN))), BEYOND_STRAIN)),
            DEPRESSED,
        ),
        (ST_LOW,),
    ),
    "ecg: lateral T inversion": Rule(
        where(every(OWN_FORM, absent(sure(STRAIN)), absent(possible(TENTED))), LATERAL_T_INVERTED),
        (T_LATERAL, ST_LATERAL),
    ),
    "ecg: nonspecific ST-T": Rule(
        where(
            every(
                OWN_ST,
                absent(possible(T_INVERTED)),
                below("st_depression", 0.06, 0.06),
                absent(sure(U_WAVES)),
                absent(possible(TENTED)),
                above("t_ii", -0.1, -0.1),
            ),
            FLAT_T,
        ),
        ("T in II {t_ii:+.2f}", "in V3 and V4 {t_v3_v4:+.2f}", "in V5 and V6 {t_v5_v6:+.2f} mV (flat within 0.07)"),
    ),
    "ecg: tented T": Rule(
        TENTED,
        (
            "highest T {t_chest:.2f} mV in chest leads",
            "{t_limb:.2f} mV in limb leads",
            "half its height {t_ms:.0f} ms wide",
        ),
    ),
    "ecg: U waves": Rule(U_WAVES, ("second wave after T in V2-V4 {u_mv:.2f} mV", "T {t_chest:.2f} mV")),
}


RULES |= {  # what texts say besides
    "ecg: normal rate": Rule(absent(some(FAST, SLOW)), (RATE,)),
    "ecg: tachycardia": Rule(FAST, (RATE,)),
    "ecg: bradycardia": Rule(SLOW, (RATE,)),
    "ecg: normal PR": Rule(every(SINUS, where(P_FOUND, every(above("pr_ms", 110, 122), absent(LONG_PR)))), (PR,)),
    "ecg: normal QRS": Rule(below("qrs_ms", 108, 119), (QRS,)),
    "ecg: wide QRS": Rule(above("qrs_ms", 108, 119), (QRS,)),
    "ecg: normal axis": Rule(
        where(absent(sure(FLUTTER)), every(above("axis", -34, -27), below("axis", 87, 94))), (AXIS,), limb=True
    ),
    "ecg: normal QTc": Rule(
        where(
            QT_SEEN_WHOLE, every(below("qtc_ms", 440, 473), above("qtc_ms", 310, 352), below("heart_rate", 112, 999))
        ),
        (QTC,),
    ),
    "ecg: normal ST": Rule(
        every(below("st_elevation", 0.06, 0.13), below("st_depression", 0.035, 0.064)), (ST_HIGH, ST_LOW)
    ),
    "ecg: pause": Rule(above("longest_rr", 1.8, 2.0), ("longest RR interval {longest_rr:.1f} s (a pause from 2.0)",)),
}
GRAVEST_FIRST = tuple(
    f"ecg: {name}"
    for name in (
        *("ST elevation", "flutter", "rapid response", "fibrillation", "tented T", "pause", "prolonged QTc"),
        *("ST depression", "left bundle branch block", "anteroseptal Q waves", "anterior Q waves", "inferior Q waves"),
        *("septal Q waves", "U waves", "lateral T inversion", "strain", "premature ventricular beats", "prolonged PR"),
        *("sinus tachycardia", "sinus bradycardia", "right bundle branch block", "paced", "LVH voltage"),
        *("premature atrial beats", "left atrial enlargement", "low voltage", "poor R progression", "left axis"),
        *("right axis", "nonspecific ST-T"),
    )
)
# What readers let pass in an ECG that they call normal: they leave it open
MINOR = tuple(
    f"ecg: {name}"
    for name in (
        *("sinus bradycardia", "prolonged PR", "premature atrial beats", "left atrial enlargement", "LVH voltage"),
        *("poor R progression", "left axis", "right axis", "nonspecific ST-T"),
    )
)
RULES["ecg: normal ECG"] = Rule(
    every(
        RULES["ecg: sinus rhythm"].holds,
        *(absent(RULES[name].holds) for name in GRAVEST_FIRST if name not in MINOR),
        *(where(absent(RULES[name].holds), SINUS) for name in MINOR),
    ),
    (RATE, QRS, QTC, AXIS),
)


def _in_words(templates: tuple[str, ...], measured: Measured) -> str:
    values: defaultdict[str, float | str] = defaultdict(lambda: math.nan, measured)
    if not math.isnan(measured.get("p_regularity", math.nan)):
        values["p_waves"] = {True: "regular P waves", False: "no regular P waves", None: "P waves in doubt"}[
            P_REGULAR(measured)
        ]
    words = [template.format_map(values) for template in templates]
    return "; ".join(word for word in words if "nan" not in word) or "not measured"


def judge_ecg(finding: str, measured: Measured) -> tuple[bool | None, str]:
    """
    Holds a finding against what was measured.

    Args:
        finding (`str`): a name of `RULES`.
        measured (`Mapping[str, float]`): of [`measure_ecg`]; NaN where a lead is absent.

    Returns:
        `tuple[bool | None, str]`: True where the measurements clearly show the finding, False where they clearly exclude
        it, None in the gray zone and where they are absent; and the measurements in words.

    Raises:
        ValueError: if the finding has no rule.
    """
    if finding not in RULES:
        raise ValueError(f"finding: {finding!r} has no rule; accepted are {', '.join(RULES)}.")
    rule = RULES[finding]
    verdict = rule.holds(measured)
    said = _in_words(rule.words, measured)
    if rule.limb and arms_exchanged(measured):
        return None, f"{said}; {ARMS_EXCHANGED}"
    return verdict, said


def abnormal_ecg(measured: Measured) -> list[tuple[str, str]]:
    """Findings that the measurements clearly show and that are not normal, the gravest first, each in words."""
    judged = ((name, *judge_ecg(name, measured)) for name in GRAVEST_FIRST)
    return [(name, words) for name, verdict, words in judged if verdict]


def ecg_intervals(measured: Measured) -> dict[str, float]:
    """Rate (1/min), PR, QRS, QT and QTc (ms) and axis (degrees), without those that cannot be measured here."""
    shown = {
        "heart rate": ("heart_rate", True),
        "PR interval": ("pr_ms", SINUS(measured) is True and P_FOUND(measured) is True),
        "QRS duration": ("qrs_ms", True),
        "QT interval": ("qt_ms", FLUTTER(measured) is not True),
        "QTc interval": ("qtc_ms", FLUTTER(measured) is not True),
        "QRS axis": ("axis", not arms_exchanged(measured)),
    }
    values = {name: measured.get(key, math.nan) for name, (key, is_sure) in shown.items() if is_sure}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def arms_exchanged(measured: Measured) -> bool:
    """Whether lead I is upside down: its P wave, and its QRS and T against V6."""
    against_v6, p = measured.get("i_v6", math.nan), measured.get("p_lead_i", math.nan)
    return against_v6 < -0.5 and p < -0.01 or against_v6 < -0.9 and math.isnan(p)
