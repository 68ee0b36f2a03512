# SPDX-License-Identifier: Apache-2.0
import dataclasses
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medtvt_training.synthetic.cxr import draw_cxr, draw_outlines, write_cxr
from medtvt_training.synthetic.signs import FilmSigns
from processing_medtvt.measure_cxr_medtvt import measure_cxr
from processing_medtvt.read_cxr_medtvt import load_cxr


HEALTHY = FilmSigns(male=True, view="PA", ctr=0.45)
# Areas of the film as left, right, top, bottom; the patient's right is on the left.
RIGHT, LEFT = (0.0, 0.49, 0.0, 1.0), (0.51, 1.0, 0.0, 1.0)
RIGHT_BASE, LEFT_BASE = (0.1, 0.34, 0.5, 0.72), (0.68, 0.9, 0.52, 0.74)
ALL = (0.0, 1.0, 0.0, 1.0)


def draw(seed: int = 0, healthy: Any = HEALTHY, **signs: Any) -> Any:
    return draw_cxr(dataclasses.replace(healthy, **signs), np.random.default_rng(seed))


def cut(film: Any, box: Any) -> Any:
    left, right, top, bottom = (round(film.shape[0] * edge) for edge in box)
    return film[top:bottom, left:right]


def change(seed: int = 0, healthy: Any = HEALTHY, **signs: Any) -> Any:
    """Gray levels that the signs add to the same person's film."""
    return draw(seed, healthy, **signs).astype(float) - draw(seed, healthy)


def opacity(form: Any, zone: Any, extent: Any = 0.6) -> dict[str, Any]:
    return {"opacity": form, "opacity_zones": (zone,), "opacity_extent": extent}


def test_film():
    film = draw()
    assert film.shape == (384, 384) and film.dtype == np.uint8
    assert film.std() > 40 and np.mean((film == 0) | (film == 255)) < 0.2
    # heart, spine and abdomen white, lungs dark, the stomach's bubble on the left; the heart points to the left
    assert cut(film, (0.45, 0.55, 0.5, 0.95)).mean() > 190
    assert cut(film, RIGHT_BASE).mean() < 150 and cut(film, (0.1, 0.3, 0.85, 0.95)).mean() > 180
    heart, lungs = draw_outlines(HEALTHY, np.random.default_rng(0))
    assert heart[:, 192:].sum() > 1.5 * heart[:, :192].sum()
    assert film[lungs].mean() < film[heart].mean() - 60
    # the right dome of the diaphragm is the higher one
    assert np.flatnonzero(lungs[:, 80]).max() < np.flatnonzero(lungs[:, 384 - 80]).max()


@pytest.mark.parametrize("view", ["PA", "AP"])
def test_varied_films(view):
    """Body, place and tone differ; heart and lungs stay on the film, and the ratio is as stated."""
    signs = FilmSigns(male=False, view=view, ctr=0.5, variety=1.0)
    means, edges = [], []
    for seed in range(12):
        film = draw(seed, signs)
        heart, lungs = draw_outlines(signs, np.random.default_rng(seed))
        columns = np.flatnonzero(heart.any(0))
        thorax = max(np.ptp(np.flatnonzero(row)) for row in lungs if row.any())
        assert abs((columns[-1] - columns[0]) / thorax - 0.5) < 0.012
        assert film[lungs].mean() < film[heart].mean() - 12
        assert np.array_equal(film, draw(seed, signs))
        means.append(film.mean())
        edges.append(np.flatnonzero(lungs.any(0))[0])
    assert np.std(means) > 10 and np.std(edges) > 6


@pytest.mark.parametrize(
    "added, side",
    [
        ({"effusion": "right", "effusion_ml": 900}, 0),
        ({"effusion": "left", "effusion_ml": 900}, 1),
        (opacity("lobar", "right base"), 0),
        (opacity("patchy", "left middle", 0.9), 1),
        ({"pacemaker": True}, 1),
    ],
    ids=str,
)
def test_signs_are_seen_on_varied_films(added, side):
    varied = dataclasses.replace(HEALTHY, variety=1.0)
    for seed in range(6):
        lit = change(seed, varied, **added)
        halves = lit[:, :192].sum(), lit[:, 192:].sum()
        # the lead of a pacemaker crosses the midline
        assert halves[side] > 2.5 * abs(halves[1 - side]) and np.percentile(lit, 99) > 6, seed


def test_depends_on_signs_and_generator_only():
    first = draw(seed=3, oedema=0.5)
    draw(seed=4, effusion="both", effusion_ml=900)
    assert np.array_equal(draw(seed=3, oedema=0.5), first)
    rng = np.random.default_rng(3)
    assert not np.array_equal(draw_cxr(HEALTHY, rng), draw_cxr(HEALTHY, rng))


def test_people_differ():
    areas = [[mask.sum() for mask in draw_outlines(HEALTHY, np.random.default_rng(seed))] for seed in range(8)]
    assert (np.std(areas, 0) > 0.02 * np.mean(areas, 0)).all()


@pytest.mark.parametrize("male", [True, False])
@pytest.mark.parametrize("view", ["PA", "AP"])
@pytest.mark.parametrize("ctr", [0.38, 0.455, 0.53, 0.65])
@pytest.mark.parametrize("others", [{}, {"poor_inspiration": True}, {"hyperinflation": True, "aorta": True}])
def test_cardiothoracic_ratio(male, view, ctr, others):
    signs = FilmSigns(male=male, view=view, ctr=ctr, rotation=1.0, **others)
    for seed in range(2):
        heart, lungs = draw_outlines(signs, np.random.default_rng(seed))
        columns = np.flatnonzero(heart.any(0))
        thorax = max(np.ptp(np.flatnonzero(row)) for row in lungs if row.any())
        assert abs((columns[-1] - columns[0]) / thorax - ctr) < 0.01


@pytest.mark.parametrize(
    "signs, where, within, least",
    [
        ({"effusion": "right", "effusion_ml": 1000}, RIGHT_BASE, RIGHT, 25),
        ({"effusion": "left", "effusion_ml": 1000}, LEFT_BASE, LEFT, 25),
        ({"effusion": "right", "effusion_ml": 250}, (0.03, 0.2, 0.62, 0.82), RIGHT, 2),
        (opacity("lobar", "right base"), RIGHT_BASE, RIGHT, 25),
        (opacity("lobar", "left upper"), (0.6, 0.8, 0.12, 0.28), LEFT, 25),
        (opacity("patchy", "right base"), RIGHT_BASE, RIGHT, 6),
        (opacity("patchy", "left base", 0.0), LEFT_BASE, LEFT, 2),
        (opacity("patchy", "right upper"), (0.12, 0.42, 0.12, 0.4), RIGHT, 4),
        (opacity("interstitial", "left middle"), (0.6, 0.9, 0.35, 0.5), LEFT, 6),
        ({"atelectasis": "right"}, (0.1, 0.4, 0.5, 0.72), RIGHT, 0.5),
        ({"tube": True}, (0.45, 0.55, 0.0, 0.1), (0.4, 0.6, 0.0, 0.32), 4),
        ({"line": True}, (0.35, 0.5, 0.2, 0.3), (0.0, 0.7, 0.0, 0.45), 1),
        ({"pacemaker": True}, (0.7, 0.9, 0.15, 0.35), (0.3, 0.95, 0.05, 0.8), 8),
        ({"wires": True}, (0.44, 0.56, 0.15, 0.6), (0.4, 0.6, 0.1, 0.7), 1.5),
        ({"aorta": True}, (0.55, 0.65, 0.16, 0.28), (0.3, 0.8, 0.0, 0.75), 10),
        (opacity("interstitial", "both sides"), RIGHT_BASE, ALL, 6),
        ({"oedema": 1.0}, (0.25, 0.42, 0.3, 0.55), ALL, 15),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_sign_is_where_it_belongs_and_nowhere_else(signs, where, within, least):
    for seed in range(2):
        added = change(seed, **signs)
        assert cut(added, where).mean() > least, seed
        inside = np.zeros(added.shape, dtype=bool)
        cut(inside, within)[:] = True
        assert not added[~inside].any(), seed


def test_effusion_grows_and_is_a_haze_when_supine():
    supine = dataclasses.replace(HEALTHY, view="AP")
    box = (0.05, 0.35, 0.3, 0.8)
    for healthy in (HEALTHY, supine):
        added = [cut(change(0, healthy, effusion="both", effusion_ml=ml), box).mean() for ml in (200, 500, 1000, 1500)]
        assert added[0] > 0.5 and (np.diff(added) > 1).all()
    upright, haze = (change(0, healthy, effusion="right", effusion_ml=700) for healthy in (HEALTHY, supine))
    middle = (0.15, 0.35, 0.3, 0.42)
    assert cut(haze, middle).mean() > cut(upright, middle).mean() + 2


def test_oedema_grows_from_upper_vessels_to_wings():
    hila, upper = (0.25, 0.42, 0.3, 0.55), (0.25, 0.42, 0.15, 0.35)
    films = [change(1, oedema=severity) for severity in (0.1, 0.4, 0.7, 1.0)]
    assert (np.diff([cut(film, hila).mean() for film in films]) > 1).all()
    assert cut(films[0], upper).max() > 10
    # Kerley B lines at the right wall
    lines = cut(films[2], (0.05, 0.16, 0.55, 0.8))
    assert lines.max() > 25 and lines.max() > 4 * lines.mean()


def test_bands_are_unlike_opacities():
    def bands(**signs: Any) -> list[Any]:
        figures = [(measure_cxr(draw(seed, **signs)), measure_cxr(draw(seed))) for seed in range(4)]
        return [np.mean([after[f"right_base{kind}"] - before[f"right_base{kind}"] for after, before in figures])
                for kind in ("", "_bands")]  # fmt: skip

    band, lobe = bands(atelectasis="right"), bands(**opacity("lobar", "right base"))
    assert lobe[0] > 3 * band[0] and band[1] > 0.002 > lobe[1]


def test_inspiration():
    for seed in range(3):
        usual, deep, poor = (
            measure_cxr(draw(seed, **signs)) for signs in ({}, {"hyperinflation": True}, {"poor_inspiration": True})
        )
        assert deep["lung_height"] > usual["lung_height"] + 0.02 > poor["lung_height"] + 0.04
        assert deep["right_middle"] < usual["right_middle"]


def test_women():
    for seed in range(3):
        assert cut(change(seed, male=False), (0.15, 0.35, 0.52, 0.62)).mean() > 2


def test_exposure():
    assert draw(gamma=0.8).mean() > draw().mean() + 3 > draw(gamma=1.25).mean() + 6
    slopes = []
    for rotation in (-3, 3):
        _, lungs = draw_outlines(dataclasses.replace(HEALTHY, rotation=rotation), np.random.default_rng(0))
        (y1, x1), (y2, x2) = (np.mean(np.nonzero(half), axis=1) for half in (lungs[:, :192], lungs[:, 192:]))
        slopes.append((y2 - y1) / (x2 + 192 - x1))
    assert np.rad2deg(abs(slopes[0] - slopes[1])) == pytest.approx(6, abs=1)


@pytest.mark.parametrize(
    "signs, message",
    [
        ({"view": "lateral"}, "view is 'lateral'; accepted: 'PA', 'AP'"),
        ({"effusion": "basal"}, "effusion is 'basal'"),
        ({"opacity": "lobar"}, "opacity_zones"),
        ({"opacity": "lobar", "opacity_zones": ("right lung",)}, "right base"),
        ({"ctr": 45.0}, "ctr is 45.0; accepted: 0.3 to 0.7"),
    ],
)
def test_unknown_signs_are_refused(signs, message):
    with pytest.raises(ValueError, match=message):
        draw(**signs)


def test_write(tmp_path):
    film = draw()
    write_cxr(tmp_path / "film.png", film)
    write_cxr(tmp_path / "film.png", film)
    assert [path.name for path in tmp_path.iterdir()] == ["film.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "film.png")), film)
    assert (tmp_path / "film.png").stat().st_size < 120_000
    assert load_cxr(tmp_path / "film.png")[1] == []
    with pytest.raises(ValueError, match="float64 of shape"):
        write_cxr(tmp_path / "other.png", film / 255)
    assert [path.name for path in tmp_path.iterdir()] == ["film.png"]


def test_measure():
    ratios = np.linspace(0.38, 0.65, 14)
    found = [measure_cxr(draw(seed, ctr=ratio))["ctr"] for seed, ratio in enumerate(ratios)]
    assert np.corrcoef(ratios, found)[0, 1] > 0.85
    film = draw(**opacity("lobar", "right base"))
    figures, mirrored = measure_cxr(film), measure_cxr(np.ascontiguousarray(film[:, ::-1]))
    assert figures["difference_base"] > measure_cxr(draw())["difference_base"] + 0.1
    assert mirrored["difference_base"] == pytest.approx(-figures["difference_base"], abs=0.05)
    for odd in (np.zeros((50, 70), np.uint8), np.full((999, 400), 255, np.uint8), film[::2, ::3]):
        other = measure_cxr(odd)
        assert other.keys() == figures.keys() and np.isfinite(list(other.values())).all()
    with pytest.raises(ValueError, match="uint8"):
        measure_cxr(np.zeros((10, 10, 3), np.uint8))
