# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoProcessor

from medtvt_training import cli
from medtvt_training.evaluation import ablation
from medtvt_training.evaluation.score import score_records
from medtvt_training.files import write_json
from medtvt_training.stages.initialize import init_tiny
from modeling_medtvt import DISEASES

from tests.toy import write_toy_dataset


RECIPES = {
    "pretrain": "tuning: full\n",
    "finetune": "tuning: full\n",
    "reinforce": "tuning: full\nrewards: [format]\nnum_generations: 2\nmax_completion_length: 4\nbf16: false\n",
}
COMMON = "per_device_train_batch_size: 4\nremove_unused_columns: false\nuse_cpu: true\ndisable_tqdm: true\n"


@pytest.fixture(scope="module")
def inputs(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arguments with a tiny model, the toy dataset and a recipe for it, and one feature cache."""
    folder = tmp_path_factory.mktemp("ablate")
    (folder / "recipe").mkdir()
    for name, recipe in RECIPES.items():
        (folder / "recipe" / f"{name}.yaml").write_text(recipe + COMMON)
    data = write_toy_dataset(folder / "toy", patients=3)
    return {"recipe": str(folder / "recipe"), "data": data, "model": checkpoint, "feature_cache": folder / "cache"}


@pytest.fixture
def stages_run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Names of the output folders of the stages that are trained to their end, in order."""
    done = []
    original = ablation.run_stage

    def run_stage(stage: str, recipe: str, overrides: list[str]) -> None:
        original(stage, recipe, overrides)
        done.append(folder_of(overrides).name)

    monkeypatch.setattr(ablation, "run_stage", run_stage)
    return done


def option(overrides: list[str], name: str) -> Any:
    return next(word.split("=", 1)[1] for word in overrides if word.startswith(f"--{name}="))


def folder_of(overrides: list[str]) -> Path:
    return Path(option(overrides, "out"))


def words(settings: Any) -> list[Any]:
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]


def run_command(*arguments: Any) -> None:
    cli.run(["ablate", *map(str, arguments)])


def test_a_killed_run_goes_on(inputs, stages_run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    arguments = [*words(inputs), "--out", out, "--variants", "neither", "--limit", 3]
    original = ablation.run_stage

    def killed(stage: str, recipe: str, overrides: list[str]) -> None:
        if folder_of(overrides).name == "sft-neither":
            raise KeyboardInterrupt
        original(stage, recipe, overrides)

    with monkeypatch.context() as patch:
        patch.setattr(ablation, "run_stage", killed)
        with pytest.raises(KeyboardInterrupt):
            run_command(*arguments, "--max-steps", 1)
    assert stages_run == ["pt", "sft", "rft"]
    answers = (out / "full" / "predictions.jsonl").read_text()
    run_command(*arguments, "--max-steps", 1)
    assert stages_run == ["pt", "sft", "rft", "sft-neither", "rft-neither"]
    assert (out / "full" / "predictions.jsonl").read_text() == answers  # with the seconds that each took
    assert not list(out.glob("stages/*/checkpoint-*"))
    config = AutoConfig.from_pretrained(out / "stages" / "rft-neither" / "final")
    assert config.use_perception and not (config.use_cyclic_attention or config.use_contribution_gate)
    summary = json.loads((out / "ablation.json").read_text())
    assert {name: found["records"] for name, found in summary.items()} == {"full": 3, "neither": 3}
    assert (out / "ablation.md").read_text().split("\n# Table")[0] in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"another ablation \(max_steps differ\)"):
        run_command(*arguments, "--max-steps", 2)


@pytest.fixture
def skip_training(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What each stage would be run on, by the name of its folder; its result is the model that it starts from."""
    runs = {}

    def run_stage(stage: str, recipe: str, overrides: list[str]) -> None:
        folder, model = folder_of(overrides), Path(option(overrides, "model"))
        runs[folder.name] = (model, Path(option(overrides, "data")))
        folder.mkdir(parents=True)
        (folder / "final").symlink_to(model.absolute(), target_is_directory=True)

    monkeypatch.setattr(ablation, "run_stage", run_stage)
    return runs


def train(name: str, inputs: Any, out: Path, **settings: Any) -> Any:
    return ablation.train_variant(name, ablation.Ablation(out=out, **inputs, **settings))


def test_variants_share_what_they_have_in_common(inputs, skip_training, tmp_path):
    for name in ("full", "no-rft", "no-cmha", "no-cao", "no-pt"):
        train(name, inputs, tmp_path)
    others = [f"{stage}-{name}" for name in ("no-cmha", "no-cao", "no-pt") for stage in ("sft", "rft")]
    assert list(skip_training) == ["pt", "sft", "rft", *others]


def test_without_rft_every_variant_ends_with_sft(inputs, skip_training, checkpoint, tmp_path, caplog):
    caplog.set_level("INFO", logger="medtvt_training")
    for name in ("full", "no-pt", "no-cao"):
        train(name, inputs, tmp_path, without_rft=True)
    assert list(skip_training) == ["pt", "sft", "sft-no-pt", "sft-no-cao"]
    config = AutoConfig.from_pretrained(checkpoint)
    assert ablation.choose_variants(["no-rft", "no-pt"], config, without_rft=True) == ["full", "no-pt"]
    assert "no-rft is left out" in caplog.text


@pytest.mark.parametrize("modality", ["ecg", "cxr", "lab"])
def test_a_modality_withheld_in_pretraining(modality, inputs, skip_training, tmp_path):
    name = f"pt-without-{modality}"
    train(name, inputs, tmp_path)
    assert list(skip_training) == [f"pt-{name}", f"sft-{name}", f"rft-{name}"]
    data = skip_training[f"pt-{name}"][1]
    for split in ("train", "validation"):
        kept = pq.read_table(data / "physiology" / f"{split}.parquet")["id"].to_pylist()
        before = pq.read_table(f"{inputs['data']}/physiology/{split}.parquet")["id"].to_pylist()
        assert kept == [row for row in before if not row.startswith(modality)] != before
    assert skip_training[f"sft-{name}"][1] == inputs["data"]


def test_another_number_of_tokens_keeps_encoders_and_language_model(inputs, checkpoint, skip_training, tmp_path):
    final = train("k4", inputs, tmp_path / "a")
    again = train("k4", inputs, tmp_path / "b")
    assert AutoConfig.from_pretrained(final).num_modality_tokens == 4
    assert AutoProcessor.from_pretrained(final).num_modality_tokens == 4
    before, after, repeated = (load_file(folder / "model.safetensors") for folder in (checkpoint, final, again))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("_projector." in name for name in changed)
    fresh = load_file(init_tiny(tmp_path / "fresh", num_modality_tokens=4) / "model.safetensors")
    for name in changed:
        assert torch.equal(after[name], repeated[name])
        assert after[name].std() == pytest.approx(fresh[name].std(), rel=0.5)


def test_without_pretraining_the_perception_layer_is_left_to_finetuning(inputs, skip_training, tmp_path):
    final = train("no-pt", inputs, tmp_path)
    assert list(skip_training) == ["sft-no-pt", "rft-no-pt"]
    assert not AutoConfig.from_pretrained(final).use_perception


def test_the_models_own_number_of_tokens_is_not_trained_twice(checkpoint, caplog):
    caplog.set_level("INFO", logger="medtvt_training")
    config = AutoConfig.from_pretrained(checkpoint)
    assert ablation.choose_variants(["k4", "k1", "no-cao"], config) == ["full", "no-cao", "k4"]
    assert "k1 is left out" in caplog.text


def write_answers(folder: Path, completions: list[Any]) -> None:
    """Predictions for patients with one of two diseases, and their metrics."""
    folder.mkdir()
    records = [
        {"id": str(i), "subject_id": str(i), "diseases": [disease], "findings": ["ecg: sinus rhythm"]}
        | {"reference": f"<think></think><answer>{disease}</answer>", "completion": completion}
        for i, (disease, completion) in enumerate(zip(DISEASES[:2] * 2, completions, strict=True))
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_json(score_records(records), folder / "metrics.json")


def test_variants_are_compared_with_the_full_model(tmp_path):
    right, other = DISEASES[:2]
    write_answers(tmp_path / "full", [f"<answer>{disease}</answer>" for disease in (right, other, right, other)])
    write_answers(tmp_path / "no-pt", [f"<answer>{right}; {other}</answer>", "I do not know"] * 2)
    summary = ablation.compare_variants(["full", "no-pt"], [tmp_path])
    cells = summary["no-pt"]["metrics"]
    values = {"strict/parse_rate": 1 / 2, "strict/f1_samples": 1 / 3, "strict/jaccard_samples": 1 / 4}
    for metric, value in values.items():
        assert summary["full"]["metrics"][metric] == {"value": 1, "interval": [1, 1]}
        assert cells[metric]["value"] == pytest.approx(value)
        assert cells[metric]["difference"] == pytest.approx(value - 1)
        low, high = cells[metric]["difference_interval"]
        assert low < value - 1 < high
        assert cells[metric]["interval"] == pytest.approx([low + 1, high + 1])  # `full` is always right
    assert cells["evidence/cited_true"]["value"] is None  # no finding is cited
    lines = ablation.render_ablation(summary).splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| no-pt | Table 1: without PT")]
    assert [row[3].split()[0] for row in rows] == ["0.333", "-0.667"]
    assert [row[-1] for row in rows] == ["- |"] * 2
    (table_1,) = ablation.paper_tables(["full", "no-pt"], tmp_path)
    assert table_1.startswith("# Table 1") and "| without PT |" in table_1 and "| full model |" in table_1


def test_a_difference_must_exceed_what_differs_between_trainings(tmp_path):
    right, other = DISEASES[:2]
    always = [f"<answer>{disease}</answer>" for disease in (right, other, right, other)]
    never = ["<answer></answer>"] * 4
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for i, folder in enumerate(folders):
        folder.mkdir()
        write_answers(folder / "full", always)
        write_answers(folder / "no-pt", [*never[:3], "none"])  # worse, however it is trained
        write_answers(folder / "no-cao", never if i == 0 else always)  # worse in one training
    summary = ablation.compare_variants(["full", "no-pt", "no-cao"], folders)
    worse, once = (summary[name]["metrics"]["strict/f1_samples"] for name in ("no-pt", "no-cao"))
    assert worse["difference"] == -1 and worse["spread"] == 0 and worse["training_interval"] == [-1, -1]
    assert worse["differs"] is True
    assert once["difference"] == pytest.approx(-1 / 3) and once["value"] == pytest.approx(2 / 3)
    assert once["difference_interval"][1] < 0  # over patients alone it would be one
    half = 4.302653 * (1 / 3) ** 0.5 / 3**0.5
    assert once["training_interval"] == pytest.approx([-1 / 3 - half, -1 / 3 + half], rel=1e-5)
    assert once["differs"] is False
    text = ablation.render_ablation(summary)
    assert "Means of 3 trainings" in text and "**-1.000 [-1.000, -1.000] [-1.000, -1.000]**" in text
    assert "0.667 \u00b1 0.577" in text


def test_every_training_has_a_seed_and_a_folder(inputs, skip_training, tmp_path):
    settings = ablation.Ablation(out=tmp_path, **inputs, without_rft=True, seeds=3)
    trainings = settings.trainings()
    assert [(seed, Path(training.out)) for seed, training in trainings] == [
        (None, tmp_path),
        (1, tmp_path / "seed-1"),
        (2, tmp_path / "seed-2"),
    ]
    for seed, training in trainings:
        ablation.keep_settings(training, seed)
        ablation.train_variant("no-cao", training, seed)
        words = ablation.stage_overrides("sft", Path("m"), "d", Path("f"), training, seed)
        assert [word for word in words if word.startswith("--seed=")] == ([] if seed is None else [f"--seed={seed}"])
        assert (Path(training.out) / "stages" / "sft-no-cao" / "final").exists()
        assert training.features == str(inputs["feature_cache"])
    with pytest.raises(ValueError, match=r"another ablation \(seed differ\)"):
        ablation.keep_settings(trainings[1][1], 7)
    with pytest.raises(ValueError, match="`seeds` must be at least 1"):
        ablation.Ablation(out=tmp_path, **inputs, seeds=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "no-pt", "no-ecg"], "unknown variant no-ecg; there are full, no-pt"),
        (["--max-steps", 0], "`max_steps` must be at least 1"),
        (["--recipe", "large"], "neither a file nor a packaged recipe"),
        (["--data", "."], "is no MedTVT-QA folder"),
        (["--model", "."], "does not open"),
    ],
)
def test_refuses(arguments, message, inputs, tmp_path):
    with pytest.raises((ValueError, OSError), match=message):
        run_command(*words(inputs), "--out", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_refuses_a_model_without_the_parts(inputs, tmp_path):
    model = init_tiny(tmp_path / "model", use_cyclic_attention=False)
    with pytest.raises(ValueError, match="switched off already"):
        run_command(*words(inputs), "--out", tmp_path / "out", "--model", model)


def test_a_changed_config_stays_out_of_how_answers_are_written(checkpoint, tmp_path):
    folder = ablation.change_model(checkpoint, tmp_path / "model", {"use_contribution_gate": False})
    assert AutoConfig.from_pretrained(folder).use_contribution_gate is False
    assert "use_contribution_gate" not in json.loads((folder / "generation_config.json").read_text())
