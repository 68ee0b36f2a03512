# SPDX-License-Identifier: Apache-2.0
import json
import math
import re
from typing import Any

import evaluate
import numpy as np
import pytest
from nltk.translate.bleu_score import sentence_bleu
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from sklearn import metrics as sk

from medtvt_training import cli
from medtvt_training.data.labels import as_label_array
from medtvt_training.evaluation.bootstrap import evaluate_metrics, patient_weights
from medtvt_training.evaluation.metrics import label_metrics, probability_metrics
from medtvt_training.evaluation.paper_tables import render_table
from medtvt_training.evaluation.score import compare_records, score_records
from medtvt_training.evaluation.text_metrics import bleu_statistics, corpus_bleu, rouge_l_scores
from medtvt_training.evaluation.text_scores import TextResources, TextScorer
from modeling_medtvt import DISEASES

from tests.toy import toy_tokenizer


AF, SEPSIS, CAD, DM = "Atrial Fibrillation", "Sepsis", "Coronary Artery Disease", "Diabetes Mellitus"
# Twenty answers by hand: true labels, and what was written
ANSWERS = [
    ([AF], "<think>no P waves</think><answer>Atrial Fibrillation</answer>"),
    ([AF, SEPSIS], "<think>no P waves, lactate</think><answer>Sepsis; Atrial Fibrillation</answer>"),
    ([AF, SEPSIS], "<think>lactate</think><answer>Sepsis</answer>"),
    ([SEPSIS], "<think>lactate</think><answer>Sepsis; Sepsis</answer>"),
    ([SEPSIS], "<think>lactate</think><answer>Sepsis; Atrial Fibrillation; Hypertension</answer>"),
    ([CAD], "<think>Q waves in inferior leads"),
    ([CAD, DM], "<answer>Diabetes Mellitus</answer>"),
    ([CAD, DM], "<think>glucose is high</think><answer></answer>"),
    ([], "<think>nothing</think><answer></answer>"),
    ([], "<think>nothing</think><answer>Pneumonia</answer>"),
    (["Pneumonia"], "<think>opacity</think><answer>pneumonia</answer>"),
    (["Pneumonia"], "<think>opacity</think><answer>Pneumonia; Influenza</answer>"),
    (["Pneumonia", "Hypertension"], ""),
    (["Hypertension"], "<think>LVH</think><answer> ; Hypertension ;</answer> and <answer>Sepsis</answer>"),
    (["Acute Renal Failure"], "<think>creatinine 4.2</think>\n<answer>\nAcute Renal Failure\n</answer>"),
    (["Acute Renal Failure"], "Acute Renal Failure"),
    (["Acute Renal Failure", CAD], "<answer>Acute Renal Failure; Hypertension</answer>"),
    ([DM], "<think>glucose</think><answer>Diabetes  Mellitus</answer>"),
    (
        [DM, AF, CAD],
        "<think>all</think><answer>Diabetes Mellitus; Atrial Fibrillation; Coronary Artery Disease</answer>",
    ),
    ([DM], "<think>glucose</think><answer>" + "; ".join(DISEASES) + "</answer>"),
]


def run_command(*arguments: Any) -> None:
    cli.run(["metrics", *map(str, arguments)])


@pytest.fixture
def records() -> list[Any]:
    return [
        {
            "id": str(i),
            "subject_id": str(i // 2),
            "diseases": list(true),
            "reference": f"<think>the evidence of case {i}, lactate</think><answer>{'; '.join(true)}</answer>",
            "completion": text,
        }
        for i, (true, text) in enumerate(ANSWERS)
    ]


def independent_paper_mode(records: list[dict[str, Any]]) -> Any:
    """The authors' definitions, one record after the other, without anything of the package."""
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    bleu, rouge, rows, pairs = [], [], [], []
    for record in records:
        reference, text = record["reference"], record["completion"]
        bleu.append(sentence_bleu([re.findall(r"\w+|[^\w\s]+", reference)], re.findall(r"\w+|[^\w\s]+", text)))
        rouge.append(scorer.score(reference, text)["rougeL"].recall)
        found = re.search("<answer>(.*?)</answer>", text, re.DOTALL)
        if not found:
            continue
        named = {part.strip() for part in found.group(1).split(";")} - {""}
        true = set(record["diseases"])
        p = len(named & true) / len(named) if named else 0
        r = len(named & true) / len(true) if true else 0
        rows.append((p, r, 2 * p * r / (p + r) if p + r else 0))
        pairs += [(disease in true, disease in named) for disease in DISEASES]
    p, r, f = np.mean(rows, axis=0)
    return {"bleu": np.mean(bleu), "rouge": np.mean(rouge), "precision": p, "recall": r, "f1": f}, pairs, len(rows)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_paper_mode_is_that_of_the_authors(records):
    expected, pairs, parsed = independent_paper_mode(records)
    paper = score_records(records, resamples=0)["paper"]
    assert parsed == 17  # what has no answer block is left out; a block without <think> counts
    for name, value in expected.items():
        assert paper[name] == pytest.approx(value, abs=1e-12), name
    assert paper["auc"] == pytest.approx(sk.roc_auc_score(*zip(*pairs)), abs=1e-12)
    column = [pair for i, pair in enumerate(pairs) if i % 7 == DISEASES.index(SEPSIS)]
    assert paper["per_disease"][SEPSIS]["auc"] == pytest.approx(sk.roc_auc_score(*zip(*column)))


def test_paper_mode_by_hand():
    rows = [
        ([AF, SEPSIS], "<answer>Sepsis; Pneumonia</answer>"),  # 1/2, 1/2
        ([AF], "<answer></answer>"),  # 0, 0
        ([AF], "no answer"),  # left out
    ]
    records = [
        {
            "id": str(i),
            "subject_id": str(i),
            "diseases": d,
            "reference": f"<answer>{'; '.join(d)}</answer>",
            "completion": t,
        }
        for i, (d, t) in enumerate(rows)
    ]
    paper = score_records(records, resamples=0)["paper"]
    assert (paper["precision"], paper["recall"], paper["f1"]) == (0.25, 0.25, 0.25)
    assert paper["auc"] == pytest.approx((1 / 3 + 10 / 11) / 2)  # 1 of 3 positives found, 10 of 11 negatives spared


@pytest.fixture
def drawn() -> Any:
    rng = np.random.default_rng(0)
    return rng.random((60, 7)) < 0.3, rng.random((60, 7)) < 0.4, np.round(rng.random((60, 7)), 1)


def values_of(metrics: Any, n: Any = 60, **kwargs: Any) -> Any:
    return evaluate_metrics(metrics, [str(i) for i in range(n)], resamples=0, **kwargs)[0]


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("name", ["precision", "recall", "f1", "jaccard"])
def test_set_metrics_are_those_of_scikit_learn(drawn, name, average):
    truth, named, _ = drawn
    found = values_of(label_metrics(truth, named))
    expected = getattr(sk, f"{name}_score")(truth, named, average=average)
    assert found[f"{name}_{average}"] == pytest.approx(expected)


def test_set_metrics_of_records(drawn):
    truth, named, _ = drawn
    kept = (truth | named).any(1)  # two empty sets are a case of their own
    found = values_of(label_metrics(truth[kept], named[kept]), kept.sum())
    for name in ("precision", "recall", "f1", "jaccard"):
        expected = getattr(sk, f"{name}_score")(truth[kept], named[kept], average="samples", zero_division=0)
        assert found[f"{name}_samples"] == pytest.approx(expected)
    assert found["hamming_loss"] == pytest.approx(sk.hamming_loss(truth[kept], named[kept]))
    assert found["exact_match"] == pytest.approx(sk.accuracy_score(truth[kept], named[kept]))
    empty = np.zeros((1, 7), dtype=bool)
    assert values_of(label_metrics(empty, empty), 1)["f1_samples"] == 1


def test_probability_metrics_are_those_of_scikit_learn(drawn):
    truth, _, scores = drawn
    found = values_of(probability_metrics(truth, scores))
    functions = {"auroc": sk.roc_auc_score, "auprc": sk.average_precision_score, "brier": sk.brier_score_loss}
    for name, function in functions.items():
        expected = [function(truth[:, i], scores[:, i]) for i in range(7)]
        assert [found[f"per_disease/{d}/{name}"] for d in DISEASES] == pytest.approx(expected)
        assert found[f"{name}_macro"] == pytest.approx(np.mean(expected))
    # calibration by hand: of ten records at 0.8 six are positive, of ten at 0.1 one
    truth = np.zeros((20, 7), dtype=bool)
    truth[:6], truth[10] = True, True
    scores = np.repeat([[0.8], [0.1]], 10, axis=0) * np.ones((1, 7))
    assert values_of(probability_metrics(truth, scores), 20)["ece_macro"] == pytest.approx(0.1)


def test_weights_are_repetitions(drawn, records):
    """A record of weight 2 is two records: what makes the bootstrap right, for every metric."""
    truth, named, scores = drawn
    twice = np.r_[np.arange(60), np.arange(20)]
    weights = np.r_[np.full(20, 2.0), np.ones(40)][None]
    for make, arrays in ((label_metrics, (truth, named)), (probability_metrics, (truth, scores))):
        repeated = make(*(array[twice] for array in arrays))
        for name, metric in make(*arrays).items():
            expected = repeated[name].compute(np.ones((1, 80)))
            assert metric.compute(weights) == pytest.approx(expected, nan_ok=True), name
    statistics = bleu_statistics(*([record[key] for record in records] for key in ("reference", "completion")))
    assert statistics.shape == (20, 10)


def test_corpus_bleu_is_that_of_sacrebleu(records):
    references, completions = ([record[key] for record in records] for key in ("reference", "completion"))
    expected = BLEU().corpus_score(completions, [references]).score / 100
    assert corpus_bleu(bleu_statistics(references, completions).sum(0)) == pytest.approx(expected)
    assert score_records(records, resamples=0)["strict"]["bleu"] == pytest.approx(expected)


@pytest.mark.parametrize("stem", [False, True])
def test_rouge_l_is_that_of_rouge_score(records, stem):
    references, completions = ([record[key] for record in records] for key in ("reference", "completion"))
    references, completions = [*references, "a b a c a b", ""], [*completions, "b a a b c", "x"]
    scorer = RougeScorer(["rougeL"], use_stemmer=stem)
    expected = [scorer.score(*pair)["rougeL"] for pair in zip(references, completions)]
    found = rouge_l_scores(references, completions, stem)
    assert found == pytest.approx(np.array([[score.recall, score.fmeasure] for score in expected]))


def test_texts_are_scored_once(records, tmp_path, monkeypatch):
    from medtvt_training.evaluation import text_scores

    scored: list[int] = []
    real = text_scores.bleu_statistics

    def counting(references: Any, completions: Any) -> Any:
        scored.append(len(references))
        return real(references, completions)

    monkeypatch.setattr(text_scores, "bleu_statistics", counting)
    store = tmp_path / "text_scores.json"
    scorer = TextScorer(store=store)
    first = score_records(records, scorer, resamples=0)
    comparison = compare_records(records, records, scorer, resamples=0)
    assert scored == [len({(record["reference"], record["completion"]) for record in records})]
    assert comparison["strict/bleu"]["difference"] == 0
    assert score_records(records, TextScorer(store=store), resamples=0) == first  # a later run
    longer = [*records, {**records[0], "id": "new", "completion": "another"}]
    score_records(longer, TextScorer(store=store), resamples=0)
    assert scored[1:] == [1]
    made_by = json.loads(store.read_text())
    made_by["made_by"]["bleu_statistics"] = "sacrebleu 0"
    store.write_text(json.dumps(made_by))
    score_records(longer[:2], TextScorer(store=store), resamples=0)
    assert scored[2:] == [2]  # what another version made is made anew
    store.write_text("[]")
    with pytest.raises(ValueError, match="holds no scores of texts"):
        TextScorer(store=store)


def test_unparsed_answers_are_empty_answers(records):
    strict = score_records(records, resamples=0)["strict"]
    assert strict["parse_rate"] == pytest.approx(17 / 20)
    assert strict["unknown_label_rate"] == pytest.approx(1 / 20)
    named = as_label_array(
        [re.findall("|".join(DISEASES), text) if "</answer>" in text else [] for _, text in ANSWERS]
    )
    named[10, DISEASES.index("Pneumonia")] = named[17, DISEASES.index(DM)] = True  # case and spacing do not matter
    named[13] = as_label_array([["Hypertension"]])  # the first block counts
    truth = as_label_array([true for true, _ in ANSWERS])
    assert strict["f1_micro"] == pytest.approx(sk.f1_score(truth, named, average="micro"))
    assert strict["auroc_macro"] is None


def test_a_class_that_is_absent_is_undefined(records):
    for record in records:
        record["samples"] = [record["completion"], "<answer>Sepsis</answer>"]
    without = [record for record in records if SEPSIS not in record["diseases"]]
    results = score_records(without, resamples=50)
    diseases = results["strict"]["per_disease"]
    for name in ("recall", "f1", "auroc", "auprc"):
        assert diseases[SEPSIS][name] is None
        assert results["intervals"]["strict"]["per_disease"][SEPSIS][name] is None
    assert "no record has the disease" in results["undefined"]["strict/per_disease/Sepsis/auroc"]
    assert results["paper"]["per_disease"][SEPSIS]["auc"] is None
    others = [diseases[disease]["auroc"] for disease in DISEASES if disease != SEPSIS]
    assert results["strict"]["auroc_macro"] == pytest.approx(np.mean(others))
    assert "NaN" not in json.dumps(results)


def test_patients_are_drawn_whole():
    subjects = ["a", "a", "b", "c", "c", "c"]
    weights = np.concatenate(list(patient_weights(subjects, 500, seed=1)))
    assert weights.shape == (500, 6)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(1) == 3).all()
    again = np.concatenate(list(patient_weights(subjects, 500, seed=1)))
    assert (weights == again).all()
    assert (weights != np.concatenate(list(patient_weights(subjects, 500, seed=2)))).any()


def test_intervals_cover_and_repeat(records):
    records = [
        {**record, "id": f"{k}-{record['id']}", "subject_id": f"{k}-{record['subject_id']}"}
        for k in range(5)
        for record in records
    ]
    results, again = (score_records(records, resamples=200, seed=3) for _ in range(2))
    assert results == again
    low, high = results["intervals"]["strict"]["f1_micro"]
    assert low < results["strict"]["f1_micro"] < high
    # the mean of 50 patients: near the normal approximation
    parsed = np.array(["</answer>" in record["completion"] for record in records]).reshape(50, 2).mean(1)
    low, high = results["intervals"]["strict"]["parse_rate"]
    assert high - low == pytest.approx(2 * 1.96 * parsed.std() / 50**0.5, rel=0.2)


def test_paired_differences(records):
    better = [{**record, "completion": record["reference"]} for record in records]
    comparison = compare_records(better, list(reversed(records)), resamples=200)
    row = comparison["strict/f1_samples"]
    assert row["a"] == 1 and row["difference"] == row["a"] - row["b"] > 0
    assert row["interval"][0] > 0
    same = compare_records(records, records, resamples=50)
    assert all(row["difference"] == 0 and row["interval"] == [0, 0] for row in same.values())
    with pytest.raises(ValueError, match="lacks 1 of 20"):
        compare_records(records, records[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "lacks id"),
        ({"completion": None}, "lacks completion"),
        ({"id": "1"}, "'1' more than once"),
        ({"diseases": ["Gout"]}, "1 labels are none of the seven"),
        ({"completion": 3}, "must be a string"),
        ({"age": "old"}, "`age` must be a number of years in 0 to 130"),
        ({"sex": "X"}, '`sex` must be "F", "M" or null'),
        ({"evidence": {"statements": [{"status": "true"}]}}, "`evidence` must be an object with statements"),
    ],
)
def test_bad_lines_are_named(records, tmp_path, change, message):
    records[0].update(change)
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(ValueError, match=message):
        run_command("--predictions", path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_lines_alone_are_enough(records, tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    run_command("--predictions", path, "--out", tmp_path, "--resamples", 20, "--versus", path)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert list(written)[:2] == ["paper", "strict"]
    assert written == json.loads(json.dumps(score_records(records, resamples=20)))
    report = (tmp_path / "report.md").read_text()
    assert "METEOR is skipped" in report and "BERTScore is skipped" in report and "Research use only" in report
    assert (tmp_path / "diseases.png").stat().st_size > 10_000
    table = render_table(1, {"ours": str(tmp_path / "metrics.json")})
    assert f"{written['paper']['f1']:.3f} [" in table
    with pytest.raises(ValueError, match="physiology"):
        render_table(2, {"ours": str(tmp_path / "metrics.json")})
    assert "0.519" in render_table(3, {"ours": str(tmp_path / "metrics.json")})


def test_files_of_the_authors(records, tmp_path):
    def write(name: str, key: Any, questions: Any) -> Any:
        messages = [
            [{"role": "user", "content": question}, {"role": "assistant", "content": record[key]}]
            for question, record in zip(questions, records)
        ]
        (tmp_path / name).write_text(json.dumps([{"messages": pair, "ECG": ["x"]} for pair in messages]))
        return str(tmp_path / name)

    questions = [f"question {i}" for i in range(20)]
    predicted = write("predicted.json", "completion", questions)
    expected = write("expected.json", "reference", questions)
    arguments = ["--resamples", 0, "--out", tmp_path / "out"]
    run_command("--predictions", predicted, "--references", expected, *arguments)
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["paper"]
    assert found == score_records(records, resamples=0)["paper"]
    other = write("other.json", "reference", questions[::-1])
    with pytest.raises(ValueError, match="record 0 answers another question"):
        run_command("--predictions", predicted, "--references", other, *arguments)


def test_evidence_is_judged_by_the_findings(records):
    for record in records:
        text = "<think>sinus tachycardia, RBBB, ventricular pacing</think><answer></answer>"
        record.update(completion=text, findings=["ecg: sinus tachycardia", "lab: x"])
    evidence = score_records(records, resamples=20)["evidence"]
    assert evidence["cited_true"] == pytest.approx(1 / 3)
    assert evidence["findings_cited"] == pytest.approx(1 / 2)
    for record in records:
        record.update(donor_modality="ecg", donor_findings=["ecg: paced", "ecg: right bundle branch block", "lab: x"])
    swapped = score_records(records, resamples=0)["evidence"]["ecg"]
    assert swapped["cited_true"] == pytest.approx(1 / 3)
    assert swapped["cited_true_of_donor"] == pytest.approx(2 / 3)
    for record in records:
        record["findings"] = []
    assert "evidence" not in score_records(records, resamples=0)


def test_the_check_counts_without_known_causes(records):
    def statement(finding: str, status: str, negated: bool = False) -> dict[str, Any]:
        return {"modality": finding[:3], "finding": finding, "negated": negated, "status": status}

    for record in records:
        listed = [
            statement("ecg: sinus tachycardia", "supported"),
            statement("lab: high Creatinine", "contradicted"),
            statement("lab: high Lactate", "not measured"),
            statement("cxr: enlarged heart", "not checkable"),
        ]
        record["evidence"] = {"statements": listed, "unmentioned": ["lab: low Sodium"], "abnormal": 4}
    evidence = score_records(records, resamples=20)["evidence"]
    shares = {name: evidence[name] for name in ("supported", "contradicted", "not_measured", "not_checkable")}
    assert shares == dict.fromkeys(shares, 0.25)
    assert evidence["unmentioned"] == 0.25 and evidence["statements"] == 4
    assert evidence["lab"]["contradicted"] == 0.5 and evidence["ecg"]["supported"] == 1
    assert "agreement" not in evidence and "cited_true" not in evidence
    for record in records:  # the verdict on creatinine is not what the causes say
        record["findings"] = ["ecg: sinus tachycardia", "lab: high Creatinine"]
    assert score_records(records, resamples=0)["evidence"]["agreement"] == 0.5
    for record in records:  # the donor's ECG was shown
        record.update(donor_modality="ecg", donor_findings=["ecg: fibrillation", "lab: high Lactate"])
    assert score_records(records, resamples=0)["evidence"]["agreement"] == 0


def test_swapped_modality(records):
    for i, record in enumerate(records):
        record["donor_diseases"] = [SEPSIS] if i < 2 else []
    swap = score_records(records, resamples=0)["swap"]
    assert swap[SEPSIS]["named_donor_only"] == 0  # record 0 has not Sepsis, its donor has
    assert swap[SEPSIS]["named_both"] == 1
    assert swap[SEPSIS]["named_patient_only"] == 1


def write_wordnet(folder: Any) -> Any:
    """An `nltk_data` folder with a WordNet of one noun synset, {car, auto}; returns the folder."""
    root, folder = folder, folder / "corpora" / "wordnet"
    folder.mkdir(parents=True)
    (folder / "lexnames").write_text("00\tadj.all\t3\n" + "".join(f"{i:02}\tnoun.x{i}\t1\n" for i in range(1, 45)))
    line = "00000000 06 n 02 car 0 auto 0 000 | a motor vehicle  \n"
    (folder / "data.noun").write_text(line)
    (folder / "index.noun").write_text("".join(f"{word} n 1 0 1 0 00000000  \n" for word in ("auto", "car")))
    for kind in ("verb", "adj", "adv"):
        (folder / f"data.{kind}").write_text("")
        (folder / f"index.{kind}").write_text("")
    for kind in ("noun", "verb", "adj", "adv"):
        (folder / f"{kind}.exc").write_text("")
    (folder / "data.adj").write_text("  1 WordNet 3.0 Copyright 2006\n")
    for name in ("index.sense", "cntlist.rev", "citation.bib", "LICENSE", "README"):
        (folder / name).write_text("")
    return root


def test_meteor_with_a_local_wordnet(tmp_path):
    wordnet = write_wordnet(tmp_path / "wordnet")
    record = {"id": "a", "subject_id": "a", "diseases": [], "reference": "the red car", "completion": "the red auto"}
    results = score_records([record], TextScorer(TextResources(wordnet=str(wordnet))), resamples=0)
    # three matches in one chunk: F = 1, penalty 0.5 (1/3)^3
    assert results["paper"]["meteor"] == pytest.approx(1 - 0.5 / 27)
    assert not any("METEOR" in line for line in results["skipped"])
    with pytest.raises(ValueError, match="no WordNet here"):
        score_records([record], TextScorer(TextResources(wordnet=str(tmp_path))))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = toy_tokenizer()
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    model = BertModel(BertConfig(vocab_size=len(tokenizer), **sizes))
    model.embeddings.word_embeddings.weight.data.mul_(50)  # so that tokens differ
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_bert_score_with_a_local_encoder(records, encoder):
    scorer = TextScorer(TextResources(encoder=encoder, encoder_layer=2))
    same = [{**record, "completion": record["reference"]} for record in records]
    assert score_records(same, scorer, resamples=0)["paper"]["bert_score"] == pytest.approx(1, abs=1e-5)
    results = score_records(records, scorer, resamples=0)
    assert 0 < results["paper"]["bert_score"] < 1 and 0 < results["strict"]["bert_score"] < 1
    # a text alone gets what it gets in a batch
    alone = [score_records([record], scorer, resamples=0)["paper"]["bert_score"] for record in records]
    assert math.isclose(np.mean(alone), results["paper"]["bert_score"], abs_tol=1e-5)
    assert alone[12] == 0  # an empty completion
    with pytest.raises(ValueError, match="3 layers"):
        score_records(records, TextScorer(TextResources(encoder=encoder)), resamples=0)


def test_the_metric_folder_of_evaluate(records):
    from pathlib import Path

    folder = Path(__file__).parents[3] / "hub_cards" / "medical_diagnosis"
    metric = evaluate.load(str(folder))
    found = metric.compute(
        predictions=[record["completion"] for record in records],
        references=[record["reference"] for record in records],
    )
    expected = score_records(records, resamples=0)
    assert found == {name: expected[name] for name in ("paper", "strict", "undefined")}
    assert found["undefined"]["strict/meteor"] == "skipped: no WordNet"


def test_the_metric_quotes_no_reference():
    evaluate = pytest.importorskip("evaluate")
    from pathlib import Path

    metric = evaluate.load(str(Path(__file__).parents[3] / "hub_cards" / "medical_diagnosis"))
    with pytest.raises(ValueError, match="Reference 0 names 1 other") as error:
        metric.compute(predictions=["<answer></answer>"], references=["<answer>John Doe; Sepsis</answer>"])
    assert "John" not in str(error.value)
