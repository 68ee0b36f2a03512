# SPDX-License-Identifier: Apache-2.0
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import xmlschema
from huggingface_hub import DatasetCard, ModelCard

from medtvt_training.cli import main
from medtvt_training.data.load import load_medtvt_qa
from medtvt_training.evaluation.score import score_records
from medtvt_training.files import hash_folder
from medtvt_training.sharing import cards
from medtvt_training.synthetic.cohort import write_cohort

from tests.medtvt_training.evaluation.test_patients import draw_records
from tests.toy import FIXTURES


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Any:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    entry = {"stage": "sft", "name": "cohort", "access": "synthetic"}
    (folder / "config.json").write_text(json.dumps({**config, "stage": "sft", "training_data": [entry]}))
    return folder


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort") / "drawn", 10, num_workers=1, progress=False)


def write_metrics(folder: Path, model: Any) -> Any:
    text = "<think>x</think><answer>Sepsis</answer>"
    records = [
        {
            "id": str(i),
            "subject_id": str(i),
            "diseases": ["Sepsis"] * (i % 3 > 0),
            "reference": text,
            "completion": text,
        }
        for i in range(6)
    ]
    results = score_records(records, resamples=20)
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(results))
    header = {"model": model, "level": "diagnosis", "split": "test", "settings": {}, "ids": [r["id"] for r in records]}
    (folder / "run.json").write_text(json.dumps(header))
    return folder / "metrics.json", results


def test_model_card_is_filled_from_its_files(folder, tmp_path):
    metrics, results = write_metrics(tmp_path / "run", hash_folder(folder))
    card = cards.model_card(folder, metrics, "org/mine")
    data = ModelCard(str(card)).data
    assert (data.library_name, data.license, data.datasets) == ("transformers", "apache-2.0", ["cohort"])
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found["strict_f1_macro"] == results["strict"]["f1_macro"]
    value, limits = results["strict"]["exact_match"], results["intervals"]["strict"]["exact_match"]
    assert f"{value:.3f} [{limits[0]:.3f}, {limits[1]:.3f}]" in card.text
    assert "6 records of 6 patients, diagnosis level, split test" in card.text
    for said in ("Research use only", 'model="org/mine"', "imaginary patients", "Limits", "License", "2506.18512"):
        assert said in card.text
    snippet = re.search("```python\n(.*?)```", card.text, re.DOTALL)[1]
    compile(snippet, "card", "exec")
    results["about"]["data"] = {"name": "drawn", "access": "synthetic"}
    metrics.write_text(json.dumps(results))
    card = cards.model_card(folder, metrics)
    assert "6 records of 6 imaginary patients, drawn by the package" in card.text
    assert {result.dataset_name for result in card.data.eval_results} == {"drawn"}
    assert len(snippet.strip().splitlines()) <= 10


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"use_perception": True}, "cyclic attention, gate"),
        ({"use_perception": True, "use_cyclic_attention": False}, "gate"),
        ({"use_perception": True, "use_cyclic_attention": False, "use_contribution_gate": False}, "none"),
        ({"use_perception": False}, "none"),
    ],
)
def test_card_says_what_the_perception_layer_has(folder, changes, said):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    assert f"| perception layer | {said} |" in cards.model_card(folder).text


def test_card_shows_variants_peers_and_notes(folder, tmp_path, capsys):
    metrics, results = write_metrics(tmp_path / "run", hash_folder(folder))
    variant = {"strict/f1_samples": {"a": 0.25, "b": 0.5, "difference": -0.25, "interval": [-0.5, 0.125]}}
    (tmp_path / "run" / "withhold-ecg").mkdir()
    (tmp_path / "run" / "withhold-ecg" / "comparison.json").write_text(json.dumps(variant))
    peer, _ = write_metrics(tmp_path / "trees", "another")
    (tmp_path / "notes.md").write_text("## How it was made\n\nmedtvt pretrain\n")
    words = ["card", "--model", str(folder), "--metrics", str(metrics), "--notes", str(tmp_path / "notes.md")]
    assert main([*words, "--peers", f"trees={peer}"]) == 0
    text = (folder / "README.md").read_text()
    assert "| without the ECG | 0.250 | -0.250 [-0.500, 0.125] | - | - |" in text
    assert f"| trees | {results['strict']['f1_samples']:.3f} [" in text and text.rstrip().endswith("medtvt pretrain")
    (folder / "README.md").unlink()
    assert main([*words, "--peers", "trees"]) == 2 and "--peers are NAME=FILE" in capsys.readouterr().err
    header = json.loads((peer.parent / "run.json").read_text())
    (peer.parent / "run.json").write_text(json.dumps({**header, "ids": [f"other-{i}" for i in range(6)]}))
    with pytest.raises(ValueError, match="trees: .* does not list the same records"):
        cards.model_card(folder, metrics, peers={"trees": peer})


def test_metrics_of_another_model_are_refused(folder, tmp_path):
    metrics, _ = write_metrics(tmp_path / "run", "another")
    with pytest.raises(ValueError, match="metrics of another model"):
        cards.model_card(folder, metrics)


@pytest.mark.parametrize(
    ("changes", "access", "license", "said"),
    [
        ({"stage": None, "training_data": None}, "none", "apache-2.0", "random and untrained"),
        ({"training_data": None}, "unknown", "other", "Not recorded"),
        (
            {"training_data": [{"name": "m", "stage": "pt", "access": "credentialed"}]},
            "credentialed",
            "other",
            "agreement",
        ),
    ],
)
def test_card_is_honest_about_data(folder, changes, access, license, said):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    card = cards.model_card(folder)
    assert cards.read_access(folder) == access
    assert card.data.license == license and said in card.text
    assert "None was given" in card.text and card.data.eval_results is None


def test_malformed_provenance_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "training_data": [{"access": "free"}]}))
    with pytest.raises(ValueError, match="`access` out of synthetic, open, credentialed"):
        cards.read_access(folder)


def test_adapter_card(folder):
    adapter = {"r": 8, "modules_to_save": ["perception"], "base_model_name_or_path": "/home/me/runs/pt/final"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    card = cards.model_card(folder)
    assert "rank 8" in card.text and "perception" in card.text and "/home/me" not in str(card)
    assert ModelCard(str(card)).data.library_name == "peft"


def test_dataset_card_counts_and_names_no_patient(cohort):
    card = cards.dataset_card(cohort)
    assert DatasetCard(str(card)).data.license == "apache-2.0"
    for level, split, patients in (("diagnosis", "train", 8), ("physiology", "test", 1)):
        rows = len(load_medtvt_qa(cohort, level, split))
        assert f"| {level} | {split} | {rows} | {patients} |" in card.text
    assert "medtvt synthesize --out drawn --patients 10 --seed 0 --setting clear" in card.text
    assert "`completion`" in card.text and "struct of 50 float64" in card.text
    assert "0-00000" not in str(card)
    assert cards.training_data_entry("sft", cohort) == {"stage": "sft", "name": "drawn", "access": "synthetic"}


def test_dataset_of_patients_is_credentialed(cohort, tmp_path):
    folder = shutil.copytree(cohort, tmp_path / "mimic", ignore=shutil.ignore_patterns("records", "films"))
    (folder / "cohort.json").unlink()
    card = cards.dataset_card(folder)
    assert card.data.license == "other" and "the data may not" in card.text
    assert cards.training_data_entry("pt", folder)["access"] == "credentialed"
    with pytest.raises(ValueError, match="holds no MedTVT-QA"):
        cards.dataset_card(tmp_path)


def patient_metrics(folder: Path, model: Path) -> Path:
    """Metrics with subgroups, probabilities, a check of the reasoning and variants."""
    results = score_records(draw_records(120), resamples=20)
    pair = {"value": 0.5, "interval": [0.4, 0.6]}
    results["agreement"] = [{"first": "ecg", "second": "lab", "records": 80, "jaccard": pair, "same": pair}]
    entry = {"withheld": 0.25, "records": 120, "f1_samples": pair, "auroc_macro": pair, "parse_rate": pair}
    results["labs_withheld"] = [entry]
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(results))
    header = {"model": hash_folder(model), "level": "diagnosis", "split": "test", "settings": {"seed": 0}, "ids": []}
    (folder / "run.json").write_text(json.dumps(header))
    return folder / "metrics.json"


HEADINGS = (
    *("Purpose", "Structure", "Data", "Benchmark against a simpler model", "Confidence", "Error handling", "Workflow"),
    *("Fairness audit", "Updates"),
)


def test_the_nine_headings(folder, tmp_path):
    bare = cards.model_card(folder).text
    full = cards.model_card(folder, patient_metrics(tmp_path / "run", folder)).text
    for heading in HEADINGS:
        assert f"\n## {heading}\n" in bare and f"\n## {heading}\n" in full
    assert bare.count("Not done.") == 3
    for said in (
        "| 40 to 64 |",
        "the model, equal prior",
        "error, surest 80%",
        "| 25% | 120 | 0.500 [0.400, 0.600] |",
    ):
        assert said in full and said not in bare
    assert "| ecg | lab | 80 | 0.500 [0.400, 0.600] |" in full and "hospital diagnoses" in full


@pytest.mark.parametrize("with_metrics", [False, True])
def test_the_chai_card_follows_its_schema(folder, tmp_path, with_metrics):
    schema = xmlschema.XMLSchema(str(FIXTURES / "chai" / "schema-v0.2.xsd"), allow="local")
    words = ["card", "--model", str(folder), "--chai", str(tmp_path / "card.xml")]
    if with_metrics:
        words += ["--metrics", str(patient_metrics(tmp_path / "run", folder))]
    (tmp_path / "stated.json").write_text(json.dumps({"ModelDeveloper": "A <lab> & another"}))
    assert main([*words, "--stated", str(tmp_path / "stated.json")]) == 0
    text = (tmp_path / "card.xml").read_text()
    schema.validate(text)
    found: Any = schema.to_dict(text)
    assert found["BasicInfo"]["ModelDeveloper"] == "A <lab> & another"
    assert found["BasicInfo"]["DeveloperContact"] == "Not stated."
    labels = {
        name: [entry["Label"] for entry in metric["Results"]["MetricResult"]]
        for name, metric in found["KeyMetrics"].items()
    }
    if with_metrics:
        assert "AUROC, mean over the diseases" in labels["UsefulnessUsabilityEfficacy"]
        assert "sex: F" in labels["FairnessEquity"] and "Answers that parse" in labels["SafetyReliability"]
        assert found["KeyMetrics"]["SafetyReliability"]["TestingDataDescription"].startswith(
            "120 records of 120 patients"
        )
    else:
        assert set(map(tuple, labels.values())) == {("Not done",)}


def test_what_a_chai_card_cannot_be_told(folder, tmp_path, capsys):
    (tmp_path / "stated.json").write_text(json.dumps({"ClinicalRiskLevel": "low"}))
    words = ["card", "--model", str(folder), "--chai", str(tmp_path / "card.xml"), "--stated"]
    assert main([*words, str(tmp_path / "stated.json")]) == 2
    assert "cannot be given ClinicalRiskLevel" in capsys.readouterr().err
    assert not (tmp_path / "card.xml").exists()
    (tmp_path / "card.xml").write_text("mine")
    (tmp_path / "stated.json").write_text("{}")
    assert main([*words, str(tmp_path / "stated.json")]) == 2 and (tmp_path / "card.xml").read_text() == "mine"


def test_the_checklist_says_what_was_not_done(folder, tmp_path):
    bare, full = tmp_path / "bare.md", tmp_path / "full.md"
    assert main(["card", "--model", str(folder), "--tripod", str(bare)]) == 0
    metrics = str(patient_metrics(tmp_path / "run", folder))
    assert main(["card", "--model", str(folder), "--metrics", metrics, "--tripod", str(full)]) == 0
    assert "| Results | performance | not done |" in bare.read_text()
    text = full.read_text()
    assert "| Results | performance | F1 0." in text and "| Results | performance in subgroups | by age, sex |" in text
    assert "| Results | external validation | not done |" in text
    assert text.count("| not done |") < bare.read_text().count("| not done |")
    number = int(re.search(r"of which (\d+) are not done", text)[1])
    assert text.count("| not done |") == number
