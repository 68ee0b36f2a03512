# SPDX-License-Identifier: Apache-2.0
import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=["cuda", "cpu"],
        default="cuda",
        help="cpu: everything but what only CUDA has, to see that these tests are sound (default: cuda)",
    )


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    device = request.config.getoption("--device")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    return device


@pytest.fixture(autouse=True)
def whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """No TF32, which convolutions have by default: what is held against the CPU is computed as there."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
