# SPDX-License-Identifier: Apache-2.0
import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from medtvt_training import MedTVTDataCollator, load_medtvt_qa
from medtvt_training.data.collator import drop_long_rows
from medtvt_training.data.conversation import MODALITIES
from medtvt_training.stages.initialize import default_processor
from modeling_medtvt import parse_answer
from processing_medtvt import MedTVTProcessor


CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
INPUTS = {"ecg": "ecg_values", "cxr": "pixel_values", "lab": "lab_values"}


@pytest.fixture(scope="module")
def dataset(toy):
    return load_medtvt_qa(toy, "diagnosis", "train")


@pytest.fixture(scope="module")
def rows(dataset):
    return dataset.to_list()


@pytest.fixture(scope="module")
def processor(tokenizer):
    return default_processor(tokenizer)


def with_template(processor, template):
    parts = [processor.ecg_feature_extractor, processor.image_processor, processor.lab_feature_extractor]
    return MedTVTProcessor(*parts, processor.tokenizer, chat_template=template)


def test_only_the_answer_and_its_end_have_labels(processor, rows):
    batch = MedTVTDataCollator(processor)(rows)
    tokenizer = processor.tokenizer
    for i, row in enumerate(rows):
        length = batch["attention_mask"][i].sum().item()
        assert batch["attention_mask"][i].tolist() == [1] * length + [0] * (len(batch["labels"][i]) - length)
        assert set(batch["input_ids"][i, length:].tolist()) <= {tokenizer.pad_token_id}
        labels = batch["labels"][i]
        start = (labels != -100).nonzero()[0].item()
        assert labels[start:length].equal(batch["input_ids"][i, start:length])  # one block, up to the last token
        assert (labels[length:] == -100).all()
        answer = "".join(part["text"] for part in row["completion"][0]["content"])
        assert tokenizer.decode(labels[start:length]) == f" {answer}{tokenizer.eos_token}"
    lengths = batch["attention_mask"].sum(1)
    assert lengths.max() == batch["input_ids"].shape[1] and lengths.min() < lengths.max()


@pytest.mark.parametrize("template", [None, CHAT], ids=["plain", "chat"])
@pytest.mark.parametrize("k", [1, 3])
def test_the_prompt_is_what_generation_sees(processor, rows, template, k):
    processor = with_template(processor, template)
    processor.num_modality_tokens = k
    for row in rows:
        inputs = {modality: row[modality] for modality in row["modalities"]}
        seen = processor.apply_chat_template(
            row["prompt"], tokenize=True, return_dict=True, add_generation_prompt=True, processor_kwargs=inputs
        )
        prompt, completion = MedTVTDataCollator(processor).encode(row)
        assert prompt == seen["input_ids"][0]
        assert completion[-1] == processor.tokenizer.eos_token_id  # no newline of the template behind it
        assert parse_answer(processor.tokenizer.decode(completion)).diseases == tuple(row["diseases"])


def test_a_template_without_an_end_gets_one(processor, rows):
    template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    template += "{% if add_generation_prompt %}[assistant]{% endif %}"
    _, completion = MedTVTDataCollator(with_template(processor, template)).encode(rows[0])
    assert completion.count(processor.tokenizer.eos_token_id) == 1
    assert completion[-1] == processor.tokenizer.eos_token_id


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'].split('</think>')[-1] }}{% endfor %}",
        "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}",
    ],
    ids=["drops the evidence", "alters the prompt"],
)
def test_a_template_that_alters_the_answer_is_refused(processor, rows, template):
    with pytest.raises(ValueError, match="Row diagnosis-1000: the chat template"):
        MedTVTDataCollator(with_template(processor, template)).encode(rows[0])


def test_any_mix_of_modalities(processor, rows, model):
    batch = MedTVTDataCollator(processor)(rows)
    assert {tuple(row["modalities"]) for row in rows} >= {("ecg", "lab"), ("cxr", "lab"), ("ecg", "cxr")}
    for modality, name in INPUTS.items():
        present = [modality in row["modalities"] for row in rows]
        assert batch[name].abs().flatten(1).sum(1).bool().tolist() == present
        for i in (i for i, is_present in enumerate(present) if is_present):
            expected = processor(**{modality: [rows[i][modality]]}, return_tensors="pt")[name][0]
            assert batch[name][i].equal(expected)
    with torch.no_grad():
        assert model(**batch).loss.isfinite()


@pytest.mark.parametrize("given", [("ecg",), ("lab", "cxr")])
def test_only_the_modalities_of_the_batch_are_in_it(processor, rows, given):
    chosen = [{**row, "modalities": [m for m in row["modalities"] if m in given]} for row in rows]
    inputs = MedTVTDataCollator(processor).modality_inputs(chosen)
    assert set(inputs) == {INPUTS[modality] for modality in given}
    assert all(len(tensor) == len(rows) for tensor in inputs.values())


def test_age_and_sex_reach_neither_prompt_nor_model(processor, rows):
    batches = [
        MedTVTDataCollator(processor)([{**row, "age": age, "sex": sex} for row in rows])
        for age, sex in ((20.0, "F"), (90.0, "M"), (None, None))
    ]
    for batch in batches[1:]:
        assert batch.keys() == batches[0].keys() and all(batch[name].equal(batches[0][name]) for name in batch)


def test_a_row_that_cannot_be_read_is_named(processor, rows, tmp_path):
    with pytest.raises(ValueError, match="Row diagnosis-1000: its cxr cannot be read.*no such file"):
        MedTVTDataCollator(processor)([{**rows[0], "cxr": str(tmp_path / "none.png")}])


def withheld(collator, rows):
    names = dict(zip(collator.processor.modality_token_ids, MODALITIES))
    batch = collator(rows)
    kept = [[names[token] for token in ids.tolist() if token in names] for ids in batch["input_ids"]]
    for row, modalities, labels in zip(rows, kept, batch["labels"]):
        answer = collator.processor.tokenizer.decode(labels[labels != -100])
        assert [m for m in MODALITIES if m.upper() + ":" in answer] == modalities  # it cites what it can see
        assert parse_answer(answer).diseases == tuple(row["diseases"])
    for modality, name in INPUTS.items():
        rows_with = [modality in modalities for modalities in kept]
        assert (name in batch) == any(rows_with)
        if name in batch:
            assert batch[name].abs().flatten(1).sum(1).bool().tolist() == rows_with
    return kept


def test_modality_dropout(processor, rows):
    collator = MedTVTDataCollator(processor, modality_dropout=0.5, seed=3)
    epochs = []
    for collator.epoch in range(4):
        kept = withheld(collator, rows)
        assert all(modalities for modalities in kept)
        epochs.append(kept)
        again = MedTVTDataCollator(processor, modality_dropout=0.5, seed=3)
        again.epoch = collator.epoch
        assert [*withheld(again, rows[3:]), *withheld(again, rows[:3])] == [*kept[3:], *kept[:3]]
    assert len({str(kept) for kept in epochs}) > 1
    assert any(len(k) < len(row["modalities"]) for k, row in zip(epochs[0], rows))


def test_modality_dropout_withholds_as_often_as_it_says(processor, rows):
    class Features:
        def get(self, row, modality):
            return torch.ones(1, 1)

    collator = MedTVTDataCollator(processor, Features(), modality_dropout=0.2)
    ids = collator([{**rows[0], "id": f"row {i}"} for i in range(1000)])["input_ids"]
    for token in processor.modality_token_ids:
        assert 760 < (ids == token).any(1).sum() < 840


def test_modality_dropout_needs_tagged_answers(processor, rows):
    collator = MedTVTDataCollator(processor, modality_dropout=0.9)
    content = [{"type": "text", "text": "<answer></answer>", "modalities": None}]
    row = {**rows[0], "completion": [{"role": "assistant", "content": content}]}
    with pytest.raises(ValueError, match="completion of row diagnosis-1000 does not say"):
        collator([row])
    with pytest.raises(ValueError, match="`modality_dropout` must be in"):
        MedTVTDataCollator(processor, modality_dropout=1.5)


def test_workers_see_the_epoch(processor, dataset):
    collator = MedTVTDataCollator(processor, modality_dropout=0.5)
    loader = DataLoader(dataset, len(dataset), collate_fn=collator, num_workers=1, persistent_workers=True)
    for collator.epoch in (0, 1):
        (batch,) = loader
        assert batch["input_ids"].equal(collator(dataset.to_list())["input_ids"])
    assert pickle.loads(pickle.dumps(collator)).epoch == 1


def test_long_rows_are_never_cut(processor, dataset):
    whole, dropped = drop_long_rows(dataset, processor, 1000)
    assert len(whole) == len(dataset) and dropped == []
    lengths = dict(zip(whole["id"], whole["length"]))
    batch = MedTVTDataCollator(processor)(dataset.to_list())
    assert list(lengths.values()) == batch["attention_mask"].sum(1).tolist()

    limit = sorted(lengths.values())[2]
    kept, dropped = drop_long_rows(whole, processor, limit)
    assert {row["id"]: row["length"] for row in dropped} == {i: n for i, n in lengths.items() if n > limit}
    assert set(kept["id"]) == {i for i, n in lengths.items() if n <= limit}
    collator = MedTVTDataCollator(processor, max_length=limit)
    assert collator(kept.to_list())["input_ids"].shape[1] == limit
    with pytest.raises(ValueError, match=f"has {max(lengths.values())} tokens, `max_length` is {limit}"):
        collator([row for row in whole.to_list() if row["length"] == max(lengths.values())])
    with pytest.raises(ValueError, match="All 6 rows have more than 5 tokens"):
        drop_long_rows(dataset, processor, 5)
