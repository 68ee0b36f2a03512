# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from medtvt_training.stages.augmentation import vary


def inputs(modality, batch=6):
    torch.manual_seed(0)
    if modality == "cxr":
        place = torch.linspace(-2, 2, 56)
        spot = torch.exp(-(place[:, None] ** 2) - (place[None] - 0.3) ** 2)  # no border that a turn would move
        return (spot * 250).to(torch.uint8).expand(batch, 3, 56, 56)
    time = torch.linspace(0, 60, 1000)
    return torch.sin(time).expand(batch, 12, 1000).clone() if modality == "ecg" else torch.rand(batch, 100)


def varied_and_kept(modality, batch=40):
    values = inputs(modality, batch)
    varied = vary(modality, values)
    changed = torch.tensor([not torch.equal(one, other) for one, other in zip(varied, values.float(), strict=True)])
    return values.float(), varied, changed


@pytest.mark.parametrize("modality", ["ecg", "cxr"])
def test_half_of_the_inputs_are_varied_each_by_itself(modality):
    values, varied, changed = varied_and_kept(modality)
    assert varied.shape == values.shape and 10 < changed.sum() < 30
    changes = (varied - values)[changed]
    assert all(not torch.equal(one, other) for one, other in zip(changes, changes[1:]))
    torch.manual_seed(1)
    first = vary(modality, values)
    assert not torch.equal(vary(modality, values), first)
    torch.manual_seed(1)
    assert torch.equal(vary(modality, values), first)


def test_a_film_stays_a_gray_picture_of_the_same():
    values, varied, changed = varied_and_kept("cxr")
    assert varied.min() >= 0 and varied.max() <= 255
    assert torch.equal(varied[:, 0], varied[:, 1]) and torch.equal(varied[:, 0], varied[:, 2])
    for one, other in zip(varied[changed], values[changed]):
        assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1] > 0.5


def test_an_ecgs_amplitude_stays_within_a_twentieth():
    values, varied, changed = varied_and_kept("ecg")
    time = torch.linspace(0, 60, 1000)
    wave = torch.stack([torch.sin(time), torch.cos(time)])  # in any phase: a varied record may begin late
    part = varied[..., 200:800] @ wave[:, 200:800].T / 300
    amplitude = part.norm(dim=-1).mean(1)
    assert changed.any() and (amplitude - 1).abs().max() < 0.08


def test_labs_are_left_as_they_are():
    values = inputs("lab")
    assert vary("lab", values) is values
