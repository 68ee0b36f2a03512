# SPDX-License-Identifier: Apache-2.0
"""The drawn chest film of a synthetic patient: tissue and air summed along the beam, with the signs of `FilmSigns`."""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .anatomy import (
    CM,
    SIZE,
    Strokes,
    Thorax,
    add_spine,
    cloud,
    draw_body,
    draw_bones,
    draw_build,
    draw_vessels,
    lung_depth,
    ramp,
    rows,
    shape_thorax,
    smooth,
    soften,
    vary,
    window,
)
from .exposure import expose, frame, transform
from .signs import FilmSigns


# Each part has its own random stream, so that one sign more leaves the rest of the film as it was.
PARTS = ["frame", "lungs", "heart", "body", "bones", "spine", "vessels", "texture", "noise", "marker"]
PARTS += [
    "effusion",
    "oedema",
    "opacity",
    "atelectasis",
    "tube",
    "line",
    "pacemaker",
    "wires",
    "person",
    "position",
    "exposure",
]
SIDE_NAMES = {"right": (0,), "left": (1,), "both": (0, 1)}
# Heights of the zones in the lung, from 0 at the apex to 1 at the top of the diaphragm.
ZONES = {"upper": (0.12, 0.38), "middle": (0.38, 0.66), "base": (0.68, 1.0)}


def draw_cxr(signs: FilmSigns, rng: np.random.Generator) -> np.ndarray:
    """
    Draw a frontal chest film.

    Args:
        signs ([`FilmSigns`]): what is to be seen. `rotation` tilts the film in its plane.
        rng (`np.random.Generator`): the person and the exposure. The same signs and state of the generator give the
            same film; a changed sign changes nothing but itself.

    Returns:
        `np.ndarray` of shape (384, 384), uint8, white where there is much tissue, patient's right on the left.

    Raises:
        ValueError: if a field of `signs` has a value that is not listed in [`FilmSigns`].
    """
    _check(signs)
    parts = _streams(rng)
    build = draw_build(signs.variety, parts["person"])
    thorax = shape_thorax(signs, parts["lungs"], parts["heart"], build)
    air = (0.55 + 0.45 * np.clip(thorax.edge * 9, 0, 1)) * lung_depth(thorax)[:, None]
    air *= thorax.lungs
    air *= 1 - 0.8 * thorax.silhouette
    _fill(air, signs, thorax, parts)
    texture = cloud(parts["texture"], 96, 20)
    film = draw_body(signs, thorax, parts["body"], build)
    film *= 1 + 0.008 * build.texture * texture
    bones = draw_bones(signs, thorax, parts["bones"])
    bones *= build.bones * (1 - 0.45 * thorax.silhouette)
    film += bones
    add_spine(film, thorax, parts["spine"], build.spine)
    vessels = draw_vessels(thorax, parts["vessels"], upper=min(1.0, 1.6 * signs.oedema)).layer(0.48 * build.vessels)
    soften(vessels, 0.2)
    vessels += 0.024 * build.texture * texture - (0.68 * build.air + 0.05 * signs.hyperinflation)
    vessels *= air
    film += vessels
    _add_devices(film, signs, thorax, parts)
    return expose(film, signs, parts)


def draw_outlines(signs: FilmSigns, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """
    Where heart and lungs lie on the film that `draw_cxr` draws from these arguments, filled with air or not.

    Returns:
        Two bool arrays of shape (384, 384): the heart below the carina and above the diaphragm, and the lungs beside it.
        The heart's largest width over that of the lungs is `signs.ctr`.
    """
    _check(signs)
    parts = _streams(rng)
    thorax = shape_thorax(signs, parts["lungs"], parts["heart"], draw_build(signs.variety, parts["person"]))
    matrix = frame(signs, parts["frame"], parts["position"])
    y = rows()[:, None]
    heart = thorax.silhouette * ((y > thorax.carina) & (y < thorax.dome))
    return transform(heart, matrix) > 0.5, transform(thorax.lungs * (1 - thorax.silhouette), matrix) > 0.5


def _check(signs: FilmSigns) -> None:
    sides = (None, *SIDE_NAMES)
    zones = {f"{side} {zone}" for side in ("right", "left") for zone in ZONES} | {"both sides"}
    accepted = {"view": ("PA", "AP"), "effusion": sides, "atelectasis": sides}
    accepted["opacity"] = (None, "lobar", "patchy", "interstitial")
    for name, values in accepted.items():
        if getattr(signs, name) not in values:
            raise ValueError(f"{name} is {getattr(signs, name)!r}; accepted: {', '.join(map(repr, values))}.")
    if not zones.issuperset(signs.opacity_zones) or bool(signs.opacity) != bool(signs.opacity_zones):
        found = f"opacity is {signs.opacity!r} and opacity_zones {signs.opacity_zones!r}"
        raise ValueError(f"{found}; accepted: both empty, or zones out of {', '.join(sorted(zones))}.")
    if not 0.3 <= signs.ctr <= 0.7:
        raise ValueError(f"ctr is {signs.ctr}; accepted: 0.3 to 0.7.")


def _streams(rng: np.random.Generator) -> dict[str, np.random.Generator]:
    seeds = np.random.SeedSequence(rng.integers(2**32, size=4).tolist()).spawn(len(PARTS))
    return {part: np.random.default_rng(seed) for part, seed in zip(PARTS, seeds)}


# Signs that take the place of air -----------------------------------------------------------------------------------


def _fill(air: np.ndarray, signs: FilmSigns, thorax: Thorax, parts: dict[str, np.random.Generator]) -> None:
    """Fluid and collapse take their share of the air, in place."""
    if signs.effusion:
        for side in SIDE_NAMES[signs.effusion]:
            air[:, thorax.half(side)] *= 1 - _effusion(signs, thorax, side, parts["effusion"])
    if signs.oedema:
        air *= 1 - _oedema(signs.oedema, thorax, parts["oedema"])
    if signs.opacity:
        draw = {"lobar": _lobar, "patchy": _patchy, "interstitial": _interstitial}[signs.opacity]
        draw(air, signs, thorax, parts["opacity"])
    if signs.atelectasis:
        air *= 1 - _atelectasis(SIDE_NAMES[signs.atelectasis], thorax, parts["atelectasis"])


def _effusion(signs: FilmSigns, thorax: Thorax, side: int, rng: np.random.Generator) -> np.ndarray:
    """Upright a meniscus that climbs the chest wall; supine a haze that grows downwards. Share on that side's half."""
    y = rows()[:, None]
    amount = min(max(signs.effusion_ml / 1500, 0.1), 1.2)
    beside = np.clip(thorax.edge[:, thorax.half(side)], 0, None) / float(thorax.wall[side].max())
    rise = 0.012 + 0.4 * amount**0.85 + float(rng.normal(0, 0.006))
    angle = thorax.angles[side]
    climb = np.exp(-9 * beside)
    if signs.view == "PA":
        return 0.95 * ramp(y - angle + rise * (0.52 + 0.48 * climb), 0.025)
    top = thorax.row(side, 0.75 - 0.75 * amount)
    veil = min(0.32 + 0.5 * amount, 0.75) * np.clip((y - top) / (angle - top), 0, 1)
    return np.maximum(veil * (0.8 + 0.2 * climb), 0.85 * ramp(y - angle + 0.5 * rise * climb, 0.04))


def _oedema(severity: float, thorax: Thorax, rng: np.random.Generator) -> np.ndarray:
    """Kerley B lines at the bases, haze around the hila, above 0.6 in the form of a bat's wings."""
    y = rows()[:, None]
    lumps = cloud(rng, 48, 14)
    strokes = Strokes()
    for side in range(2):
        for k in range(round(2 + 9 * severity)):
            height = thorax.angles[side] - 0.045 - 0.0145 * k + rng.normal(0, 0.002)
            length, tilt, gap = rng.uniform([1.0 * CM, -0.006, 0.002], [2.0 * CM, 0.006, 0.008])
            reach = thorax.wall_at(side, height) - gap
            x = thorax.x(side, np.array([reach, reach - length]), height)
            strokes.line(x, np.array([height, height + tilt]), 0.0045, 0.45 + 0.5 * severity)
    # fluid in the walls of the vessels blurs the hila first
    wings = max(severity - 0.6, 0) / 0.4
    across = (np.abs(thorax.offset) - 0.09 - 0.03 * wings) / (0.075 + 0.045 * wings)
    across *= across
    across += ((y - thorax.carina - 0.1) / (0.11 + 0.05 * wings)) ** 2
    across *= -(1 + 0.4 * wings * across)
    haze = np.exp(across, out=across)
    haze *= 0.12 + 0.26 * severity + 0.28 * wings
    haze += 0.1 * severity * np.clip((y - thorax.apex) / 0.5, 0, 1)
    haze *= np.clip(1 + 0.14 * lumps, 0.3, 1.5)
    return np.clip(np.maximum(strokes.layer(0.72), haze), 0, 0.9)


def _sites(zones: tuple[str, ...]) -> list[tuple[int, str]]:
    """`(side, zone)` of the names; `"both sides"` stands for all middle and basal ones."""
    if "both sides" in zones:
        return [(side, zone) for side in range(2) for zone in ("middle", "base")]
    names = (zone.split() for zone in zones)
    return [(("right", "left").index(side), zone) for side, zone in names]


def _lobar(air: np.ndarray, signs: FilmSigns, thorax: Thorax, rng: np.random.Generator) -> None:
    """A quarter to half of a lung, dense, ending at a fissure; the bronchi within still hold air."""
    y = rows()[:, None]
    for side, zone in _sites(signs.opacity_zones):
        half = thorax.half(side)
        slant, sharp, dense, vague = vary(rng, [0.0, 0.03, 0.68, 0.0], [0.12, 0.01, 0.09, 0.015])
        tall = 0.27 + 0.2 * signs.opacity_extent + vague
        low, high = {"upper": (-0.3, tall), "middle": (0.53 - tall / 2, 0.53 + tall / 2), "base": (1 - tall, 2)}[zone]
        lumps = cloud(rng, 36, 9)[:, half]
        level = y - 0.01 * lumps - slant * (np.abs(thorax.offset[:, half]) - 0.2)
        area = np.minimum(level - thorax.row(side, low), thorax.row(side, high) - level)
        density = np.clip(min(dense + 0.12 * signs.opacity_extent, 0.9) + 0.05 * lumps, 0.3, 0.95)
        density *= ramp(area, max(sharp, 0.012))
        density *= 1 - 0.4 * _bronchi(thorax, side, zone, rng)[:, half]
        air[:, half] *= 1 - density


def _bronchi(thorax: Thorax, side: int, zone: str, rng: np.random.Generator) -> np.ndarray:
    strokes = Strokes()
    start = np.array([0.1, thorax.carina + 0.08])
    low, high = ZONES[zone]
    for _ in range(5):
        end = np.array([rng.uniform(0.45, 0.85) * 0.35, thorax.row(side, rng.uniform(low, high))])
        along = np.linspace(0, 1, 8)[:, None]
        path = start + (end - start) * along + np.array([0.03, 0.0]) * np.sin(3.1 * along) * rng.normal()
        for first, wide in ((4, 0.005), (2, 0.007), (0, 0.009)):
            part = path[first : first + 4]
            strokes.line(thorax.x(side, part[:, 0], part[:, 1]), part[:, 1], wide, 1.0)
    return strokes.layer()


def _patchy(air: np.ndarray, signs: FilmSigns, thorax: Thorax, rng: np.random.Generator) -> None:
    """Two to five patches of 2-5 cm, lumpy and without sharp edges."""
    sites = _sites(signs.opacity_zones)
    count = max(2 + round(3 * signs.opacity_extent), len(sites))
    lumps = cloud(rng, 34)
    for k in range(count):
        side, zone = sites[k % len(sites)]
        low, high = ZONES[zone]
        height, reach, oval, dense = rng.uniform([low + 0.05, 0, 0.8, 0.4], [high - 0.05, 1, 1.2, 0.72]).tolist()
        at = thorax.row(side, height)
        wall, heart = thorax.wall_at(side, at), np.interp(at, rows(), thorax.heart[side])
        inner = max(0.4 * wall, heart + 0.02)
        distance = float(inner + reach * (wall - 0.03 - inner))
        radius = CM * (1 + 1.5 * min(max(float(rng.normal(0.25 + 0.5 * signs.opacity_extent, 0.2)), 0), 1))
        x = float(thorax.x(side, distance, at))
        view = window(x - 2.5 * radius, x + 2.5 * radius, at - 2.5 * radius, at + 2.5 * radius)
        across = (rows()[view[1]] - x) / (radius * oval)
        down = (rows()[view[0], None] - at) / (radius / oval)
        air[view] *= 1 - dense * ramp(1.05 - np.sqrt(across * across + down * down) + 0.24 * lumps[view], 0.9)


def _interstitial(air: np.ndarray, signs: FilmSigns, thorax: Thorax, rng: np.random.Generator) -> None:
    """A net of lines."""
    y = rows()
    # where a smooth field changes its sign, its contours form meshes
    lumps = cloud(rng, 40, 10)
    net = np.exp(-((2.6 * cloud(rng, 84)) ** 2)) + 0.6 * np.exp(-((3 * lumps) ** 2))
    net += 0.3
    net *= np.clip(1 + 0.15 * lumps, 0.4, 1.6)
    for side in range(2):
        near = np.zeros(SIZE, dtype=np.float32)
        for low, high in [ZONES[zone] for where, zone in _sites(signs.opacity_zones) if where == side]:
            low, high = thorax.row(side, low), thorax.row(side, high)
            near = np.maximum(near, ramp(y - low + 0.02, 0.1) * ramp(high + 0.05 - y, 0.1))
        half = thorax.half(side)
        share = net[:, half] * ((0.24 + 0.2 * signs.opacity_extent) * near)[:, None]
        air[:, half] *= 1 - np.minimum(share, 0.8)


def _atelectasis(sides: Sequence[int], thorax: Thorax, rng: np.random.Generator) -> np.ndarray:
    """Thin bands of 3-10 cm above the diaphragm, nearly horizontal, that taper."""
    strokes = Strokes()
    along = np.linspace(0, 1, 14)
    for side in sides:
        for k in range(rng.integers(1, 4)):
            least, most = [3.2, 0.012, -0.1, 0, -0.01], [8, 0.035, 0.2, 1, 0.012]
            length, rise, tilt, place, bow = rng.uniform(least, most).tolist()
            row = thorax.tops[side] - rise - 0.03 * k
            inner = float(np.interp(row, rows(), thorax.heart[side])) + 0.005
            outer = 0.96 * float(thorax.wall_at(side, row))
            length = min(length * CM, outer - inner)
            distance = inner + place * (outer - inner - length) + length * along
            # above the dome where that is highest
            y = row - tilt * length * (along - 0.5) + bow * np.sin(np.pi * along)
            half = 0.5 * rng.uniform(0.007, 0.013) * (0.45 + 0.55 * np.sin(np.pi * (0.1 + 0.8 * along)))
            x = thorax.x(side, distance, y)
            strokes.area(np.r_[x, x[::-1]], np.r_[y - half, (y + half)[::-1]], rng.uniform(0.6, 1.0))
    return strokes.layer(0.75)


# Metal and plastic --------------------------------------------------------------------------------------------------


def _add_devices(film: np.ndarray, signs: FilmSigns, thorax: Thorax, parts: dict[str, np.random.Generator]) -> None:
    plastic, metal = Strokes(), Strokes()
    if signs.tube:
        _tube(plastic, thorax, parts["tube"])
    if signs.line:
        _line(plastic, thorax, parts["line"])
    if signs.aorta:
        _rim(plastic, thorax, parts["heart"])
    if signs.pacemaker:
        _pacemaker(metal, thorax, parts["pacemaker"])
    if signs.wires:
        _wires(metal, thorax, parts["wires"])
    if parts["marker"].random() < 0.15 + 0.55 * signs.variety:
        _marker(metal, parts["marker"], signs.variety)
    if signs.variety and parts["exposure"].random() < (0.45 if signs.view == "AP" else 0.08):
        _cables(metal, parts["exposure"])
    for strokes, density in ((plastic, 0.42), (metal, 0.9)):
        if strokes.image.getbbox():
            film += strokes.layer(density)


def _tube(strokes: Strokes, thorax: Thorax, rng: np.random.Generator) -> None:
    above, bend = rng.uniform(3, 7) * CM, rng.normal(0, 0.006)
    tip = thorax.carina - above
    y = np.linspace(-0.02, tip, 12)
    x = thorax.x(1, bend * np.sin(5 * y), y)
    strokes.area(np.r_[x - 0.01, x[::-1] + 0.01], np.r_[y, y[::-1] - 0.004], 0.28)
    strokes.line(x - 0.01, y, 0.0035, 0.5)
    strokes.line(x + 0.01, y, 0.0045, 0.95)


def _line(strokes: Strokes, thorax: Thorax, rng: np.random.Generator) -> None:
    vein = 0.8 * np.interp(0.3, rows(), thorax.heart[0])
    tip = thorax.carina + rng.uniform(-0.02, 0.05)
    way = rng.choice(3, p=[0.6, 0.2, 0.2])
    wiggle = rng.normal(0, 0.006, 2)
    start = [[(0.1, -0.02), (0.085, 0.08), (0.055 + wiggle[0], 0.17)],
             [(0.42, 0.24), (0.3, 0.17), (0.17, 0.145 + wiggle[0]), (0.075, 0.18)],
             [(-0.1, -0.02), (-0.09, 0.09), (-0.03, 0.19 + wiggle[0])]][way]  # fmt: skip
    points = np.array([*start, (vein + 0.4 * wiggle[1], 0.25), (vein, tip)])
    distance, y = smooth(points)
    strokes.line(thorax.x(0, distance, y), y, 0.0055, 0.95)


def _pacemaker(strokes: Strokes, thorax: Thorax, rng: np.random.Generator) -> None:
    turn = np.linspace(0, 2 * np.pi, 48)
    size, place, height, tilt = vary(rng, [0.046, 0.27, 0.265, 0.15], [0.004, 0.02, 0.02, 0.15])
    # a rounded box, turned; its battery is denser
    across = size * np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** 0.5
    down = 0.85 * size * np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** 0.5
    across, down = across * np.cos(tilt) - down * np.sin(tilt), across * np.sin(tilt) + down * np.cos(tilt)
    center = thorax.x(1, place, height)
    strokes.area(center + across, height + down, 0.5)
    strokes.area(center + 0.7 * across, height + 0.6 * down + 0.2 * size, 0.75)
    strokes.line(center + across, height + down, 0.004, 0.75)
    left = np.interp(thorax.left_apex, rows(), thorax.heart[1])
    right = np.interp(thorax.left_apex - 0.1, rows(), thorax.heart[0])
    floor = thorax.left_apex
    way = [(place - 0.03, height - size), (0.2, 0.165), (0.1, 0.165), (0.0, 0.195), (-0.045, 0.26)]
    way += [(-0.05, 0.36), (-0.6 * right, floor - 0.13), (-0.25 * right, floor - 0.02)]
    way += [(0.3 * left, floor + 0.012), (0.68 * left, floor - 0.005)]
    for target in (way, [*way[:6], (-0.5 * right, 0.45), (-0.8 * right, 0.43)])[: rng.integers(1, 3)]:
        distance, y = smooth(target, 60)
        x = thorax.x(1, distance, y)
        strokes.line(x, y, 0.0045, 0.62)
        strokes.line(x[-4:], y[-4:], 0.009, 0.85)


def _wires(strokes: Strokes, thorax: Thorax, rng: np.random.Generator) -> None:
    turn = np.linspace(0.4, 6.6, 16)
    first, last = thorax.carina - 0.11, thorax.carina + rng.uniform(0.2, 0.26)
    for height in np.linspace(first, last, rng.integers(5, 8)):
        wide, tall, tilt, aside = vary(rng, [0.017, 0.0085, 0.0, 0.0], [0.002, 0.0015, 0.15, 0.003])
        x = thorax.x(1, aside + wide * np.cos(turn), height)
        y = height + tall * np.sin(turn) + tilt * wide * np.cos(turn)
        strokes.line(x, y, 0.0035, 0.55)
        strokes.line(x[:1] + [0, 0.006], y[:1] + [0, 0.008], 0.005, 0.6)


def _rim(strokes: Strokes, thorax: Thorax, rng: np.random.Generator) -> None:
    """Calcified rim of the aortic knob."""
    height, distance = thorax.knob
    y = height + np.linspace(-0.035, rng.uniform(0.01, 0.03), 14)
    x = thorax.x(1, np.interp(y, rows(), thorax.heart[1]) - 0.007, y)
    strokes.line(x, y, 0.007, rng.uniform(0.6, 0.9))


def _cables(strokes: Strokes, rng: np.random.Generator) -> None:
    """Cables and buttons of a monitor on the skin."""
    for _ in range(rng.integers(1, 5)):
        x, y = rng.uniform([0.1, 0.12], [0.9, 0.85])
        turn = np.linspace(0, 6.3, 14)
        strokes.line(x + 0.011 * np.cos(turn), y + 0.011 * np.sin(turn), 0.004, 0.45)
        bend, end = rng.normal(0, 0.1, 2), (rng.choice([-0.05, 1.05]), rng.uniform(0.2, 1.1))
        across, down = smooth([(x, y), (0.5 * (x + end[0]) + bend[0], 0.5 * (y + end[1]) + bend[1]), end], 24)
        strokes.line(across, down, 0.0035, rng.uniform(0.1, 0.28))


def _marker(strokes: Strokes, rng: np.random.Generator, variety: float) -> None:
    """The letter of a side, in the corner above that shoulder, and perhaps a word below."""
    letters: list[list[tuple[float, float]]] = [
        [(0, 0), (0, 1), (0, 0), (0.5, 0), (0.6, 0.25), (0.5, 0.5), (0, 0.5), (0.6, 1)],
        [(0, 0), (0, 1), (0.6, 1)],
    ]
    side = rng.integers(2)
    x, y = np.transpose(letters[side])
    left, top = rng.normal([(0.12, 0.85)[side], 0.08], np.array([0.015, 0.012]) * (1 + 2 * variety))
    size, tilt, word = rng.uniform(0.035, 0.035 + 0.03 * variety), variety * rng.normal(0, 0.3), rng.random()
    strokes.line(
        left + size * (x - tilt * y), top + size * (y + tilt * x), 0.2 * size, rng.uniform(0.9 - 0.4 * variety, 0.9)
    )
    if word < 0.3 * variety:
        for k in range(rng.integers(3, 9)):  # as small as it is, a word is a row of strokes
            at = left + 0.012 * k + np.array([0, 0, 0.008])
            strokes.line(at, top + 0.08 + np.array([0, 0.012, rng.choice([0, 0.012])]), 0.003, 0.7)


# Files and figures --------------------------------------------------------------------------------------------------


def write_cxr(path: str | os.PathLike, image: np.ndarray) -> None:
    """
    Write a film as PNG. A file of that name is replaced once the new one is complete.

    Raises:
        ValueError: if `image` is not (height, width) uint8.
    """
    _check_image(image)
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        # noise does not repeat: Huffman codes alone give the smallest file, in a third of the time
        Image.fromarray(image).save(partial, format="PNG", compress_type=zlib.Z_HUFFMAN_ONLY)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _check_image(image: Any) -> None:
    if getattr(image, "dtype", None) != np.uint8 or image.ndim != 2:
        found = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"The film is {found}; accepted: a uint8 array of shape (height, width).")
