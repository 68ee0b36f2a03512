# SPDX-License-Identifier: Apache-2.0
"""The evidence check on the rows of a run: what each reasoning states, held against what is measured in its row."""

import numpy as np

from modeling_medtvt import parse_answer
from processing_medtvt import MedTVTEcgFeatureExtractor, check_patient
from processing_medtvt.evidence_medtvt import Measurements, check_evidence
from processing_medtvt.measure_ecg_medtvt import measure_ecg
from processing_medtvt.processing_medtvt import ECG_MEASURING_RATE

from ..data.rows import QARow


class EvidenceChecker:
    """Checks completions. An ECG is measured once, in however many variants of a row it stands."""

    def __init__(self) -> None:
        # whatever leads are missing, the others are measured
        self._extractor = MedTVTEcgFeatureExtractor(sampling_rate=ECG_MEASURING_RATE, max_dead_leads=11)
        self._ecgs: dict[str, dict[str, float]] = {}

    def measure(self, row: QARow) -> Measurements:
        """
        What is measured in a row.

        Raises:
            ValueError, OSError: if its ECG cannot be read.
        """
        given = row["modalities"]
        labs = {name: value for name, value in row["lab"].items() if value is not None and value == value}
        return {
            "ecg": self._measure_ecg(str(row["ecg"])) if "ecg" in given else None,
            "lab": labs if "lab" in given else None,
            "has_cxr": "cxr" in given,
            "patient": check_patient({"age": row.get("age"), "sex": row.get("sex")}),
        }

    def check(self, completion: str, measured: Measurements) -> dict:
        """
        `statements` of the reasoning (of the whole text, where it has none), each with `modality`, `finding`, `negated` and
        `status`; `unmentioned`, the abnormal measurements that it leaves out; `abnormal`, how many there are.
        """
        reasoning = parse_answer(completion).reasoning
        checked = check_evidence(completion if reasoning is None else reasoning, measured)
        kept = ("modality", "finding", "negated", "status")
        return {
            "statements": [{key: dict(statement)[key] for key in kept} for statement in checked.statements],
            "unmentioned": [entry["finding"] for entry in checked.unmentioned],
            "abnormal": len(check_evidence("", measured).unmentioned),
        }

    def _measure_ecg(self, path: str) -> dict[str, float]:
        if path not in self._ecgs:
            signal = np.asarray(self._extractor(path)["ecg_values"][0])
            self._ecgs[path] = measure_ecg(signal)
        return self._ecgs[path]
