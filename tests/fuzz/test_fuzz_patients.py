# SPDX-License-Identifier: Apache-2.0
"""Damaged tables of patients, and damaged reports."""

from medtvt_training.inference.batch import report_file
from medtvt_training.inference.patient_table import read_patient_table
from medtvt_training.mimic.cxr_reports import read_report

from .mutate import SECRET, mutate_bytes
from .test_fuzz import fuzz, read  # noqa: F401  (a fixture)


TABLE = f"""\
id,ecg,cxr,lab,question,sampling_rate,leads,unit,age,sex
{SECRET},a.hea,b.png,c.csv,,500,"I,II,V1",mV,71,F
2,,b.png,,What is it?,,,,,
3,a.mat,,,,400,I II III,uV,0.5,male
"""
REPORT = """\
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 COMPARISON:  ___

 FINDINGS:

 LUNGS: Clear.  There is an unchanged small left effusion.  No pneumothorax.

 IMPRESSION:  1. Moderate cardiomegaly, unchanged.
 2. Lungs are stable and clear.
"""


def test_tables_of_patients(fuzz, tmp_path):  # noqa: F811
    path = tmp_path / "patients.csv"

    def body(random):
        path.write_bytes(mutate_bytes(TABLE.encode(random.choice(("utf-8", "utf-8-sig", "utf-16"))), random))
        patients = read(lambda: read_patient_table(path), str(path))
        for patient in patients or []:
            paths = [patient.inputs[name] for name in ("ecg", "cxr", "lab") if name in patient.inputs]
            assert all(value.startswith(str(tmp_path)) for value in paths)
            assert report_file(tmp_path, patient.id).parent == tmp_path
        return bool(patients)

    fuzz(body)


def test_reports(fuzz):  # noqa: F811
    def body(random):
        found = read_report(mutate_bytes(REPORT.encode(), random).decode("utf-8", "replace"))
        assert found == "" or found[-1] in ".!?"

    fuzz(body)
