# SPDX-License-Identifier: Apache-2.0
"""
The healthy chest of a drawn film: outlines that vary from person to person, bones and vessels.

Lengths are shares of the drawing's side (`CM` is one centimeter), x runs from the patient's right to left, y downwards.
Outlines are given by their distance from the midline, row by row, so that areas follow by comparison, without blur.
Pairs are in the order right, left.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw
from scipy.interpolate import PchipInterpolator

from .signs import FilmSigns


SIZE = 384
CM = 0.025
SIDES = (-1, 1)


@dataclass(frozen=True)
class Thorax:
    """
    One person's outlines.

    Args:
        middle (`np.ndarray`): (384, 1), x of the midline.
        offset (`np.ndarray`): (384, 384), x from the midline.
        wall (`np.ndarray`): (2, 384), distance of the inner chest wall from the midline.
        heart (`np.ndarray`): (2, 384), distance of the borders of heart and mediastinum from the midline.
        dome (`np.ndarray`): (384,), y of the diaphragm in each column.
        apex (`float`): y of the lungs' upper end.
        tops, angles (`tuple[float, float]`): y of the domes' tops and of the costophrenic angles.
        knob (`tuple[float, float]`): y and distance from the midline of the aortic knob.
        carina (`float`): its y.
        left_apex (`float`): y of the apex of the heart.
        lungs, edge, silhouette (`np.ndarray`): (384, 384): share of lung in a pixel (behind the heart too), distance to
            the chest wall, share of heart and mediastinum.
    """

    middle: np.ndarray
    offset: np.ndarray
    wall: np.ndarray
    heart: np.ndarray
    dome: np.ndarray
    apex: float
    tops: tuple[float, float]
    angles: tuple[float, float]
    knob: tuple[float, float]
    carina: float
    left_apex: float
    lungs: np.ndarray
    edge: np.ndarray
    silhouette: np.ndarray

    def x(self, side: int, distance: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """x at a distance from the midline on one side (0 right, 1 left)."""
        return np.interp(y, rows(), self.middle[:, 0]) + SIDES[side] * np.asarray(distance)

    def half(self, side: int) -> slice:
        """Slice of the columns of one side."""
        middle = round(SIZE * float(self.middle.mean()))
        return slice(middle, None) if side else slice(middle)

    def wall_at(self, side: int, y: float | np.ndarray) -> np.ndarray:
        return np.interp(y, rows(), self.wall[side])

    def row(self, side: int, height: float | np.ndarray) -> Any:
        """y at a height of the lung, from 0 at its apex to 1 at the top of the diaphragm."""
        return self.apex + height * (self.tops[side] - self.apex)


@dataclass(frozen=True)
class Build:
    """
    How one person's body differs from the mean body; all of `variety` 0 leave it as it is.

    Args:
        width, height (`float`): factor of the lungs' half width, and shift of the diaphragm.
        apex (`float`): shift of the lungs' upper end.
        roundness (`float`): factor of the exponent of the chest wall's curve.
        fat, thickness, slope, axilla (`float`): shifts of the soft tissue's width, of the shoulders and the armpits, and
            the factor of its depth.
        belly (`float`): factor of the depth below the diaphragm.
        breasts (`float`): factor of their depth.
        gas (`float`): factor of the stomach's bubble, 0 for none.
        bones, spine, vessels, air, texture (`float`): factors of contrast.
        neck (`float`): what the depth above the shoulders lacks.
        clouds (`float`): unevenness of the soft tissue, in shares of its depth.
        edge (`float`): width over which the body's outline fades.
    """

    width: float
    height: float
    apex: float
    roundness: float
    fat: float
    thickness: float
    slope: float
    axilla: float
    belly: float
    breasts: float
    gas: float
    bones: float
    spine: float
    vessels: float
    air: float
    texture: float
    neck: float
    clouds: float
    edge: float


def draw_build(variety: float, rng: np.random.Generator) -> Build:
    """Draws one person's build."""
    z = variety * np.clip(rng.normal(0, 1, 16), -2, 2)
    no_gas = rng.random() < 0.35 * variety
    values = [1 + 0.035 * z[0], 0.018 * z[1], 0.012 * z[2], np.exp(0.12 * z[3]), 0.05 * (z[4] + 0.9 * variety)]
    values += [np.exp(0.08 * z[5]), 0.04 * (z[6] + 0.5 * variety), 0.12 * z[7], np.exp(0.2 * z[8]), np.exp(0.5 * z[9])]
    values += [0 if no_gas else np.exp(0.6 * z[10]), np.exp(0.35 * z[11] - 0.2 * variety)]
    values += [
        np.exp(0.3 * z[12] - 0.2 * variety),
        np.exp(0.3 * z[13] - 0.55 * variety),
        np.exp(0.06 * z[14] - 0.04 * variety),
    ]
    values += [
        np.exp(0.4 * z[15] - variety),
        variety * rng.uniform(0, 0.2),
        variety * rng.uniform(0.01, 0.04),
        0.02 + variety * rng.uniform(0, 0.06),
    ]
    return Build(*map(float, values))


@lru_cache
def rows() -> np.ndarray:
    """Centres of the rows (and columns), (384,)."""
    centers = ((np.arange(SIZE) + 0.5) / SIZE).astype(np.float32)
    centers.setflags(write=False)
    return centers


def ramp(distance: np.ndarray, width: float) -> np.ndarray:
    """0 outside, 1 inside, smooth over `width` around the outline."""
    share = distance * np.float32(1 / width)
    share += np.float32(0.5)
    np.clip(share, 0, 1, out=share)
    curve = 3 - 2 * share
    curve *= share
    curve *= share
    return curve


def cloud(rng: np.random.Generator, cells: int, coarse: int | None = None) -> np.ndarray:
    """A smooth random field with about `cells` bumps a side and, beneath, `coarse` ones, (384, 384)."""
    field = rng.standard_normal((cells, cells), dtype=np.float32)
    if coarse:
        field = field + _enlarge(rng.standard_normal((coarse, coarse), dtype=np.float32), cells)
    return np.float32(1.4) * _enlarge(field, SIZE)


def _enlarge(field: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(field).resize((size, size), Image.Resampling.BICUBIC))


def window(left: float, right: float, top: float, bottom: float) -> tuple[slice, slice]:
    """Slices of the rows and columns between these coordinates."""
    left, right, top, bottom = (max(round(SIZE * edge), 0) for edge in (left, right, top, bottom))
    return slice(top, bottom), slice(left, right)


def vary(rng: np.random.Generator, means: list[float], spreads: list[float]) -> list[float]:
    """Normal values as Python floats, which leave single precision arrays single."""
    return rng.normal(means, spreads).tolist()


def soften(film: np.ndarray, amount: float) -> None:
    """Blur in place: each pixel gives this share to either neighbor, along the rows and then along the columns."""
    for view in (film, film.T):
        view[1:-1] += amount * (view[2:] + view[:-2] - 2 * view[1:-1])


def smooth(points: ArrayLike, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Points on a curve through a few of them (Catmull-Rom)."""
    points = np.asarray(points, dtype=float)
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    place = np.linspace(0, len(points) - 1, count)
    k = np.minimum(place.astype(int), len(points) - 2)
    t = (place - k)[:, None]
    a, b, c, d = (padded[k + step] for step in range(4))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return curve[:, 0], curve[:, 1]


def _points(x: np.ndarray, y: np.ndarray) -> list[Any]:
    """x, y, x, y, ... in pixels of a `Strokes`, along the last axis."""
    points = np.empty((*np.shape(y)[:-1], 2 * np.shape(y)[-1]))
    points[..., ::2], points[..., 1::2] = x, y
    return (2 * SIZE * points).tolist()


class Strokes:
    """Lines and areas drawn at twice the film's size, so that edges are smooth."""

    def __init__(self) -> None:
        self.image = Image.new("L", (2 * SIZE, 2 * SIZE))
        self.draw = ImageDraw.Draw(self.image)

    def line(self, x: np.ndarray, y: np.ndarray, width: float, value: float) -> None:
        self.path(_points(x, y), width, value)

    def path(self, points: list[float], width: float, value: float) -> None:
        """`points` is a list x, y, x, y, ... in pixels of this drawing."""
        width = max(1, round(2 * SIZE * width))
        self.draw.line(points, fill=round(255 * min(value, 1)), width=width, joint="curve" if width > 9 else None)

    def area(self, x: np.ndarray, y: np.ndarray, value: float) -> None:
        self.draw.polygon(_points(x, y), fill=round(255 * value))

    def layer(self, density: float = 1.0) -> np.ndarray:
        """(384, 384), up to `density`."""
        return np.asarray(self.image.reduce(2)) * np.float32(density / 255)


def shape_thorax(
    signs: FilmSigns, lung_rng: np.random.Generator, heart_rng: np.random.Generator, build: Build
) -> Thorax:
    """
    Outlines of a person with these signs. The heart is as wide as `signs.ctr` says: the sum of the largest distances of
    its right and left border from the midline, over the largest inner width of the thorax.
    """
    y = rows()
    middle = _midline(lung_rng)
    apex, tops, angles, dome_depth = _heights(signs, lung_rng, build)
    wall = _walls(signs, lung_rng, apex, angles, build)
    visible = y < min(angles)
    width = float((wall[0] + wall[1])[visible].max())
    at_base = float(np.interp(max(tops), y, middle))
    offset = y - middle[:, None]
    dome = _domes(lung_rng, y - at_base, tops, angles, dome_depth, wall)
    heart, knob, left_apex, carina = _heart(signs, heart_rng, width, at_base, dome)

    aside = np.abs(offset)
    half = round(SIZE * float(middle.mean()))
    edge = np.empty_like(offset)
    edge[:, :half], edge[:, half:] = wall[0][:, None], wall[1][:, None]
    edge -= aside
    # the pleura leaves the midline toward the apex
    inner = 0.035 + 0.09 * np.clip(1 - (y - apex) / 0.1, 0, 1.2) ** 2
    aside -= inner[:, None]
    lungs = ramp(np.minimum(np.minimum(edge, aside, out=aside), dome - y[:, None], out=aside), 0.008)
    silhouette = ramp(np.minimum(offset + heart[0][:, None], heart[1][:, None] - offset), 0.012)
    fields: dict[str, Any] = {
        "middle": middle[:, None],
        "offset": offset,
        "wall": wall,
        "heart": heart,
        "dome": dome,
        "apex": apex,
    }
    fields |= {"tops": tops, "angles": angles, "knob": knob, "carina": carina, "left_apex": left_apex}
    return Thorax(**fields, lungs=lungs, edge=edge, silhouette=silhouette)


def _midline(rng: np.random.Generator) -> np.ndarray:
    y = rows()
    shift, lean, bend = vary(rng, [0.5, 0, 0], [0.008, 0.006, 0.004])
    return (shift + lean * (y - 0.5) + bend * np.sin(4 * y)).astype(np.float32)


def _heights(
    signs: FilmSigns, rng: np.random.Generator, build: Build
) -> tuple[float, tuple[float, float], tuple[float, float], float]:
    apex, top, higher, depth, angle = vary(rng, [0.105, 0.685, 0.024, 0.098, 0.0], [0.01, 0.014, 0.008, 0.012, 0.006])
    apex += build.apex - 0.008 * signs.hyperinflation
    top += build.height
    lift = 0.03 * (signs.view == "AP") + 0.07 * signs.poor_inspiration - 0.045 * signs.hyperinflation
    # the right dome is the higher one, by half an interspace
    left = top - lift
    tops = (left - max(higher, 0.006), left)
    depth = max(depth, 0.07) * (0.45 if signs.hyperinflation else 1.0)
    return apex, tops, (left + depth - 0.005 + angle, left + depth), depth


def _walls(
    signs: FilmSigns, rng: np.random.Generator, apex: float, angles: tuple[float, float], build: Build
) -> np.ndarray:
    y = rows()
    half, roundness, taper = vary(rng, [0.362, 2.3, 0.02], [0.013, 0.15, 0.006])
    half = build.width * (half + 0.006 * signs.male + 0.008 * signs.hyperinflation)
    roundness *= build.roundness
    walls = []
    for side in range(2):
        # widest a little above the costophrenic angle
        height = np.clip((y - apex) / (0.86 * (angles[side] - apex)), 0, None)
        rise = (1 - np.clip(1 - height, 0, 1) ** roundness) ** 0.58
        start, reach = vary(rng, [0.105, half], [0.005, 0.004])
        walls.append(start + (reach - start) * rise - taper * np.clip(height - 1, 0, 1) ** 1.5)
    return np.array(walls, dtype=np.float32)


def _domes(
    rng: np.random.Generator,
    offset: np.ndarray,
    tops: tuple[float, float],
    angles: tuple[float, float],
    depth: float,
    wall: np.ndarray,
) -> np.ndarray:
    dome = np.empty(SIZE, dtype=np.float32)
    for side, sign in enumerate(SIDES):
        half = float(wall[side].max())
        center, steep, hump = vary(rng, [0.46, 2.5, 0.0], [0.03, 0.2, 0.004])
        place = (sign * offset / half - center) / (1 - center)
        curve = tops[side] + np.where(place > 0, (angles[side] - tops[side]) * np.abs(place) ** steep, 0)
        curve += np.where(place < 0, 0.5 * depth * np.clip(-place, 0, 1) ** 2, 0)
        curve += hump * np.sin(9 * place)
        dome[sign * offset >= 0] = curve[sign * offset >= 0]
    return dome


def _heart(
    signs: FilmSigns, rng: np.random.Generator, width: float, middle: float, dome: np.ndarray
) -> tuple[np.ndarray, tuple[float, float], float, float]:
    """Borders of mediastinum and heart, y and distance of the aortic knob, y of the apex and of the carina."""
    y = rows()
    supine = signs.view == "AP"
    share, vein, notch, trunk, sag, squat = vary(
        rng, [0.3, 0.06, 0.062, 0.08, 0.69, 0.03], [0.018, 0.005, 0.004, 0.005, 0.04, 0.008]
    )
    carina, knob_y, knob = vary(rng, [0.325, 0.255, 0.086], [0.008, 0.008, 0.006])
    vein += 0.01 * supine
    total = signs.ctr * width
    share = np.clip(share + 0.1 * (signs.ctr - 0.45), 0.24, 0.36)
    right, left = share * total, (1 - share) * total
    pedicle = min(1.0, left / 0.17)
    knob, notch, trunk, vein = pedicle * knob, pedicle * notch, pedicle * trunk, min(vein, 0.75 * right)
    ascending = vein + 0.004
    if signs.aorta:  # wide and unfolded: the ascending part bulges to the right, the descending one to the left
        grow = float(rng.uniform(0.018, 0.034))
        knob, knob_y, notch, trunk = knob + grow, knob_y - 0.006, notch + 0.7 * grow, trunk + 0.3 * grow
        ascending = min(ascending + 0.7 * grow, 0.85 * right)
    sag += 0.5 * (signs.ctr - 0.45)  # large hearts are round
    left_apex = float(np.interp(middle + left, y, dome)) - squat
    atrium = min(float(np.interp(middle - right, y, dome)) - 0.03, left_apex - 0.015)
    base = 0.385
    lower = max(atrium - base, 0.06)
    right_y = [0, 0.16, 0.24, base - 0.03, base + 0.4 * lower, base + lower, base + lower + 0.1, 1.0]
    right_d = [1.3 * vein, vein, ascending, ascending, 0.82 * right, right, 0.88 * right, 0.4 * right]
    fall = left_apex - base
    left_y = [0, 0.17, knob_y, knob_y + 0.065, base, base + 0.5 * fall, base + 0.82 * fall, left_apex]
    left_d = [0.085, 0.064, knob, notch, trunk, trunk + sag * (left - trunk), trunk + 0.965 * (left - trunk), left]
    left_y += [left_apex + 0.045, left_apex + 0.09, 1.01]
    left_d += [0.93 * left, 0.6 * left, 0.1 * left]
    heart = [PchipInterpolator(*border)(y) for border in ((right_y, right_d), (left_y, left_d))]
    return np.array(heart, dtype=np.float32), (knob_y, knob), left_apex, carina


def lung_depth(thorax: Thorax) -> np.ndarray:
    """Depth of the lungs, row by row."""
    height = (rows() - thorax.apex) / (max(thorax.tops) - thorax.apex)
    return 0.62 + 0.38 * np.clip(height / 0.45, 0, 1) - 0.1 * np.clip(height - 0.6, 0, 1)


def draw_body(signs: FilmSigns, thorax: Thorax, rng: np.random.Generator, build: Build) -> np.ndarray:
    """Soft tissue without air."""
    y = rows()
    fat, axilla, slope, thick = vary(rng, [0.055, 0.5, -0.02, 1.0], [0.012, 0.06, 0.012, 0.04])
    fat, axilla, slope, thick = fat + build.fat, axilla + build.axilla, slope + build.slope, thick * build.thickness
    trunk = float(thorax.wall.max()) + max(fat, 0.03) + 0.05 * np.clip(y - 0.55, 0, 1)
    arm = 0.5 * np.clip((axilla - y) / (axilla - 0.12), 0, 1) ** 1.6
    shoulder = 0.12 + 0.44 * np.clip((y - slope) / 0.12, 0, 1) ** 0.8 + 2 * np.clip(y - slope - 0.11, 0, 1)
    half = np.minimum(shoulder, trunk + arm)
    share = np.clip(np.abs(thorax.offset) / np.minimum(half, trunk + 0.5 * arm)[:, None], 0, 1) ** 2
    height = 0.62 + 0.3 * np.clip((y - 0.05) / 0.3, 0, 1) + 0.18 * build.belly * ramp(y - 0.62, 0.3)
    height -= build.neck * np.clip(1 - (y - 0.05) / 0.3, 0, 1)
    body = np.sqrt(1 - 0.75 * share * share) * (thick * height)[:, None]
    body *= ramp(half[:, None] - np.abs(thorax.offset), build.edge)
    # the trachea forks at the carina
    middle = float(thorax.middle.mean())
    view = window(middle - 0.13, middle + 0.13, 0, thorax.carina + 0.1)
    offset, y = thorax.offset[view], y[view[0], None]
    below = np.clip(y - thorax.carina, 0, 0.08)
    fork = np.abs(np.abs(offset + 0.004) - (0.9 + 0.2 * np.sign(offset)) * below)
    airway = ramp(0.018 - 0.05 * below - fork, 0.014) * ramp(thorax.carina + 0.05 - y, 0.08)
    body[view] -= 0.17 * airway
    _add_gas(body, thorax, rng, signs.view == "PA", build.gas)
    if not signs.male:
        _add_breasts(body, thorax, rng, build.breasts)
    if build.clouds:
        body *= 1 + build.clouds * cloud(rng, 9, 4)
    return body


def _add_breasts(body: np.ndarray, thorax: Thorax, rng: np.random.Generator, share: float) -> None:
    low, wide, size, droop = vary(rng, [0.01, 0.16, 0.13, 0.0], [0.03, 0.015, 0.04, 0.006])
    low += sum(thorax.tops) / 2
    for side in range(2):
        x = float(thorax.x(side, 0.215, low))
        view = window(x - 1.1 * wide, x + 1.1 * wide, low - 0.32, low + 0.03)
        across = (rows()[view[1]] - x) / wide
        down = (rows()[view[0], None] - (low - 0.14 + side * droop)) / 0.14
        # thickest below: the lower edge is the one that shows
        inside = ramp(1 - across * across - down * down, 0.3)
        body[view] += inside * (0.65 + 0.35 * np.clip(down, -1, 1)) * share * max(size, 0.05)


def _add_gas(body: np.ndarray, thorax: Thorax, rng: np.random.Generator, upright: bool, share: float) -> None:
    """Bubble of the stomach under the left dome; upright, its lower end is level."""
    place, wide, deep, much = vary(rng, [0.2, 0.055, 0.032, 0.2], [0.02, 0.014, 0.009, 0.06])
    wide, deep = max(wide, 0.025), max(deep, 0.014)
    x = float(thorax.x(1, place, 0.75))
    middle = float(np.interp(x, rows(), thorax.dome)) + 0.018 + deep
    view = window(x - 1.3 * wide, x + 1.3 * wide, middle - 1.3 * deep, middle + 1.3 * deep)
    across = (rows()[view[1]] - x) / wide
    down = (rows()[view[0], None] - middle) / deep
    bubble = ramp(1 - across * across - down * down, 0.35)
    if upright:
        bubble *= ramp(0.45 - down, 0.25)
    body[view] -= share * max(much, 0.05) * bubble


def draw_bones(signs: FilmSigns, thorax: Thorax, rng: np.random.Generator) -> np.ndarray:
    """Ribs, clavicles, shoulder blades and heads of the humerus, (384, 384) in units of tissue."""
    back, front = Strokes(), Strokes()
    spacing = (min(thorax.angles) - thorax.apex) / 10.2
    thick, lean, density = vary(rng, [0.0105, 0.0, 1.0], [0.0008, 0.012, 0.1])
    along = np.linspace(0, 1, 18)
    k = np.arange(9)[:, None]
    for side in range(2):
        start = thorax.apex + spacing * (k + 0.15) + rng.normal(0, 0.002, k.shape)
        drop = 0.035 + 0.011 * k + lean - 0.02 * signs.hyperinflation + 0.025 * (k == 0)
        end = thorax.wall_at(side, start + drop) + 0.004
        distance = 0.03 + (end - 0.03) * np.sin(1.5 * along) / np.sin(1.5)
        y = start - 0.035 * np.sin(2.6 * along) + (drop + 0.018) * along**2.2
        _ribs(back, thorax.x(side, distance, y), y, thick, 0.62)
        distance = end - (end - (0.36 + 0.045 * k) * end) * along**1.25
        y = start + drop + (0.075 + 0.006 * k) * along**0.8
        _ribs(front, thorax.x(side, distance, y)[:7], y[:7], 1.15 * thick, 0.5)
        _collar(back, signs, thorax, side, rng)
        _blade(front, signs, thorax, side, rng)
    bones = back.layer(0.19 * density)
    bones += front.layer(0.11 * density)
    return bones


def _ribs(strokes: Strokes, x: np.ndarray, y: np.ndarray, thick: float, value: float) -> None:
    """Tubes: their rims are denser than their middle."""
    half = thick * (0.75 + 0.25 * np.sin(np.linspace(0.6, 2.6, y.shape[1])))
    top, low = y - half, y + half
    outlines = _points(np.concatenate([x, x[:, ::-1]], 1), np.concatenate([top, low[:, ::-1]], 1))
    middle = len(outlines[0]) // 2
    for outline in outlines:
        strokes.draw.polygon(outline, fill=round(255 * value))
        strokes.path(outline[:middle], 0.0035, value + 0.2)
        strokes.path(outline[middle:], 0.0035, value + 0.3)


def _collar(strokes: Strokes, signs: FilmSigns, thorax: Thorax, side: int, rng: np.random.Generator) -> None:
    along = np.linspace(0, 1, 16)
    lift, height = vary(rng, [0.075, 0.055], [0.012, 0.008])
    if signs.view == "AP":
        lift, height = 0.5 * lift, height - 0.02
    y = thorax.apex + height - lift * along + 0.014 * np.sin(6.28 * along)
    distance = 0.035 + 0.41 * along
    thick = 0.0095 + 0.004 * (2 * along - 1) ** 2
    x = thorax.x(side, distance, y)
    strokes.area(np.r_[x, x[::-1]], np.r_[y - thick, (y + thick)[::-1]], 0.6)
    strokes.line(x, y - thick, 0.003, 0.8)
    strokes.line(x, y + thick, 0.003, 0.9)


def _blade(strokes: Strokes, signs: FilmSigns, thorax: Thorax, side: int, rng: np.random.Generator) -> None:
    """Shoulder blade, over the lung on AP films, and the head of the humerus."""
    inward, tip = vary(rng, [0.03, 0.44], [0.012, 0.02])
    inward += 0.04 * (signs.view == "AP") - 0.02
    y = np.array([0.15, 0.3, tip, 0.33, 0.17])
    distance = thorax.wall_at(side, y[:3]) - inward * np.array([0.6, 1.2, 0.6])
    x = thorax.x(side, np.r_[distance, distance[1] + 0.06, 0.43], y)
    strokes.area(x, y, 0.3)
    strokes.line(x[:3], y[:3], 0.004, 0.6)
    turn = np.linspace(0, 6.3, 24)
    strokes.area(thorax.x(side, 0.49 + 0.06 * np.cos(turn), 0.15), 0.155 + 0.055 * np.sin(turn), 0.7)


def add_spine(film: np.ndarray, thorax: Thorax, rng: np.random.Generator, share: float) -> None:
    """Vertebrae with their discs and processes."""
    y = rows()[:, None]
    spacing, phase = float(rng.normal(0.052, 0.002)), float(rng.uniform(0, 6.3))
    step = 2 * np.pi * (y - 0.1 * y * y) / spacing + phase
    middle = float(thorax.middle.mean())
    view = window(middle - 0.1, middle + 0.1, 0, 1)
    aside = np.abs(thorax.offset[view])
    bodies = ramp(0.04 + 0.012 * y + 0.003 * np.cos(step) - aside, 0.014)
    film[view] += share * bodies * (0.1 + 0.03 * np.tanh(2 * np.sin(step)))
    film[view] += ramp(0.009 - aside, 0.008) * (0.05 * share * np.clip(np.sin(step + 1), 0, 1))


def draw_vessels(thorax: Thorax, rng: np.random.Generator, upper: float = 0.0) -> Strokes:
    """Branches that leave the hila and thin out. `upper` 0..1 distends those to the upper lobes."""
    strokes = Strokes()
    stems = 11
    for side in range(2):
        # the left hilum lies higher
        y0 = thorax.carina + (0.1, 0.082)[side] + float(rng.normal(0, 0.006))
        d0 = 0.08 + float(rng.normal(0, 0.004))
        angles = np.linspace(-1.35, 1.4, stems) + rng.normal(0, 0.12, stems)
        starts = np.stack([d0 + 0.02 * np.cos(angles), y0 + 0.06 * np.sin(angles)], -1)
        width = 0.0085 * rng.uniform(0.6, 1.2, stems) * np.where(angles > 0, 1.15, 0.85)
        value = 0.75 * rng.uniform(0.6, 1, stems) * np.where(angles < -0.3, 1 + 0.25 * upper, 1)
        width *= np.where(angles < -0.3, 1 + 1.2 * upper, 1)
        paths, angles = _grow(rng, starts, angles, 9, 0.03)
        for at, lean in ((6, -0.6), (4, 0.6), (3, -0.5), (1, 0.55)):
            twigs, _ = _grow(rng, paths[:, at], angles[:, at] + lean * rng.uniform(0.6, 1.4, stems), 6, 0.024)
            _taper(strokes, thorax, side, twigs, (0.8 - 0.07 * at) * width, 0.75 * value, (0, 3))
        _taper(strokes, thorax, side, paths, width, value, (0, 2, 5))
        # the arteries themselves: to the upper lobe short, to the lower one long
        fall = np.linspace(-0.05, 0.14, 12)
        half = 0.011 * np.sin(np.pi * np.linspace(0.1, 0.9, 12)) * (1 + 0.6 * upper * (fall < 0))
        x = thorax.x(side, d0 + 0.006 + 1.2 * np.abs(fall) ** 1.7, y0 + fall)
        strokes.area(np.r_[x - half, (x + half)[::-1]], np.r_[y0 + fall, (y0 + fall)[::-1]], 0.6)
    return strokes


def _taper(
    strokes: Strokes,
    thorax: Thorax,
    side: int,
    paths: np.ndarray,
    widths: np.ndarray,
    values: np.ndarray,
    cuts: tuple[int, ...],
) -> None:
    """Draw walks, thinner and fainter from each cut on; the far ends first."""
    points = _points(thorax.x(side, paths[..., 0], paths[..., 1]), paths[..., 1])
    for k, cut in reversed(list(enumerate(cuts))):
        end = 2 * cuts[k + 1] + 2 if k + 1 < len(cuts) else None
        share = (1, 0.65, 0.4)[k]
        for branch, width, value in zip(points, widths.tolist(), values.tolist()):
            strokes.path(branch[2 * cut : end], width * share, value * (0.25 + 0.75 * share))


def _grow(
    rng: np.random.Generator, starts: np.ndarray, angles: np.ndarray, steps: int, length: float
) -> tuple[np.ndarray, np.ndarray]:
    """Random walks outwards, (n, steps + 1, 2) as distance and y, and their angles, (n, steps)."""
    bends = rng.normal(0, 0.25, (len(starts), steps))
    angles = angles[:, None] + np.cumsum(bends, 1)
    lengths = length * rng.uniform(0.7, 1.2, bends.shape)
    moves = lengths[..., None] * np.stack([np.cos(angles), np.sin(angles)], -1)
    return starts[:, None] + np.concatenate([np.zeros_like(moves[:, :1]), np.cumsum(moves, 1)], 1), angles
