# SPDX-License-Identifier: Apache-2.0
"""What single findings, single labs and probes are measured by."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medtvt_training import cli
from medtvt_training.data.rows import QARow
from medtvt_training.data.schema import FEATURES
from medtvt_training.evaluation.finding_metrics import measure_findings, render_finding_groups, render_findings
from medtvt_training.evaluation.probe import probe_model
from medtvt_training.evaluation.single_labs import count_single_labs, render_single_labs, single_lab_rows
from medtvt_training.evaluation.text_scores import TextScorer
from processing_medtvt import LAB_DEFINITIONS

from tests.toy import write_toy_dataset


FIBRILLATION, SINUS, CLEAR = "ecg: fibrillation", "ecg: sinus rhythm", "cxr: clear lungs"


def write_record(number: int, findings: list[str], reasoning: str) -> dict[str, Any]:
    text = f"<think>{reasoning}</think><answer></answer>"
    return {"id": str(number), "subject_id": str(number), "findings": findings, "completion": text}


def test_findings_by_hand():
    records = [write_record(i, [SINUS, CLEAR], "ECG: sinus rhythm.\nCXR: clear lungs.") for i in range(36)]
    records += [write_record(36 + i, [FIBRILLATION, CLEAR], "ECG: atrial fibrillation.") for i in range(2)]
    records += [write_record(38, [FIBRILLATION], "ECG: sinus rhythm."), write_record(39, [], "ECG: sinus rhythm.")]
    found = measure_findings(records, TextScorer().findings, resamples=50, seed=0)
    assert found is not None and found["records"] == 39  # of the last one nothing is known
    one = found["per_finding"][FIBRILLATION]
    assert (one["shown"], one["cited"]) == (3, 2)
    assert [one[name]["value"] for name in ("precision", "recall", "f1")] == pytest.approx([1, 2 / 3, 0.8])
    ecg = found["by_modality"]["ecg"]
    assert (ecg["findings"], ecg["rare"]) == (2, 1)
    assert ecg["f1_rare"]["value"] == pytest.approx(0.8)
    assert ecg["f1_mean"]["value"] == pytest.approx((0.8 + 72 / 73) / 2)
    assert [ecg[name]["value"] for name in ("precision", "recall")] == pytest.approx([38 / 39, 38 / 39])
    low, high = ecg["recall"]["interval"]
    assert low < 38 / 39 <= high
    film = found["by_modality"]["cxr"]
    assert film["rare"] == 0 and film["f1_rare"]["value"] is None and "no such finding" in film["f1_rare"]["undefined"]
    assert f"| {FIBRILLATION} | 3 | 2 |" in render_findings(found) and FIBRILLATION not in render_finding_groups(found)
    assert measure_findings(records[-1:], TextScorer().findings, 0, 0) is None


def test_a_swapped_modality_shows_what_its_donor_has():
    record = write_record(0, [SINUS, CLEAR], "ECG: atrial fibrillation.\nCXR: clear lungs.")
    record |= {"donor_modality": "ecg", "donor_findings": [FIBRILLATION, "cxr: enlarged heart"]}
    found = measure_findings([record], TextScorer().findings, 0, 0)
    assert found is not None
    assert {name for name, entry in found["per_finding"].items() if entry["shown"]} == {FIBRILLATION, CLEAR}


def test_single_labs_by_hand():
    rows = single_lab_rows()
    both = [lab for lab in LAB_DEFINITIONS if None not in (lab.reference_low, lab.reference_high)]
    assert len(rows) == len(both) and rows[0]["modalities"] == ["lab"]
    measured = [{name for name, value in row["lab"].items() if value is not None} for row in rows]
    assert measured == [{lab.name} for lab in both]

    def answer(name: str, statuses: list[str], diseases: str = "") -> dict[str, Any]:
        evidence = {"statements": [{"status": status} for status in statuses]}
        return {"labs_measured": [name], "completion": f"<answer>{diseases}</answer>", "evidence": evidence}

    answers = [answer("A", ["supported"]), answer("B", ["not measured", "not measured", "supported"], "Sepsis")]
    found = count_single_labs(answers)
    assert found == {
        "inputs": 2,
        "inputs_beyond": 1,
        "inputs_with_disease": 1,
        "statements": 4,
        "statements_beyond": 2,
        "labs_beyond": ["B"],
    }
    assert "2 of 4" in render_single_labs(found) and "Stated beyond: B." in render_single_labs(found)


def test_single_labs_of_a_model(checkpoint, tmp_path, capsys):
    words = ["evaluate", "--single-labs", "--model", checkpoint, "--out", tmp_path, "--batch-size", 64]
    cli.run([*map(str, words), "--max-new-tokens", "2"])
    found = json.loads((tmp_path / "single_labs.json").read_text())
    assert found["inputs"] == len(single_lab_rows()) and found["about"]["max_new_tokens"] == 2
    assert f"0 of {found['inputs']}" in capsys.readouterr().out


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labs whose creatinine says what is found, and another finding that nothing shows."""
    folder = write_toy_dataset(tmp_path_factory.mktemp("probed"), patients=60)
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        file = folder / "physiology" / f"{split}.parquet"
        rows: list[QARow] = [row for row in pq.read_table(file).to_pylist() if row["modalities"] == ["lab"]]
        for row in rows:
            names = {"lab: high Creatinine": rng.random() < 0.5, "lab: of a coin": rng.random() < 0.5}
            row["lab"]["Creatinine"] = 8.0 if names["lab: high Creatinine"] else 0.8
            row["findings"] = [name for name, shown in names.items() if shown]
            row["absent_findings"] = [name for name, shown in names.items() if not shown]
        pq.write_table(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema), file)
    return folder


def test_probes(checkpoint, cohort, tmp_path, capsys):
    words = ["probe", "--model", checkpoint, "--data", cohort, "--out", tmp_path / "out", "--modalities", "lab"]
    cli.run([*map(str, words), "--resamples", "20"])
    found = json.loads((tmp_path / "out" / "probe.json").read_text())["lab"]
    held, coin = (found["per_finding"][f"lab: {name}"] for name in ("high Creatinine", "of a coin"))
    assert held["encoder"]["value"] > 0.9
    for place in ("encoder", "tokens"):
        assert held[place]["value"] > coin[place]["value"] + 0.1  # of random weights, but the probes are not
        assert found["mean"][place]["value"] == pytest.approx((held[place]["value"] + coin[place]["value"]) / 2)
        low, high = coin[place]["interval"]
        assert low < coin[place]["value"] < high
    assert coin["lost"]["value"] == pytest.approx(coin["encoder"]["value"] - coin["tokens"]["value"])
    assert "lab: high Creatinine" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="not an empty folder"):
        cli.run(list(map(str, words)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"split": "train"}, "`split` must be"), ({"train_inputs": 9}, "No finding of the lab is shown")],
)
def test_probes_that_are_refused(checkpoint, cohort, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        probe_model(checkpoint, cohort, tmp_path / "out", modalities=["lab"], **changes)
