# SPDX-License-Identifier: Apache-2.0
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoProcessor

from medtvt_training import cli
from medtvt_training.data.load import load_medtvt_qa
from medtvt_training.evaluation.agreement import measure_agreement
from medtvt_training.evaluation.answerer import MedTVTAnswerer, SeededSampling
from medtvt_training.evaluation.evidence_check import EvidenceChecker
from medtvt_training.evaluation.predictions import copy_answers, read_predictions
from medtvt_training.evaluation.ranks import Ranks
from medtvt_training.evaluation.run import Records, predict
from medtvt_training.evaluation.variants import make_variants, swap_between_rows, withhold_from_rows, withhold_labs
from modeling_medtvt import DISEASES
from modeling_medtvt.answer_probability_medtvt import answer_probabilities, label_order

from tests.toy import SUBSETS


ABOUT = {"model": "tiny", "settings": {}}


@pytest.fixture(scope="module")
def model_and_processor(checkpoint: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(checkpoint).eval(), AutoProcessor.from_pretrained(checkpoint)


class Parrot:
    """Answers with its own reference, and counts; fails at the given record as a killed process would."""

    def __init__(self, killed_at: Any = None, unreadable: Any = ()) -> None:
        self.seen: list[str] = []
        self.killed_at, self.unreadable = killed_at, set(unreadable)

    def length(self, row: Any) -> Any:
        return 0

    def prepare(self, rows: list[Any]) -> Any:
        if bad := self.unreadable.intersection(row["id"] for row in rows):
            raise ValueError(f"{bad} cannot be read")
        return rows

    def answer(self, rows: list[Any]) -> list[Any]:
        self.seen += [row["id"] for row in rows]
        if self.killed_at in self.seen:
            raise KeyboardInterrupt
        return [{"completion": f"<answer>{'; '.join(row['diseases'])}</answer>"} for row in rows]


def run_command(*arguments: Any) -> None:
    cli.run(["evaluate", *map(str, arguments)])


def test_a_killed_run_goes_on(rows, tmp_path):
    first, second = Parrot(killed_at=rows[4]["id"]), Parrot()
    with pytest.raises(KeyboardInterrupt):
        predict(rows, first, tmp_path, ABOUT, batch_size=2)
    path = tmp_path / "predictions.jsonl"
    whole = path.read_text()
    assert whole.count("\n") == 4
    path.write_text(whole + '{"id": "diag')  # the line that was being written
    records = predict(rows, second, tmp_path, ABOUT, batch_size=2)
    assert path.read_text().startswith(whole)
    assert set(second.seen) == {row["id"] for row in rows[4:]}
    assert [record["id"] for record in records] == [row["id"] for row in rows]
    again = Parrot()
    assert predict(rows, again, tmp_path, ABOUT, batch_size=2) == records
    assert again.seen == []


@pytest.mark.parametrize("change", ["model", "settings", "dataset", "ids"])
def test_predictions_of_another_run_are_noticed(rows, tmp_path, change):
    predict(rows, Parrot(), tmp_path, ABOUT, batch_size=2)
    before = (tmp_path / "predictions.jsonl").read_bytes()
    about = {**ABOUT, **({change: "other"} if change in ABOUT else {})}
    if change == "dataset":
        rows[0]["lab"]["Creatinine"] = 9.0
    if change == "ids":
        rows = rows[1:]
    with pytest.raises(ValueError, match=rf"another run \(.*{change}.*differ\)"):
        predict(rows, Parrot(), tmp_path, about, batch_size=2)
    assert (tmp_path / "predictions.jsonl").read_bytes() == before


def test_what_cannot_be_read_is_listed(rows, tmp_path):
    bad = rows[2]["id"]
    records = predict(rows, Parrot(unreadable=[bad]), tmp_path, ABOUT, batch_size=3)
    assert [record["id"] for record in records] == [row["id"] for row in rows if row["id"] != bad]
    assert json.loads((tmp_path / "rejects.jsonl").read_text())["id"] == bad
    assert len(predict(rows, Parrot(), tmp_path, ABOUT, batch_size=3)) == len(rows)  # the file was repaired
    assert not (tmp_path / "rejects.jsonl").exists()
    with pytest.raises(ValueError, match="None of 6 records"):
        predict(rows, Parrot(unreadable=[row["id"] for row in rows]), tmp_path / "all", ABOUT, batch_size=3)


def test_swapping(rows):
    rows = [{**row, "subject_id": str(i // 2)} for i, row in enumerate(rows)]
    swapped = swap_between_rows(rows, "ecg", seed=1)
    assert [row["id"] for row in swapped] == [row["id"] for row in rows if row["ecg"]]
    by_id = {row["id"]: row for row in rows}
    for row in swapped:
        donor = by_id[row["donor_id"]]
        assert donor["subject_id"] != row["subject_id"]
        assert (row["ecg"], row["donor_diseases"]) == (donor["ecg"], donor["diseases"])
        assert (row["cxr"], row["diseases"]) == (by_id[row["id"]]["cxr"], by_id[row["id"]]["diseases"])
    assert sorted(row["ecg"] for row in swapped) == sorted(row["ecg"] for row in rows if row["ecg"])
    assert swapped == swap_between_rows(rows, "ecg", seed=1)
    one = [{**row, "subject_id": "a"} for row in rows]
    with pytest.raises(ValueError, match="cannot be swapped between 1 patients"):
        swap_between_rows(one, "ecg")


def test_withholding(rows):
    kept = withhold_from_rows(rows, "ecg")
    assert kept and all("ecg" not in row["modalities"] and row["modalities"] for row in kept)
    with pytest.raises(ValueError, match="cannot be withheld"):
        withhold_from_rows([row for row in rows if "ecg" not in row["modalities"]], "ecg")


def test_subsets_and_single_labs_withheld(rows):
    variants = make_variants(rows, subsets=True, labs_withheld=[0, 0.5, 0.75])
    assert {name for name in variants if name.startswith("subset-")} == {
        f"subset-{'+'.join(subset)}" for subset in SUBSETS if subset
    }
    for name, kept in variants.items():
        if name.startswith("subset-"):
            subset = name.removeprefix("subset-").split("+")
            assert all(row["modalities"] == subset for row in kept)
            assert {row["id"] for row in kept} == {row["id"] for row in rows if set(subset) <= set(row["modalities"])}
    by_share = [variants[f"labs-withheld-{share}"] for share in (0, 50, 75)]
    for none, half, most in zip(*by_share):
        measured = [{name for name, value in row["lab"].items() if value is not None} for row in (none, half, most)]
        assert measured[0] > measured[1] > measured[2]
        number = len(measured[0])
        assert [len(names) for names in measured] == [number, number - number // 2, number - number * 3 // 4]
    with pytest.raises(ValueError, match="at least 0 and below 1, got 1"):
        make_variants(rows, labs_withheld=[1.0])
    with pytest.raises(ValueError, match="none can be withheld"):
        withhold_labs([row for row in rows if "lab" not in row["modalities"]], 0.5)


def test_agreement_by_hand():
    def run(*named: str) -> list[Any]:
        return [
            {"id": str(i), "subject_id": str(i), "completion": f"<answer>{text}</answer>"}
            for i, text in enumerate(named)
        ]

    runs = {"ecg": run("Sepsis", "", "Sepsis; Pneumonia"), "lab": run("Sepsis", "", "Pneumonia", "Sepsis")}
    (pair,) = measure_agreement(runs, resamples=20, seed=0)
    assert (pair["first"], pair["second"], pair["records"]) == ("ecg", "lab", 3)
    assert pair["jaccard"]["value"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert pair["same"]["value"] == pytest.approx(2 / 3)


def run_ranks(rows: Any, folder: Path, count: int, answerers: Any, batch_size: int = 2) -> Any:
    """As many processes as there are answerers, one after the other; the first is last, as it merges."""

    class Alone(Ranks):
        def wait(self) -> None:
            pass

    for rank in reversed(range(len(answerers))):
        found = predict(rows, answerers[rank], folder, ABOUT, batch_size, ranks=Alone(rank, count))
    return found


def test_processes_share_a_run(rows, tmp_path):
    one = predict(rows, Parrot(), tmp_path / "one", ABOUT, batch_size=2)
    parrots = [Parrot(), Parrot()]
    two = run_ranks(rows, tmp_path / "two", 2, parrots)
    assert [record["id"] for record in two] == [record["id"] for record in one]
    assert set(parrots[0].seen) | set(parrots[1].seen) == {row["id"] for row in rows}
    assert not set(parrots[0].seen) & set(parrots[1].seen) and len(parrots[0].seen) == 4

    def written(folder: str) -> list[str]:
        return [json.loads(line)["id"] for line in (tmp_path / folder / "predictions.jsonl").read_text().splitlines()]

    assert written("two") == written("one")
    assert not list((tmp_path / "two").glob("predictions-*")) and not list((tmp_path / "two").glob("rejects*"))


def test_the_share_of_a_process_that_died_is_resumed(rows, tmp_path):
    killed = Parrot(killed_at=rows[5]["id"])
    with pytest.raises(KeyboardInterrupt):
        run_ranks(rows, tmp_path, 3, [Parrot(), Parrot(), killed], batch_size=1)
    others = [Parrot(killed_at=rows[3]["id"]), Parrot(unreadable=[rows[1]["id"]])]
    with pytest.raises(KeyboardInterrupt):
        run_ranks(rows, tmp_path, 3, others, batch_size=1)
    lying = {json.loads(line)["id"] for file in tmp_path.glob("predictions-*") for line in file.open()}
    assert len(list(tmp_path.glob("predictions-*.jsonl"))) == 3 and lying == {rows[i]["id"] for i in (0, 2, 4)}
    last = Parrot()
    records = predict(rows, last, tmp_path, ABOUT, batch_size=2)  # by one process
    assert [record["id"] for record in records] == [row["id"] for row in rows]
    assert set(last.seen) == {row["id"] for row in rows} - lying
    assert sorted(file.name for file in tmp_path.iterdir()) == ["predictions.jsonl", "run.json"]
    with pytest.raises(ValueError, match=r"another run \(model"):
        predict(rows, Parrot(), tmp_path, {**ABOUT, "model": "other"}, 2, ranks=Ranks(1, 2))


def test_two_processes_of_torchrun_answer_as_one(checkpoint, data, tmp_path):
    words = ["evaluate", "--model", checkpoint, "--data", data, "--max-new-tokens", 6, "--batch-size", 2]
    words += ["--resamples", 0, "--withhold", "ecg", "--out"]
    cli.run([*map(str, words), str(tmp_path / "one")])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "medtvt_training.cli", *map(str, words), str(tmp_path / "two")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("Research use only") == 1  # the first process alone prints
    for variant in ("", "withhold-ecg"):
        runs = [read_predictions(tmp_path / name / variant / "predictions.jsonl") for name in ("one", "two")]
        assert [record["id"] for record in runs[0]] == [record["id"] for record in runs[1]]
        same = [a["completion"] == b["completion"] for a, b in zip(*runs)]
        assert sum(same) >= len(same) - 1  # two logits of random weights may tie but for rounding
        assert not list((tmp_path / "two" / variant).glob("*-[01].jsonl"))


def test_a_batch_answers_as_its_rows_alone(rows, model_and_processor):
    answerer = MedTVTAnswerer(*model_and_processor, max_new_tokens=6)
    together = answerer.answer(answerer.prepare(rows))
    alone = [answerer.answer(answerer.prepare([row]))[0] for row in rows]
    same = [a["completion"] == b["completion"] for a, b in zip(together, alone)]
    assert sum(same) >= len(rows) - 1  # two logits of random weights may tie but for rounding
    assert all(
        (answer["gates"]["ecg"] is None) == ("ecg" not in row["modalities"]) for row, answer in zip(rows, together)
    )


def test_drawn_answers_depend_on_their_row_and_the_seed_alone(rows, model_and_processor):
    def draw(batches: Any, seed: int = 0) -> list[Any]:
        model, processor = model_and_processor
        answerer = MedTVTAnswerer(model, processor, max_new_tokens=6, num_samples=3, seed=seed)
        drawn = {}
        for batch in batches:
            for row, answer in zip(batch, answerer.answer(answerer.prepare(batch))):
                drawn[row["id"]] = answer["samples"]
        return [text for row in rows for text in drawn[row["id"]]]

    together, alone = draw([rows]), draw([[row] for row in reversed(rows)])
    same = sum(a == b for a, b in zip(together, alone))
    assert same >= len(together) - 2  # a random number may lie between two sums that differ by rounding
    assert len(set(together)) > len(together) / 2
    assert sum(a == b for a, b in zip(together, draw([rows], seed=1))) < len(together) / 2


@pytest.mark.parametrize("number", [2000])
def test_seeded_sampling_draws_from_the_distribution(number):
    scores = torch.tensor([[0.0, 1.0, -torch.inf, 2.0]]).repeat(number, 1)
    sampling = SeededSampling([str(i) for i in range(number)], 1, 1)
    tokens = sampling(torch.zeros(number, 1, dtype=torch.long), scores).argmax(-1)
    shares = torch.bincount(tokens, minlength=4) / number
    expected = scores[0].softmax(-1)
    assert shares[2] == 0
    assert ((shares - expected).abs() < 5 * (expected * (1 - expected) / number).sqrt() + 1e-9).all()


def test_label_order():
    texts = [f"<answer>{text}</answer>" for text in ("Sepsis; Hypertension", "Hypertension; Pneumonia", "Pneumonia")]
    order = label_order(texts)
    assert order.index("Sepsis") < order.index("Hypertension") < order.index("Pneumonia")
    assert label_order([f"<answer>{'; '.join(DISEASES)}</answer>"]) == list(DISEASES)


def test_likelihood_is_the_sum_over_all_answers(rows, model_and_processor):
    """Against a forward without a cache of each of the 128 answers."""
    model, processor = model_and_processor
    answerer = MedTVTAnswerer(model, processor)
    _, prompts, inputs = answerer.prepare(rows[:1])
    embeds = model.get_modality_embeds(torch.tensor(prompts), **inputs).embeds
    completion = "<think>no P waves</think><answer>Sepsis"
    found = answer_probabilities(model, processor.tokenizer, prompts[0], completion, DISEASES, embeds)
    scores, sets = [], []
    for bits in range(128):
        labels = [disease for i, disease in enumerate(DISEASES) if bits >> i & 1]
        text = f"<think>no P waves</think><answer>{'; '.join(labels)}</answer>"
        ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompts[0] + ids]), modality_embeds=embeds).logits[0]
        following = logits[len(prompts[0]) - 1 : -1].log_softmax(-1)
        scores.append(following.gather(1, torch.tensor(ids)[:, None]).sum())
        sets.append(labels)
    shares = torch.stack(scores).softmax(0)
    for disease in DISEASES:
        expected = sum(share for share, labels in zip(shares, sets) if disease in labels)
        assert found[disease] == pytest.approx(expected.item(), abs=1e-5)


def test_without_intervals_and_with_a_film_that_cannot_be_read(checkpoint, data, tmp_path):
    data = shutil.copytree(data, tmp_path / "data")
    rows = load_medtvt_qa(data, "diagnosis", "test").to_list()
    broken = next(row for row in rows if row["cxr"])
    Path(broken["cxr"]).write_bytes(b"no film")
    arguments = ["--model", checkpoint, "--data", data, "--max-new-tokens", 4, "--resamples", 0, "--swap", "lab"]
    for name, further in (("plain", []), ("cached", ["--feature-cache", tmp_path / "cache"])):
        run_command(*arguments, "--withhold", "ecg", "--out", tmp_path / name, *further)
        rejects = [json.loads(line) for line in (tmp_path / name / "rejects.jsonl").read_text().splitlines()]
        assert [reject["id"] for reject in rejects] == [broken["id"]] and "cxr" in rejects[0]["reason"]
        assert len(read_predictions(tmp_path / name / "predictions.jsonl")) == len(rows) - 1
        assert "strict/f1_samples" in json.loads((tmp_path / name / "withhold-ecg" / "comparison.json").read_text())


def test_reasoning_is_held_against_the_row(rows):
    row = next(row for row in rows if set(row["modalities"]) >= {"ecg", "lab"})
    row["lab"] |= {"Creatinine": 4.2, "Potassium": 4.1, "Lactate": None}
    text = "<think>Labs: high creatinine, high potassium, high lactate.\nCXR: enlarged heart.</think><answer></answer>"
    checker = EvidenceChecker()
    found = checker.check(text, checker.measure(row))
    assert {s["finding"]: s["status"] for s in found["statements"]} == {
        "lab: high Creatinine": "supported",
        "lab: high Potassium": "contradicted",
        "lab: high Lactate": "not measured",
        "cxr: enlarged heart": "not checkable" if "cxr" in row["modalities"] else "not measured",
    }
    assert found["abnormal"] >= 1 + len(found["unmentioned"])
    without = checker.check(text, checker.measure({**row, "modalities": ["cxr"]}))
    assert {s["status"] for s in without["statements"] if s["modality"] == "lab"} == {"not measured"}
    assert without["abnormal"] == 0


def test_two_runs_in_one_folder_are_refused(rows, tmp_path):
    class Impatient(Parrot):
        def answer(self, prepared: Any) -> Any:
            with pytest.raises(OSError, match="in use by another process"):
                predict(rows, Parrot(), tmp_path, ABOUT, batch_size=2)
            return super().answer(prepared)

    records = predict(rows, Impatient(), tmp_path, ABOUT, batch_size=2)
    assert [record["id"] for record in records] == [row["id"] for row in rows]


def test_the_command(checkpoint, data, tmp_path, capsys):
    arguments = ["--model", checkpoint, "--data", data, "--out", tmp_path, "--max-new-tokens", 4, "--num-samples", 2]
    arguments += ["--resamples", 20, "--swap", "ecg", "--limit", 5, "--subsets", "--withhold-labs", 0, 0.5]
    run_command(*arguments)
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 5 and all(len(line["samples"]) == 2 for line in lines)
    assert {"id", "subject_id", "diseases", "reference", "completion", "modalities"} <= lines[0].keys()
    for folder in (tmp_path, tmp_path / "swap-ecg"):
        results = json.loads((folder / "metrics.json").read_text())
        assert results["strict"]["parse_rate"] == 0 and results["strict"]["auroc_macro"] is not None
        assert results["about"]["run"]["seconds_per_record"] > 0
    assert (tmp_path / "variants.png").is_file() and (tmp_path / "swap-ecg" / "swap.png").is_file()
    assert json.loads((tmp_path / "swap-ecg" / "comparison.json").read_text())["strict/parse_rate"]["difference"] == 0
    whole = json.loads((tmp_path / "metrics.json").read_text())
    assert [entry["withheld"] for entry in whole["labs_withheld"]] == [0, 0.5]
    assert {(pair["first"], pair["second"]) for pair in whole["agreement"]} >= {("ecg", "lab"), ("lab", "ecg+cxr+lab")}
    report = (tmp_path / "report.md").read_text()
    assert "## Agreement between subsets of the modalities" in report and "| 50% | " in report
    assert [entry["given"] for entry in whole["subsets"]][-1] == "ecg+cxr+lab"
    assert "## Subsets of the modalities" in report
    assert not list(tmp_path.glob("subset-*/comparison.json"))
    printed = capsys.readouterr().out
    assert "5 records of 5 patients" in printed and "swap-ecg: F1" in printed
    with pytest.raises(ValueError, match=r"another run \(settings"):
        run_command(*arguments, "--seed", 1)


def test_subsets_and_reduced_labs_with_a_feature_cache(checkpoint, data, tmp_path):
    arguments = [
        "--model",
        checkpoint,
        "--data",
        data,
        "--max-new-tokens",
        4,
        "--resamples",
        0,
        "--out",
        tmp_path / "out",
    ]
    arguments += ["--feature-cache", tmp_path / "cache", "--withhold", "lab", "--subsets", "--withhold-labs", 0, 0.5]
    run_command(*arguments)

    def read(name: str) -> dict[str, str]:
        records = read_predictions(tmp_path / "out" / name / "predictions.jsonl")
        return {record["id"]: record["completion"] for record in records}

    number = len(load_medtvt_qa(data, "diagnosis", "test"))
    with_labs = read("labs-withheld-50")
    assert 0 < len(with_labs) < number and read("labs-withheld-0").keys() == with_labs.keys()
    assert read("subset-lab").keys() == with_labs.keys()
    run_command(*arguments)  # nothing is left to do
    assert len(read("")) == number


def test_answers_to_equal_rows_are_copied(rows, tmp_path):
    first = predict(rows, Parrot(), tmp_path / "first", {**ABOUT, "variant": ""}, batch_size=2)
    copy_answers(tmp_path / "first", tmp_path / "second", "subset-ecg")
    parrot = Parrot()
    about = {**ABOUT, "variant": "subset-ecg"}
    assert predict(rows, parrot, tmp_path / "second", about, batch_size=2) == first and parrot.seen == []
    (tmp_path / "second" / "predictions.jsonl").write_text("")
    copy_answers(tmp_path / "first", tmp_path / "second", "subset-ecg")  # what was started is left alone
    assert (tmp_path / "second" / "predictions.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "no regular expression"), ("^none$", "no record whose id matches")]
)
def test_records_by_id(data, pattern, message):
    names = load_medtvt_qa(data, "physiology", "test")["id"]
    chosen = Records(data, "physiology", ids=f"^{names[1]}$").load()
    assert chosen["id"] == [names[1]]
    with pytest.raises(ValueError, match=message):
        Records(data, "physiology", ids=pattern).load()


def test_physiology_level_and_its_table(checkpoint, data, tmp_path, capsys):
    arguments = ["--model", checkpoint, "--data", data, "--out", tmp_path, "--max-new-tokens", 4, "--resamples", 10]
    run_command(*arguments, "--level", "physiology", "--feature-cache", tmp_path / "cache")
    results = json.loads((tmp_path / "metrics.json").read_text())
    assert "parse_rate" not in results["strict"] and results["paper"]["f1"] is None
    assert set(results["by_modality"]) == {"ecg", "cxr", "lab"}
    capsys.readouterr()
    run_command("--table", 2, "--metrics", f"tiny={tmp_path / 'metrics.json'}")
    printed = capsys.readouterr().out
    assert "ECG, paper metrics" in printed and "| tiny | 0.000 [0.000, 0.000]" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "x"], "--model is needed"),
        (["--table", "1"], "--metrics NAME=FILE"),
        (["--table", "1", "--metrics", "nothing"], "--metrics NAME=FILE"),
    ],
)
def test_missing_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        run_command(*arguments)
