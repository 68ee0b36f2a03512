# SPDX-License-Identifier: Apache-2.0
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file

from medtvt_training.data.schema import FEATURES
from medtvt_training.stages.encoders import FindingsClassifier, normalization
from medtvt_training.stages.findings_dataset import (
    FindingsDataset,
    fill_absent,
    frequent_findings,
    read_cohort,
    read_ptb_xl,
)
from modeling_medtvt import MedTVTForCausalLM
from processing_medtvt import MedTVTProcessor

from .test_pt import changed_parameters, run
from tests.toy import write_toy_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A cohort whose even patients have bright films and a high creatinine and urea, and list it; ECGs are noise."""
    folder = write_toy_dataset(tmp_path_factory.mktemp("data") / "toy", patients=24)
    for split in ("train", "validation"):
        file = folder / "physiology" / f"{split}.parquet"
        rows = Dataset.from_parquet(str(file)).to_list()
        for row in rows:
            even = int(row["subject_id"]) % 2 == 0
            row["findings"] = ["shown", "rare"] if row["subject_id"] in ("1000", "2000") else ["shown"] * even
            if row["cxr"]:
                picture = np.random.default_rng(int(row["subject_id"])).integers(0, 100, (40, 40)) + 150 * even
                Image.fromarray(picture.astype(np.uint8)).save(folder / row["cxr"])
            if "lab" in row["modalities"]:
                row["lab"]["Creatinine"] = 5.0 + row["lab"]["Creatinine"] if even else 1.0
                row["lab"]["Urea Nitrogen"] = 60.0 if even else 15.0  # one lab among fifty is learned by luck
        Dataset.from_list(rows, features=FEATURES).to_parquet(str(file))
    return folder


@pytest.fixture(scope="module")
def train(checkpoint, data):
    def train(output_dir, **arguments):
        defaults = {"model": checkpoint, "data": data, "min_positives": 2, "save_strategy": "epoch"}
        defaults |= {"augment": "true", "patience": 0, "load_best_model_at_end": "false", "feature_dropout": 0}
        defaults |= {f"{modality}_epochs": 2 for modality in ("ecg", "cxr", "lab")}
        defaults |= {f"{modality}_batch_size": 8 for modality in ("ecg", "cxr", "lab")}
        defaults |= {"cxr_batch_size": 4, "lab_epochs": 40, "lab_learning_rate": 5e-3}
        run("encoders", output_dir=output_dir, **defaults | arguments)
        return output_dir

    return train


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "run", save_total_limit=9)


def test_encoders_learn_and_nothing_else_changes(trained, checkpoint):
    names = load_file(trained / "final" / "model.safetensors")
    changed = changed_parameters(checkpoint, trained / "final")
    parts = tuple(f"{modality}_{part}" for modality in ("ecg", "cxr", "lab") for part in ("encoder", "projector"))
    assert changed and all(name.split(".")[1] in parts for name in changed)
    weights = {name for name in names if name.split(".")[1] in parts and name.endswith(".weight")}
    assert weights <= changed
    model = MedTVTForCausalLM.from_pretrained(trained / "final")
    assert model.provenance.stage is None and model.model.has_frozen_encoders
    assert not any(parameter.requires_grad for parameter in model.model.cxr_encoder.parameters())


def test_auroc_is_measured_per_finding(trained):
    metrics = json.loads((trained / "encoder_metrics.json").read_text())
    assert set(metrics) == {"ecg", "cxr", "lab"}
    for modality in ("cxr", "lab"):
        assert metrics[modality]["encoder_auroc"]["shown"] > 0.8
    assert metrics["lab"]["token_auroc"]["shown"] > 0.8
    assert list(metrics["ecg"]["token_auroc"]) == ["shown"]  # one patient is too few to learn from
    assert metrics["ecg"]["rows"] == 20 and 0 < metrics["ecg"]["positives"]["shown"] < 20


def test_lab_percentiles_are_fitted_on_the_training_split(trained, data):
    extractor = MedTVTProcessor.from_pretrained(trained / "final").lab_feature_extractor
    assert extractor.percentile_source == "fitted" and "20 rows of toy, training split" in extractor.table_source
    position = extractor.lab_names.index("Creatinine")
    values = extractor([{"Creatinine": value} for value in (0.5, 1.0, 50.0)])["lab_values"][:, position]
    assert values[0] == 0 and 0.2 < values[1] < 0.8 and values[2] == 1


@pytest.mark.parametrize("kept", ["checkpoint-5", None], ids=["killed within the second", "killed between two"])
def test_resume_is_bit_equal(kept, trained, train, tmp_path):
    resumed = tmp_path / "run"
    shutil.copytree(trained / "ecg", resumed / "ecg")  # finished
    if kept:
        shutil.copytree(trained / "cxr" / kept, resumed / "cxr" / kept)
    train(resumed, resume="true", save_total_limit=9)
    assert changed_parameters(trained / "final", resumed / "final") == set()
    with pytest.raises(FileExistsError, match="final exists"):
        train(resumed)


def test_the_best_epoch_is_kept(train, data, tmp_path):
    arguments = {"modalities": "lab", "lab_epochs": 40, "lab_learning_rate": 1.0, "patience": 1}  # it diverges
    train(tmp_path, load_best_model_at_end="true", save_total_limit=9, **arguments)
    states = [json.loads(file.read_text()) for file in tmp_path.glob("lab/checkpoint-*/trainer_state.json")]
    last = max(states, key=lambda state: state["global_step"])
    losses = [entry["eval_loss"] for entry in last["log_history"] if "eval_loss" in entry]
    assert last["best_metric"] == min(losses) and len(losses) < 9
    best = load_file(Path(last["best_model_checkpoint"]) / "model.safetensors")
    final = load_file(tmp_path / "final" / "model.safetensors")
    assert all(
        torch.equal(best[f"projector.{name}"], final[f"model.lab_projector.{name}"]) for name in ("linear.bias",)
    )


def test_stored_pictures_become_what_the_processor_makes_of_them(checkpoint, data, tmp_path):
    model, processor = MedTVTForCausalLM.from_pretrained(checkpoint), MedTVTProcessor.from_pretrained(checkpoint)
    rows = read_cohort(data, "cxr")["train"][:2]
    dataset = FindingsDataset.read(rows, "cxr", processor, ["shown"], tmp_path / "inputs.npy")
    expected = torch.from_numpy(processor(cxr=[row["cxr"] for row in rows])["pixel_values"])
    classifier = FindingsClassifier(model, "cxr", 1, **normalization("cxr", processor)).eval()
    stored = torch.stack([item["values"] for item in dataset])
    assert stored.dtype == torch.uint8
    seen = []
    classifier.encoder.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    classifier(stored, torch.zeros(2, 1))
    torch.testing.assert_close(seen[0]["pixel_values"], expected, atol=1e-5, rtol=0)
    assert [item["labels"].item() for item in dataset] == [1, 0]


# Labelled files


@pytest.fixture
def ptb_xl(data, tmp_path):
    rows = ["ecg_id,filename_hr,scp_codes,strat_fold"]
    paths = Dataset.from_parquet(str(data / "physiology" / "train.parquet"))["ecg"]
    for i, path in enumerate(path for path in paths if path):
        codes = {"IMI": 100.0, "SR": 0.0} if i % 2 else {"NORM": 80.0}
        rows.append(f'{i},{path},"{codes}",{1 + i % 10}')
    (data / "ptbxl_database.csv").write_text("\n".join(rows))
    statements = ",description,diagnostic,diagnostic_class\nIMI,x,1.0,MI\nNORM,x,1.0,NORM\nSR,x,,\n"
    (tmp_path / "scp_statements.csv").write_text(statements)
    return data / "ptbxl_database.csv", tmp_path / "scp_statements.csv"


def test_the_ecg_encoder_learns_from_ptb_xl(ptb_xl, train, tmp_path, checkpoint):
    train(tmp_path / "run", data=None, labels=ptb_xl[0], statements=ptb_xl[1], ecg_epochs=1)
    metrics = json.loads((tmp_path / "run" / "encoder_metrics.json").read_text())
    assert list(metrics["ecg"]["token_auroc"]) == ["MI", "NORM"]
    assert {name.split(".")[1] for name in changed_parameters(checkpoint, tmp_path / "run" / "final")} == {
        "ecg_encoder",
        "ecg_projector",
    }


def test_ptb_xl_statements_and_folds(ptb_xl):
    rows = read_ptb_xl(ptb_xl[0])
    assert {finding for row in rows["train"] for finding in row["findings"]} == {"IMI", "SR", "NORM"}
    assert rows["validation"] and not {row["id"] for row in rows["train"]} & {row["id"] for row in rows["validation"]}


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": None}, "either `data`.*or `labels`"),
        ({"modalities": "eeg"}, "`modalities` must be some of ecg, cxr and lab; got eeg"),
        ({"patience": 2}, "`patience` needs `load_best_model_at_end`"),
        ({"min_positives": 50}, "No finding of the ecg is shown"),
    ],
)
def test_refuses_arguments_that_cannot_work(arguments, message, train, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", **arguments)
    assert not (tmp_path / "run" / "final").exists()


def test_refuses_tables_and_cohorts_without_labels(tmp_path):
    (tmp_path / "table.csv").write_text("a,strat_fold\n1,2\n")
    with pytest.raises(ValueError, match="table.csv has no column filename_hr, scp_codes"):
        read_ptb_xl(tmp_path / "table.csv")
    folder = write_toy_dataset(tmp_path / "toy", patients=2)
    file = folder / "physiology" / "train.parquet"
    rows = [{**row, "findings": None} for row in Dataset.from_parquet(str(file)).to_list()]
    Dataset.from_list(rows, features=FEATURES).to_parquet(str(file))
    with pytest.raises(ValueError, match="no row of physiology/train is about the ecg alone and lists its `findings`"):
        read_cohort(folder, "ecg")


def test_unreadable_inputs_are_counted(data, checkpoint, tmp_path, caplog):
    processor = MedTVTProcessor.from_pretrained(checkpoint)
    rows = read_cohort(data, "cxr")["train"]
    rows[1] = {**rows[1], "cxr": str(tmp_path / "absent.png")}
    with pytest.raises(ValueError, match="1 of 20 cxr inputs cannot be read.*\n.*absent.png"):
        FindingsDataset.read(rows, "cxr", processor, ["shown"], tmp_path / "a.npy")
    dataset = FindingsDataset.read(rows, "cxr", processor, ["shown"], tmp_path / "b.npy", max_rejected=0.1)
    assert len(dataset) == 19 and dataset.ids[1] == rows[2]["id"] and "absent.png" in caplog.text


def test_rare_and_universal_findings_are_left_out(caplog):
    rows = [{"findings": ["all", "some"]}, {"findings": ["all"]}, {"findings": ["all", "some"]}, {"findings": ["all"]}]
    fill_absent({"train": rows})
    assert frequent_findings("ecg", rows, 2) == ["some"]
    assert "1 findings are too rare, or too common, to learn: all" in caplog.text
