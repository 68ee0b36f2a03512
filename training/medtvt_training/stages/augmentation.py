# SPDX-License-Identifier: Apache-2.0
"""
Varies training inputs of the encoders, so that a few hundred real records are not learned by heart: how a film was
positioned, exposed and stored, and what an ECG's amplifier, electrodes and start add to it. What a finding rests on (sides
and zones, proportions, intervals, amplitudes beyond a twentieth) stays as it is.
"""

import math

import torch
from torch import nn

from ..data.rows import Modality


# The others are seen as they are: wires and lines are a pixel wide, and resampling a film blurs them
SHARE = 0.5
# Of a film: degrees, and shares of its size; exponent of its gray levels; of their range
ROTATION, SCALE, SHIFT = 6.0, 0.12, 0.08
GAMMA, CONTRAST, BRIGHTNESS, FILM_NOISE = 0.35, 0.2, 0.1, 0.01
# Of an ECG: share of its length and of its amplitude; mV, and cycles of the wander in the record
DELAY, GAIN = 0.1, 0.05
WANDER, CYCLES, ECG_NOISE = 0.1, (0.5, 4.0), 0.03


def vary(modality: Modality, values: torch.Tensor) -> torch.Tensor:
    """
    A batch of stored inputs, about half of them varied, each by itself; labs as they are.

    Args:
        values (`torch.Tensor`): (batch, 3, height, width) gray levels from 0 to 255, or (batch, leads, samples) in mV.
    """
    change = {"cxr": vary_films, "ecg": vary_ecgs}.get(modality)
    if change is None:
        return values
    chosen = torch.rand(len(values), device=values.device) < SHARE
    varied = values.to(torch.float32, copy=True)
    varied[chosen] = change(values[chosen])
    return varied


def vary_films(films: torch.Tensor) -> torch.Tensor:
    """(batch, 3, height, width) gray levels from 0 to 255, three equal channels -> the same, float32."""
    gray = films[:, :1].float() / 255
    angle = torch.deg2rad(_draw(gray, ROTATION))
    size = 1 + _draw(gray, SCALE)
    height, width = gray.shape[-2:]
    turned, tilted = torch.cos(angle) * size, torch.sin(angle) * size
    rows = [
        torch.stack([turned, -tilted * height / width, _draw(gray, 2 * SHIFT)], dim=1),
        torch.stack([tilted * width / height, turned, _draw(gray, 2 * SHIFT)], dim=1),
    ]
    grid = nn.functional.affine_grid(torch.stack(rows, dim=1), list(gray.shape), align_corners=False)
    gray = nn.functional.grid_sample(gray, grid, align_corners=False)
    each = (-1, 1, 1, 1)
    gray = gray.clamp(min=0) ** torch.exp(_draw(gray, GAMMA)).view(each)
    gray = gray * (1 + _draw(gray, CONTRAST).view(each)) + _draw(gray, BRIGHTNESS).view(each)
    gray = gray + torch.randn_like(gray) * _draw(gray, FILM_NOISE).abs().view(each)
    return (gray.clamp(0, 1) * 255).expand(films.shape)


def vary_ecgs(ecgs: torch.Tensor) -> torch.Tensor:
    """(batch, leads, samples) in mV -> the same; where a record begins later or ends earlier, it is flat."""
    number, _, samples = ecgs.shape
    delay = (_draw(ecgs, DELAY) * samples).long().view(-1, 1, 1)
    place = torch.arange(samples, device=ecgs.device) - delay
    inside = (place >= 0) & (place < samples)
    varied = ecgs.gather(2, place.clamp(0, samples - 1).expand(ecgs.shape)) * inside
    time = torch.linspace(0, 2 * math.pi, samples, device=ecgs.device)
    cycles = torch.empty(number, 1, 1, device=ecgs.device).uniform_(*CYCLES)
    phase = torch.empty(*ecgs.shape[:2], 1, device=ecgs.device).uniform_(0, 2 * math.pi)
    wander = torch.sin(cycles * time + phase) * (WANDER * torch.rand_like(phase))
    noise = torch.randn_like(varied) * _draw(ecgs, ECG_NOISE).abs().view(-1, 1, 1)
    return varied * (1 + _draw(ecgs, GAIN).view(-1, 1, 1)) + wander + noise


def _draw(like: torch.Tensor, most: float) -> torch.Tensor:
    """(batch,): uniform from -most to most."""
    return torch.empty(len(like), device=like.device).uniform_(-most, most)
