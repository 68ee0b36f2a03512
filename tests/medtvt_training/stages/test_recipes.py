# SPDX-License-Identifier: Apache-2.0
import pytest
import yaml

from medtvt_training.cli import build_parser
from medtvt_training.stages.arguments import RECIPE_NAMES, RECIPES, packaged_recipes
from medtvt_training.stages.recipes import parse_arguments


COMMANDS = {"encoders": "train-encoders", "pt": "pretrain", "sft": "finetune", "rft": "reinforce"}


def parse(stage, recipe, *overrides):
    return parse_arguments(stage, str(recipe), ["--model=M", "--data=D", "--out=O", *overrides])


@pytest.fixture
def recipe(tmp_path):
    def write(text):
        file = tmp_path / "recipe.yaml"
        file.write_text(text)
        return file

    return write


def test_every_size_has_a_recipe_for_each_stage():
    for stage in ("encoders", "pt", "sft"):
        assert {"medtvt-r1", "smollm2-135m", "tiny"} <= set(packaged_recipes(stage))


@pytest.mark.parametrize(
    ("stage", "size"), [(stage, size) for stage in ("encoders", "pt", "sft") for size in packaged_recipes(stage)]
)
def test_packaged_recipes_are_read(stage, size):
    *_, training = parse(stage, size, "--use_cpu", "--bf16=false")
    content = yaml.safe_load((RECIPES / size / f"{RECIPE_NAMES[stage]}.yaml").read_text())
    assert training.eval_strategy == content["eval_strategy"] and training.output_dir == "O"
    if stage != "encoders":
        assert training.train_sampling_strategy == "group_by_length" and not training.remove_unused_columns


@pytest.mark.parametrize("stage", ["pt", "sft"])
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
    model, data, *_, training = parse("sft", file, *overrides)
    assert (training.learning_rate, training.lr_scheduler_kwargs, training.bf16) == (0.5, {"min_lr": 0.1}, False)
    assert model.tuning == "lora" and data.max_length == 9


def test_yaml_values_get_their_types(recipe):
    file = recipe("learning_rate: 1e-4\nmax_length: null\nresume: yes\nreport_to: [none]\nmodality_dropout: 0\n")
    _, data, _, finetuning, training = parse("sft", file)
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
        parse("pt", recipe(text))


def test_unknown_arguments_and_recipes():
    with pytest.raises(ValueError, match="unknown argument '--lora-rang=4'; the nearest known one is 'lora_rank'"):
        parse("pt", "tiny", "--lora-rang=4")
    with pytest.raises(
        ValueError, match="'huge' is neither a file nor a packaged recipe.*medtvt-r1, smollm2-135m, tiny"
    ):
        parse("pt", "huge")
    with pytest.raises(ValueError, match="required: --model"):
        parse_arguments("pt", None, ["--out=O", "--data=D"])
    with pytest.raises(ValueError, match="unknown argument '--feature_cache'; it is spelled '--feature-cache'"):
        parse("pt", "tiny", "--feature_cache=F")


@pytest.mark.parametrize("stage", RECIPE_NAMES)
def test_help_lists_the_stage_s_arguments(stage, capsys):
    with pytest.raises(SystemExit):
        build_parser(COMMANDS[stage]).parse_args([COMMANDS[stage], "--help"])
    text = capsys.readouterr().out
    assert all(f"--{name} " in text for name in ("recipe", "model", "data", "resume", "out")) and "tiny" in text
