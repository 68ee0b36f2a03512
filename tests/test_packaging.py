# SPDX-License-Identifier: Apache-2.0
"""setup.cfg and constraints.txt against the tree and each other: what a list typed by hand may forget."""

from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import metadata_load
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


ROOT = Path(__file__).parents[1]
# its build needs torch, and with it a CUDA compiler
NOT_PINNED = {"flash-attn"}


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
    required = {canonicalize_name(requirement.name): requirement for requirement in requirements}
    del required["medtvt-r1"]  # extras that bring others
    assert set(required) - set(pins) == NOT_PINNED and not set(pins) - set(required)
    for name, version in pins.items():
        assert required[name].specifier.contains(version), f"{required[name]}, pinned to {version}"


def test_space_runs_the_pinned_gradio(pins):
    assert metadata_load(ROOT / "hub_cards" / "space" / "README.md")["sdk_version"] == pins["gradio"]
