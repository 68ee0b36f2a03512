# SPDX-License-Identifier: Apache-2.0
"""
What PTB-XL's statements say in the words of our findings.

Source: `scp_statements.csv` of PTB-XL 1.0.3 (71 SCP-ECG statements) and its paper (Wagner et al., Sci Data 7, 154, tables 6
to 8 and 10). A statement stands for a finding only where both mean the same. What is near a finding and is not it (an
incomplete block, a T wave inversion without its leads) leaves that finding open: neither shown nor absent.
"""

from collections.abc import Collection, Mapping

from processing_medtvt.findings_medtvt import PHRASES


# Likelihood in percent from which a diagnostic statement counts. Below it stand "possible" (35) and "cannot be excluded"
# (15), which leave the finding open; 0 is "unknown" there. Form and rhythm statements have 0 as a rule: they are stated
# without a likelihood, and count.
LIKELY = 50
# "Otherwise normal" (80) and "normal" (100); 50 is "no definite pathology" beside what is stated
NORMAL = 80

_T_WAVE = ("ecg: lateral T inversion", "ecg: nonspecific ST-T", "ecg: strain")
_ST_T = ("ecg: ST depression", *_T_WAVE)
_ANTERIOR = ("ecg: anteroseptal Q waves", "ecg: anterior Q waves", "ecg: septal Q waves")
_Q = ("ecg: inferior Q waves", *_ANTERIOR, "ecg: poor R progression")
_BEATS = ("ecg: premature atrial beats", "ecg: premature ventricular beats")
_ATRIAL = ("ecg: fibrillation", "ecg: flutter")
_RATE = ("ecg: sinus rhythm", "ecg: sinus tachycardia", "ecg: sinus bradycardia")
_BLOCKS = ("ecg: left bundle branch block", "ecg: right bundle branch block", "ecg: wide QRS")
_QT = ("ecg: prolonged QTc",)

# Statement -> findings that it states
SHOWS: dict[str, tuple[str, ...]] = {
    "SR": ("ecg: sinus rhythm",),
    "STACH": ("ecg: sinus tachycardia",),
    "SBRAD": ("ecg: sinus bradycardia",),
    "AFIB": ("ecg: fibrillation",),
    "AFLT": ("ecg: flutter",),
    "PACE": ("ecg: paced",),
    "PAC": ("ecg: premature atrial beats",),
    "PVC": ("ecg: premature ventricular beats",),
    "1AVB": ("ecg: prolonged PR",),
    "LPR": ("ecg: prolonged PR",),
    "CLBBB": ("ecg: left bundle branch block",),
    "CRBBB": ("ecg: right bundle branch block",),
    "LAFB": ("ecg: left axis",),  # an axis beyond -45 degrees is part of its definition
    "LPFB": ("ecg: right axis",),  # an axis beyond 90 degrees likewise
    "LNGQT": ("ecg: prolonged QTc",),
    "LAO/LAE": ("ecg: left atrial enlargement",),
    "LVH": ("ecg: LVH voltage",),
    "VCLVH": ("ecg: LVH voltage",),
    "LVOLT": ("ecg: low voltage",),
    "IMI": ("ecg: inferior Q waves",),
    "ILMI": ("ecg: inferior Q waves",),
    "IPMI": ("ecg: inferior Q waves",),
    "IPLMI": ("ecg: inferior Q waves",),
    "ASMI": ("ecg: anteroseptal Q waves",),
    "AMI": ("ecg: anterior Q waves",),
    "STE_": ("ecg: ST elevation",),
    "STD_": ("ecg: ST depression",),
    "NST_": ("ecg: nonspecific ST-T",),
    "NT_": ("ecg: nonspecific ST-T",),
    "NDT": ("ecg: nonspecific ST-T",),
}
# Statement, at any likelihood -> findings that it leaves open, unless another statement states them
OPENS: dict[str, tuple[str, ...]] = {
    "STACH": ("ecg: sinus rhythm", "ecg: tachycardia"),
    "SBRAD": ("ecg: sinus rhythm", "ecg: bradycardia"),
    "SARRH": _RATE,
    "SVARR": (*_RATE, *_ATRIAL, *_BEATS),
    "SVTAC": (*_RATE, *_ATRIAL, "ecg: tachycardia"),
    "PSVT": (*_RATE, *_ATRIAL, "ecg: tachycardia"),
    "BIGU": _BEATS,
    "TRIGU": _BEATS,
    "PRC(S)": _BEATS,
    # which of the two it is, is often corrected by the second reader
    "AFIB": ("ecg: flutter", "ecg: rapid response", "ecg: tachycardia", "ecg: bradycardia", *_BEATS),
    "AFLT": ("ecg: fibrillation", "ecg: rapid response", "ecg: tachycardia", "ecg: bradycardia", *_BEATS),
    "PACE": (
        *_RATE,
        *_ATRIAL,
        *_BLOCKS,
        *_Q,
        *_ST_T,
        *_QT,
        "ecg: ST elevation",
        "ecg: prolonged PR",
        "ecg: LVH voltage",
    ),
    "2AVB": ("ecg: prolonged PR", "ecg: pause", "ecg: bradycardia"),
    "3AVB": ("ecg: prolonged PR", "ecg: pause", "ecg: bradycardia"),
    "WPW": (*_BLOCKS, *_Q, *_ST_T, "ecg: prolonged PR", "ecg: LVH voltage"),
    "IRBBB": ("ecg: right bundle branch block", "ecg: wide QRS"),
    "ILBBB": ("ecg: left bundle branch block", "ecg: wide QRS", *_Q),
    "IVCD": _BLOCKS,
    "CLBBB": (*_Q, *_ST_T, *_QT, "ecg: LVH voltage", "ecg: wide QRS", "ecg: ST elevation"),
    "CRBBB": (*_ANTERIOR, *_ST_T, *_QT, "ecg: wide QRS"),
    "LAFB": (*_ANTERIOR, "ecg: inferior Q waves", "ecg: poor R progression"),
    "LVH": (*_ST_T, "ecg: poor R progression", "ecg: left atrial enlargement"),
    "VCLVH": _ST_T,
    "HVOLT": ("ecg: LVH voltage",),
    "SEHYP": ("ecg: LVH voltage", *_Q),
    "RVH": ("ecg: LVH voltage", "ecg: right bundle branch block", *_ST_T),
    "IMI": ("ecg: ST elevation", *_ST_T),
    "ILMI": ("ecg: ST elevation", *_ST_T),
    "IPMI": ("ecg: ST elevation", *_ST_T),
    "IPLMI": ("ecg: ST elevation", *_ST_T),
    "ASMI": (*_ANTERIOR, "ecg: poor R progression", "ecg: ST elevation", *_ST_T),
    "AMI": (*_ANTERIOR, "ecg: poor R progression", "ecg: ST elevation", *_ST_T),
    "ALMI": (*_ANTERIOR, "ecg: poor R progression", "ecg: ST elevation", *_ST_T),
    "LMI": ("ecg: anterior Q waves", "ecg: ST elevation", *_ST_T),
    "PMI": ("ecg: inferior Q waves", "ecg: ST elevation", *_ST_T),
    "QWAVE": _Q,
    "ABQRS": (*_Q, *_BLOCKS, "ecg: LVH voltage", "ecg: low voltage"),
    "STE_": _T_WAVE,
    "STD_": _T_WAVE,
    "NST_": ("ecg: ST elevation", *_ST_T),
    **dict.fromkeys(("NT_", "NDT", "LOWT"), (*_T_WAVE, "ecg: U waves", "ecg: ST depression")),
    **dict.fromkeys(("INVT", "TAB_"), (*_T_WAVE, "ecg: tented T")),
    **dict.fromkeys(
        ("ISC_", "ISCAL", "ISCIN", "ISCIL", "ISCAS", "ISCLA", "ISCAN", "INJAS", "INJAL", "INJIN", "INJLA", "INJIL"),
        ("ecg: ST elevation", *_ST_T),
    ),
    "ANEUR": ("ecg: ST elevation", *_ST_T, *_Q),
    "DIG": (*_ST_T, *_QT),
    "EL": (*_ST_T, *_QT, "ecg: tented T", "ecg: U waves"),
    "LNGQT": ("ecg: U waves",),
    "LPR": (),
    "RAO/RAE": (),
    "NORM": (),
}
KNOWN = SHOWS.keys() | OPENS.keys()
# Electrical axis (table 10 of the paper). LAD, the "Linkstyp" of German readers, reaches from +30 to -30 degrees and is
# given to normal ECGs; our left axis begins beyond -30, which is ALAD. AXL, AXR and SAG are no deviation that we name.
AXIS_SHOWS = {
    "ALAD": ("ecg: left axis",),
    "RAD": ("ecg: right axis",),
    "ARAD": ("ecg: right axis",),
    "MID": ("ecg: normal axis",),
}
_AXES = ("ecg: left axis", "ecg: right axis", "ecg: normal axis")

_RHYTHMS = {"SR", "STACH", "SBRAD", "SARRH", "AFIB", "AFLT", "PACE", "SVARR", "SVTAC", "PSVT", "BIGU", "TRIGU"}
# Findings that the readers state wherever they are: without a statement they are absent. The data set's benchmark reads
# all statements so; we do for rhythm, blocks, hypertrophy and infarcts, but not for forms (ST, T, beats), which readers
# state as they please.
_ALWAYS_STATED_RHYTHMS = (*_ATRIAL, "ecg: paced", "ecg: sinus tachycardia", "ecg: sinus bradycardia")
_ALWAYS_STATED = (
    "ecg: prolonged PR",
    "ecg: left bundle branch block",
    "ecg: right bundle branch block",
    "ecg: LVH voltage",
    "ecg: inferior Q waves",
    "ecg: anteroseptal Q waves",
    "ecg: anterior Q waves",
)
ABNORMAL = tuple(
    name
    for name in PHRASES
    if name.startswith("ecg:") and not name.startswith("ecg: normal") and name != "ecg: sinus rhythm"
)


def read_statements(
    codes: Mapping[str, float], axis: str, without_likelihood: Collection[str]
) -> tuple[list[str], list[str]]:
    """
    The findings that a record's statements say are shown, and those that they say are not, in the lexicon's order. What
    is in neither list is not known.

    Args:
        codes (`dict`): Statement to likelihood in percent.
        axis (`str`): `heart_axis`, or "".
        without_likelihood (`Collection[str]`): The form and rhythm statements.
    """
    stated = {
        code
        for code, likelihood in codes.items()
        if likelihood >= LIKELY or not likelihood and code in without_likelihood
    }
    shown = {name for code in stated for name in SHOWS.get(code, ())} | set(AXIS_SHOWS.get(axis, ()))
    if {"ecg: left axis", "ecg: right axis"} <= shown:  # they contradict each other
        shown -= set(_AXES)
    another_rhythm = bool(shown & {*_ATRIAL, "ecg: paced"})
    if another_rhythm or "SARRH" in codes or shown & {"ecg: sinus tachycardia", "ecg: sinus bradycardia"}:
        shown.discard("ecg: sinus rhythm")  # ours is regular and of a normal rate
    still_open = {name for code in codes for name in OPENS.get(code, ())}
    still_open |= {name for code in codes.keys() - stated for name in SHOWS.get(code, ())}
    if axis and axis not in AXIS_SHOWS:
        still_open |= set(_AXES)
    abnormal = shown & set(ABNORMAL)
    absent: set[str] = set()
    if _RHYTHMS & stated:
        absent |= {*_ALWAYS_STATED_RHYTHMS, *(["ecg: sinus rhythm"] if another_rhythm else [])}
    if stated - _RHYTHMS:
        absent |= set(_ALWAYS_STATED)
    if shown & set(_AXES):
        absent |= set(_AXES)
    if codes.get("NORM", 0) >= NORMAL and "ABQRS" not in codes:
        absent |= set(ABNORMAL)
        if not abnormal:
            shown.add("ecg: normal ECG")
    if "NORM" not in codes or abnormal:
        absent.add("ecg: normal ECG")
    absent -= shown | still_open
    return [name for name in PHRASES if name in shown], [name for name in PHRASES if name in absent]
