# SPDX-License-Identifier: Apache-2.0
"""setup.cfg, constraints.txt, the wheel and what git holds, against each other: what a list typed by hand may forget."""

import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml
from huggingface_hub import metadata_load
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


ROOT = Path(__file__).parents[1]
# keys of hubs, clouds, forges, package indexes and language-model services, and private keys
SECRETS = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}|\bglpat-[\w-]{20,}"
    r"|\bpypi-[\w-]{50,}|\bsk-[\w-]{32,}|\bxox[abprs]-[\w-]{10,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
# its build needs torch, and with it a CUDA compiler
NOT_PINNED = {"flash-attn", "vllm"}  # vllm: constraints-vllm.txt has pins of its own


@pytest.fixture(scope="module")
def setup_cfg() -> Any:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


@pytest.fixture(scope="module")
def pins() -> dict[Any, Any]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pinned}


@pytest.mark.parametrize("package", ["modeling_medtvt", "processing_medtvt", "training/medtvt_training"])
def test_every_package_is_listed(setup_cfg, package):
    folder = ROOT / package
    found = {".".join(path.parent.relative_to(folder.parent).parts) for path in folder.rglob("__init__.py")}
    assert found and found <= set(setup_cfg["options"]["packages"].split())


def test_every_requirement_has_a_pin_within_its_range(setup_cfg, pins):
    groups = [setup_cfg["options"]["install_requires"], *setup_cfg["options.extras_require"].values()]
    requirements = [Requirement(line) for group in groups for line in group.splitlines() if line]
    required = {
        canonicalize_name(requirement.name): requirement
        for requirement in requirements
        if requirement.name != setup_cfg["metadata"]["name"]
    }
    assert set(required) - set(pins) == NOT_PINNED and not set(pins) - set(required)
    for name, version in pins.items():
        assert required[name].specifier.contains(version), f"{required[name]}, pinned to {version}"


def test_space_runs_the_pinned_gradio(pins):
    assert metadata_load(ROOT / "hub_cards" / "space" / "README.md")["sdk_version"] == pins["gradio"]


# Wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what git knows, or would: a copy, so that nothing is written beside the sources."""
    source, out = tmp_path_factory.mktemp("source") / "medtvt", tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__", "fixtures")
    shutil.copytree(ROOT, source, ignore=ignored)
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, str(out)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*command, "--disable-pip-version-check", "--target", str(target), str(wheel)], check=True)
    return target


def test_the_wheel_holds_all_that_is_needed_at_run_time(wheel):
    files = set(ZipFile(wheel).namelist())
    expected = {f"{package}/py.typed" for package in ("modeling_medtvt", "processing_medtvt", "medtvt_training")}
    for package, source in {
        "medtvt_training": ROOT / "training" / "medtvt_training",
        "modeling_medtvt": ROOT / "modeling_medtvt",
        "processing_medtvt": ROOT / "processing_medtvt",
        "modeling_medtvt/default_checkpoint": ROOT / "hub_cards" / "medtvt-r1-tiny",
    }.items():
        found = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
        expected |= {f"{package}/{path.as_posix()}" for path in found if "__pycache__" not in path.parts}
    assert expected <= files, sorted(expected - files)
    for part in ("codebooks/", "templates/", "card_templates/", "recipes/", "default_checkpoint/model.safetensors"):
        assert any(part in name for name in files), part


def test_the_wheel_holds_nothing_else(wheel):
    roots = {name.split("/")[0] for name in ZipFile(wheel).namelist()}
    metadata = {root for root in roots if root.endswith(".dist-info")}
    assert len(metadata) == 1
    assert roots - metadata == {"modeling_medtvt", "processing_medtvt", "medtvt_training"}


def test_the_wheel_runs_where_it_is_installed(setup_cfg, installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    places = run("-c", "import medtvt_training, processing_medtvt as p; print(medtvt_training.__file__, p.__file__)")
    assert all(place.startswith(str(installed)) for place in places.split())
    command = str(installed / "bin" / "medtvt")
    assert run(command, "--version") == f"medtvt-r1 {setup_cfg['metadata']['version']}\n"
    assert "Creatinine" in run(command, "labs")


# Release


def test_version_stands_in_setup_cfg_and_what_cites_it(setup_cfg):
    version = setup_cfg["metadata"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = [line for line in changelog.splitlines() if line.startswith("## ")]
    assert f"## {version}" in headings


# What git holds


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_large_files_are_named_in_the_release_notes(tracked):
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in tracked}
    notes = (ROOT / "docs" / "releases.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([^`]+)` \|", notes, re.MULTILINE))
    assert named == {name for name, size in sizes.items() if size > 1e6}
    assert max(sizes.values()) < 2e7


def test_no_secrets_are_in_the_tree(tracked):
    found = [
        f"{path.relative_to(ROOT)}: {match[0][:8]}..."
        for path in tracked
        if (match := SECRETS.search(path.read_text(encoding="utf-8", errors="ignore")))
    ]
    assert not found


@pytest.mark.parametrize("secret", ["hf_" + "a" * 34, "AKIA" + "A" * 16, "-----BEGIN " + "RSA PRIVATE KEY-----"])
def test_secrets_are_recognized(secret):
    assert SECRETS.search(f"token = '{secret}'")
