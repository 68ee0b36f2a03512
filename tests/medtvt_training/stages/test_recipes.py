# SPDX-License-Identifier: Apache-2.0
from argparse import ArgumentParser

import pytest
import yaml
from transformers import TrainingArguments

from medtvt_training.commands import finetune, pretrain
from medtvt_training.stages import encoders as train_encoders
from medtvt_training.stages.arguments import RECIPES, packaged_recipes, parse_stage_arguments


STAGES = {"encoders": train_encoders, "pretrain": pretrain, "finetune": finetune}
PATHS = {"encoders": ["--model=M"], "pretrain": ["--model=M", "--data=D"], "finetune": ["--model=M", "--data=D"]}


def parse(stage, config, *overrides):
    types = (*STAGES[stage].ARGUMENTS, TrainingArguments)
    return parse_stage_arguments(stage, types, str(config), [*PATHS[stage], "--output_dir=O", *overrides])


@pytest.fixture
def recipe(tmp_path):
    def write(text):
        file = tmp_path / "recipe.yaml"
        file.write_text(text)
        return file

    return write


@pytest.mark.parametrize("size", ["medtvt-r1", "smollm2-135m", "tiny"])
@pytest.mark.parametrize("stage", STAGES)
def test_packaged_recipes_are_read(size, stage):
    assert size in packaged_recipes(stage)
    *_, training = parse(stage, size, "--use_cpu", "--bf16=false")
    content = yaml.safe_load((RECIPES / size / f"{stage}.yaml").read_text())
    assert training.eval_strategy == content["eval_strategy"] and training.output_dir == "O"
    if stage != "encoders":
        assert training.train_sampling_strategy == "group_by_length" and not training.remove_unused_columns


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_values_of_the_paper(stage):
    model, *_, training = parse(stage, "medtvt-r1", "--use_cpu")
    assert (training.num_train_epochs, training.learning_rate, training.per_device_train_batch_size) == (20, 1e-4, 8)
    assert training.lr_scheduler_type == "cosine_with_min_lr" and training.lr_scheduler_kwargs == {"min_lr": 1e-6}
    assert (training.adam_beta1, training.adam_beta2, training.bf16) == (0.9, 0.95, True)
    assert (model.tuning, model.lora_rank) == ("lora", 8)


def test_the_command_line_wins(recipe):
    file = recipe(
        "learning_rate: 1e-4\nmax_length: 9\nlr_scheduler_kwargs: {min_lr: 1e-6}\nbf16: true\ntuning: full\n"
    )
    overrides = ["--learning_rate=0.5", "--lr-scheduler-kwargs", '{"min_lr": 0.1}', "--bf16", "false", "--tuning=lora"]
    model, data, _, training = parse("finetune", file, *overrides)
    assert (training.learning_rate, training.lr_scheduler_kwargs, training.bf16) == (0.5, {"min_lr": 0.1}, False)
    assert model.tuning == "lora" and data.max_length == 9


def test_yaml_values_get_their_types(recipe):
    file = recipe("learning_rate: 1e-4\nmax_length: null\nresume: yes\nreport_to: [none]\nmodality_dropout: 0\n")
    _, data, finetuning, training = parse("finetune", file)
    assert training.learning_rate == 1e-4 and data.max_length is None and data.resume is True
    assert training.report_to == [] and finetuning.modality_dropout == 0.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learnin_rate: 1", r"recipe\.yaml: unknown key 'learnin_rate'; the nearest known one is 'learning_rate'"),
        ("learning_rate: fast", r"learning.rate: invalid float value: 'fast' .*recipe\.yaml"),
        ("tuning: some", r"tuning: invalid choice: 'some' .*recipe\.yaml"),
        ("- tuning", r"recipe\.yaml must hold `key: value` lines, found a list"),
        ("a: b: c", r"recipe\.yaml is no YAML file"),
    ],
)
def test_recipes_that_cannot_be_used(text, message, recipe):
    with pytest.raises(ValueError, match=message):
        parse("pretrain", recipe(text))


def test_unknown_arguments_and_recipes():
    with pytest.raises(ValueError, match="unknown argument '--lora-rang=4'; the nearest known one is 'lora_rank'"):
        parse("pretrain", "tiny", "--lora-rang=4")
    with pytest.raises(
        ValueError, match="'huge' is neither a file nor a packaged recipe.*medtvt-r1, smollm2-135m, tiny"
    ):
        parse("pretrain", "huge")
    with pytest.raises(ValueError, match="required: --model"):
        parse_stage_arguments("pretrain", pretrain.ARGUMENTS, None, [])


@pytest.mark.parametrize("stage", STAGES)
def test_help_lists_the_stage_s_arguments(stage):
    parser = ArgumentParser()
    STAGES[stage].add_arguments(parser)
    assert parser.parse_known_args(["--config", "tiny", "--model", "m"])[1] == ["--model", "m"]
    text = parser.format_help()
    assert all(f"--{name} " in text for name in ("config", "model", "data", "resume")) and "tiny" in text
