# SPDX-License-Identifier: Apache-2.0
"""Laboratory panels: a whole table at once over a row at a time, identical numbers asserted."""

from typing import Any

import numpy as np
import pandas

from processing_medtvt import LAB_DEFINITIONS, MedTVTLabFeatureExtractor

from .harness import Row, Settings
from .preprocessing import check_equal, compare


LAB_ROWS, SINGLE_ROWS = 8331, 500


def measure(settings: Settings) -> list[Row]:
    return [compare_labs(settings.repeats)]


def compare_labs(repeats: int) -> Row:
    extractor, rng = MedTVTLabFeatureExtractor(), np.random.default_rng(0)
    columns = {}
    for lab in LAB_DEFINITIONS:
        low = 1.0 if lab.reference_low is None else lab.reference_low
        high = 2.0 if lab.reference_high is None else lab.reference_high
        columns[lab.name] = np.where(rng.random(LAB_ROWS) < 0.3, np.nan, rng.uniform(low, high, LAB_ROWS))
    table = pandas.DataFrame(columns)
    extractor.fit(table)
    tables, means = extractor.quantile_tables or {}, extractor.mean_percentiles or {}
    steps = {name: [np.asarray(tables[name][key]) for key in ("values", "percentiles")] for name in tables}

    def a_row_at_a_time() -> Any:
        found = np.empty((SINGLE_ROWS, 2 * len(steps)), dtype=np.float32)
        for i in range(SINGLE_ROWS):
            row = table.iloc[i]
            for j, (name, (values, percentiles)) in enumerate(steps.items()):
                present = not np.isnan(row[name])
                rank = np.searchsorted(values, row[name], side="right") if present else 0
                percentile = (percentiles[rank - 1] if rank else 0) if present else means[name]
                found[i, j], found[i, len(steps) + j] = percentile, present
        return found

    # the tables have a thousand steps, and a value that is rounded to float32 may meet the next one
    note = check_equal(extractor(table)["lab_values"][:SINGLE_ROWS], a_row_at_a_time(), 1.01e-3)
    sides = {"medtvt": (lambda: extractor(table), LAB_ROWS), "a row at a time": (a_row_at_a_time, SINGLE_ROWS)}
    ratios, speeds = compare(sides, repeats)
    what = f"samples/s of a table of {LAB_ROWS} rows over a row at a time"
    return Row("preprocess-labs", what, ratios, at_least=20, note=f"{speeds}, {note}")
