# SPDX-License-Identifier: Apache-2.0
import io
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from processing_medtvt.feature_extraction_medtvt_ecg import STANDARD_LEADS
from processing_medtvt.plot_ecg_medtvt import plot_ecg


CLINICAL = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


def traces(figure):
    """The x and y data (mm) of the lines that hold signal, top row first."""
    lines = [line.get_xydata() for line in figure.axes[0].lines]
    return [line for line in lines if len(line) > 100]


def picture(figure, dpi=100):
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi)
    return np.asarray(Image.open(buffer).convert("RGB")).astype(int)


def constant_leads():
    """Lead number n stands at n / 10 mV."""
    return np.repeat(np.arange(12)[:, None] / 10, 5000, axis=1)


def test_page():
    figure = plot_ecg(constant_leads(), title="A $1 title")
    assert isinstance(figure, Figure)
    texts = [text.get_text() for text in figure.axes[0].texts]
    rows = ["I", "aVR", "V1", "V4", "II", "aVL", "V2", "V5", "III", "aVF", "V3", "V6", "II"]
    assert [text for text in texts if text in STANDARD_LEADS] == rows
    assert "A $1 title" in texts and any("25 mm/s" in text and "10 mm/mV" in text for text in texts)
    # each row at the heights of its leads, against the rhythm strip of lead II
    drawn = traces(figure)
    assert len(drawn) == 4
    for row, names in enumerate((rows[:4], rows[4:8], rows[8:12])):
        levels = drawn[row][:, 1]
        for column, name in enumerate(names):
            at = (drawn[row][:, 0] > 62.5 * column + 1) & (drawn[row][:, 0] < 62.5 * (column + 1) - 1)
            first = levels[(drawn[row][:, 0] > 1) & (drawn[row][:, 0] < 61)][0]
            expected = STANDARD_LEADS.index(name) - STANDARD_LEADS.index(names[0])  # tenths of a mV are millimetres
            np.testing.assert_allclose(levels[at] - first, expected, atol=1e-9)


def test_true_scale():
    signal = np.zeros((12, 5000))
    signal[:, 500:] = 1.0
    figure = plot_ecg(signal)
    strip = traces(figure)[3]
    strip = strip[~np.isnan(strip[:, 1])]
    assert strip[-1, 0] - strip[0, 0] == pytest.approx(250, abs=0.1)  # ten seconds
    assert np.ptp(strip[:, 1]) == pytest.approx(10)  # one millivolt
    axes = figure.axes[0]
    inches = figure.get_size_inches()
    assert np.ptp(axes.get_xlim()) / 25.4 == pytest.approx(inches[0])
    assert np.ptp(axes.get_ylim()) / 25.4 == pytest.approx(inches[1])
    assert axes.get_position().bounds == (0, 0, 1, 1)
    pulses = [line.get_xydata() for line in axes.lines if len(line.get_xydata()) == 6]
    assert len(pulses) == 4
    for pulse in pulses:
        assert np.ptp(pulse[:, 1]) == pytest.approx(10) and pulse[3, 0] - pulse[2, 0] == pytest.approx(5)


@pytest.mark.parametrize("millivolts, gain", [(2.0, "10"), (3.0, "5"), (-3.0, "5"), (8.0, "2.5")])
def test_no_wave_leaves_the_paper(millivolts, gain):
    signal = np.zeros((12, 5000))
    signal[STANDARD_LEADS.index("V4"), 4500:4510] = millivolts
    figure = plot_ecg(signal)
    top = traces(figure)[0][:, 1]
    low, high = figure.axes[0].get_ylim()
    assert low < np.nanmin(top) and np.nanmax(top) < high
    assert any(f"{gain} mm/mV" in text.get_text() for text in figure.axes[0].texts)


def test_order_and_case_of_leads_do_not_matter(ecg_array):
    by_name = dict(zip(STANDARD_LEADS, ecg_array))
    other = np.stack([by_name[name] for name in CLINICAL])
    expected = picture(plot_ecg(ecg_array))
    np.testing.assert_array_equal(picture(plot_ecg(other, [name.upper() for name in CLINICAL])), expected)
    assert (picture(plot_ecg(other)) != expected).any()


def test_other_sampling_rates_and_lengths(ecg_array):
    slow = traces(plot_ecg(ecg_array[:, ::5], sampling_rate=100))
    fast = traces(plot_ecg(np.concatenate([ecg_array, ecg_array], axis=1)))
    assert np.nanmax(slow[3][:, 0]) == pytest.approx(250, abs=0.3) and np.nanmax(fast[3][:, 0]) < 250
    short = traces(plot_ecg(ecg_array[:, :2000]))
    assert np.nanmax(short[0][:, 0]) < 101


def test_gap_leaves_a_hole(ecg_array):
    ecg_array[1, 2000:2500] = np.nan
    strip = traces(plot_ecg(ecg_array))[3]
    hole = strip[np.isnan(strip[:, 1]), 0]
    assert hole[0] == pytest.approx(100, abs=0.1) and np.nanmax(hole) == pytest.approx(125, abs=0.1)


def test_grid():
    image = picture(plot_ecg(np.full((12, 5000), np.nan)), dpi=254)  # ten pixels a millimetre
    row = image[1400 - 55 - 150 : 1400 - 55 - 120].sum(axis=(0, 2))[500:1500]
    dark = np.flatnonzero(row < np.percentile(row, 60) - 50)
    lines = dark[np.flatnonzero(np.diff(dark, prepend=-10) > 3)]
    assert np.median(np.diff(lines)) == 10
    assert 95 <= len(lines) <= 101


def test_into_given_axes(ecg_array):
    figure = Figure(figsize=(4, 4))
    ax = figure.add_subplot(1, 2, 1)
    assert plot_ecg(ecg_array, ax=ax) is figure and len(traces(figure)) == 4


def test_works_without_pyplot(ecg_array, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # its import would raise
    plot_ecg(ecg_array)


def test_without_matplotlib(ecg_array, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plot_ecg(ecg_array)


@pytest.mark.parametrize(
    "signal, leads, rate, message",
    [
        (np.zeros((5000, 12)), STANDARD_LEADS, 500, "shape"),
        (np.zeros(5000), STANDARD_LEADS, 500, "shape"),
        (np.zeros((12, 0)), STANDARD_LEADS, 500, "shape"),
        (np.zeros((12, 5000), complex), STANDARD_LEADS, 500, "real numbers"),
        (np.full((12, 5000), np.inf), STANDARD_LEADS, 500, "infinite"),
        (np.zeros((11, 5000)), STANDARD_LEADS[:11], 500, "leads"),
        (np.zeros((12, 5000)), [*STANDARD_LEADS[:11], "V7"], 500, "V7"),
        (np.zeros((12, 5000)), [*STANDARD_LEADS[:11], "I"], 500, "leads"),
        (np.zeros((12, 5000)), STANDARD_LEADS, 0, "sampling_rate"),
    ],
)
def test_refuses(signal, leads, rate, message):
    with pytest.raises(ValueError, match=message):
        plot_ecg(signal, leads, rate)
