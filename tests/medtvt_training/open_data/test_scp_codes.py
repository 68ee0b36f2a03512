# SPDX-License-Identifier: Apache-2.0
import pytest

from medtvt_training.data.wording import READING_PARTS
from medtvt_training.open_data.films import NORMAL_ABSENT, NORMAL_SHOWS, read_labels
from medtvt_training.open_data.films import SHOWS as LABELS
from medtvt_training.open_data.scp_codes import ABNORMAL, AXIS_SHOWS, OPENS, SHOWS, read_statements
from medtvt_training.synthetic.findings import FINDINGS
from processing_medtvt.findings_medtvt import PHRASES


FORMS_AND_RHYTHMS = {"SR", "SARRH", "SBRAD", "AFIB", "PACE", "PVC", "STD_", "ABQRS", "QWAVE", "NDT", "LNGQT"}


def test_tables_use_the_lexicons_names():
    named = [name for table in (SHOWS, OPENS, AXIS_SHOWS, LABELS) for names in table.values() for name in names]
    parts = [name for names in READING_PARTS.values() for part in names.values() for name in part]
    assert {*named, *NORMAL_SHOWS, *NORMAL_ABSENT, *ABNORMAL, *parts} <= set(PHRASES)


def test_parts_of_a_reading_are_those_of_the_cohort():
    ours = {name: part for names in READING_PARTS.values() for part, found in names.items() for name in found}
    assert {name: ours[name] for name in FINDINGS if name in ours} == {
        name: finding.group for name, finding in FINDINGS.items() if not name.startswith("lab")
    }


@pytest.mark.parametrize(
    ("codes", "axis", "shown", "absent", "open_"),
    [
        # normal: all abnormal findings are absent
        (
            {"NORM": 100, "SR": 0},
            "",
            {"normal ECG", "sinus rhythm"},
            {"fibrillation", "inferior Q waves", "left axis"},
            set(),
        ),
        # "otherwise normal" beside the left type of German readers, which is no left axis of ours
        ({"NORM": 80, "SR": 0}, "LAD", {"normal ECG"}, {"right bundle branch block"}, {"left axis", "right axis"}),
        ({"NORM": 80, "SR": 0}, "ALAD", {"left axis"}, {"right axis", "normal ECG"}, set()),
        # normal but for what is stated
        ({"NORM": 80, "PVC": 100, "SR": 0}, "", {"premature ventricular beats"}, {"normal ECG", "flutter"}, set()),
        (
            {"NORM": 100, "ABQRS": 0, "SR": 0},
            "",
            {"sinus rhythm"},
            {"fibrillation"},
            {"normal ECG", "inferior Q waves"},
        ),
        # an infarct that is only possible leaves it open
        (
            {"IMI": 35, "SR": 0},
            "",
            {"sinus rhythm"},
            {"normal ECG", "fibrillation"},
            {"inferior Q waves", "ST depression"},
        ),
        ({"IMI": 50, "SR": 0}, "", {"inferior Q waves"}, {"anteroseptal Q waves"}, {"ST elevation"}),
        # a diagnosis without a likelihood is unknown, a rhythm or a form is not
        (
            {"LVH": 0, "AFIB": 0, "STD_": 0},
            "",
            {"fibrillation", "ST depression"},
            {"sinus rhythm"},
            {"LVH voltage", "flutter"},
        ),
        ({"IRBBB": 100, "SARRH": 0}, "", set(), {"paced"}, {"right bundle branch block", "sinus rhythm"}),
        ({"PACE": 100}, "", {"paced"}, {"normal ECG"}, {"left bundle branch block", "ST elevation", "fibrillation"}),
        ({"LAFB": 100, "SBRAD": 0}, "", {"left axis", "sinus bradycardia"}, {"fibrillation"}, {"sinus rhythm"}),
        ({}, "", set(), {"normal ECG"}, {"fibrillation", "sinus rhythm"}),
    ],
)
def test_statements_are_shown_absent_or_open(codes, axis, shown, absent, open_):
    found, missing = (set(names) for names in read_statements(codes, axis, FORMS_AND_RHYTHMS))
    shown, absent, open_ = ({f"ecg: {name}" for name in names} for names in (shown, absent, open_))
    assert shown <= found and absent <= missing and not open_ & (found | missing) and not found & missing


def test_labels_of_films():
    assert read_labels(["Pneumonia"]) == (["cxr: opacity"], ["cxr: normal", "cxr: clear lungs"])
    shown, absent = read_labels(["No Finding"])
    assert "cxr: clear lungs" in shown and {"cxr: opacity", "cxr: effusion", "cxr: enlarged heart"} <= set(absent)
    assert not [name for name in shown + absent if name in ("cxr: tube", "cxr: pacemaker", "cxr: wide aorta")]
    shown, absent = read_labels(["Cardiomegaly", "Nodule"])
    assert shown == ["cxr: enlarged heart"] and "cxr: opacity" not in absent
