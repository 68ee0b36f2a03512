# SPDX-License-Identifier: Apache-2.0
"""ECG records: `MedTVTEcgFeatureExtractor` over `wfdb.rdsamp` and `scipy.signal.resample`, identical numbers asserted."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import scipy.signal
import wfdb

from processing_medtvt import MedTVTEcgFeatureExtractor

from .files import find_ecgs
from .harness import Row, Settings
from .preprocessing import check_equal, compare


def measure(settings: Settings) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        return [compare_ecg(find_ecgs(settings.cases, Path(folder)), settings.repeats)]


def compare_ecg(records: list[Path], repeats: int) -> Row:
    extractor = MedTVTEcgFeatureExtractor()
    names = [str(lead).upper() for lead in extractor.leads]

    def medtvt() -> Any:
        return np.concatenate([extractor(path)["ecg_values"] for path in records])

    def straightforward() -> Any:
        rows = []
        for path in records:
            signal, fields = wfdb.rdsamp(str(path.with_suffix("")))
            order = [[name.upper() for name in fields["sig_name"]].index(name) for name in names]
            rows.append(scipy.signal.resample(signal[:, order], 1000).T.astype(np.float32))
        return np.stack(rows)

    note = check_equal(medtvt(), straightforward(), 1e-5)
    sides = {"medtvt": (medtvt, len(records)), "rdsamp + resample": (straightforward, len(records))}
    ratios, speeds = compare(sides, repeats)
    what = f"samples/s over `wfdb.rdsamp` + `scipy.signal.resample`, {len(records)} WFDB records"
    return Row("preprocess-ecg", what, ratios, at_least=1.0, note=f"{speeds}, {note} mV")
