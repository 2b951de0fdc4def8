"""Curves from records: what is read, what is thinned, what is drawn."""

from __future__ import annotations

import re

import numpy as np
import pytest

from jaxdl.protocols import Record
from jaxdl.reporting.curves import Series, metric_names, series, thin
from jaxdl.reporting.drawing import axis, line_chart, scatter_chart, wants_logarithm


def numbers(path):
    """The points of a path's data."""
    return [tuple(map(float, pair)) for pair in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]


def shapes(drawing, kind):
    return [s for s in drawing.shapes if kind in str(s.attributes.get("class", "")).split()]


def test_what_is_no_number_is_no_curve():
    values = {"loss": None, "f1": "NaN", "matrix": [[1]], "name": "a", "done": True, "n": 3}
    assert metric_names([Record(1, "train", values)]) == ["loss", "f1", "n"]


def test_values_that_are_not_finite_leave_gaps():
    records = [Record(n, "train", {"loss": v}) for n, v in enumerate([1.0, None, "inf", 2.0])]
    (found,) = series(records, "loss")
    assert np.isnan(found.values[1:3]).all()
    assert found.values[[0, 3]].tolist() == [1.0, 2.0]
    chart = line_chart([(1, thin(found))], x="step", logarithmic=False)
    assert len(shapes(chart, "cross")) == 2
    # Two ends without neighbours: no line joins them over the gap, so each is a dot.
    (line,) = shapes(chart, "line")
    assert line.attributes["d"].count("M") == 2
    assert "L" not in line.attributes["d"]
    assert len(shapes(chart, "dot")) == 2


def test_train_comes_first_and_steps_ascend():
    order = [Record(9, "a", {"loss": 1.0}), Record(5, "train", {"loss": 2.0})]
    records = [*order, Record(3, "train", {"loss": 3.0})]
    found = series(records, "loss")
    assert [each.split for each in found] == ["train", "a"]
    assert found[0].steps.tolist() == [3, 5]


@pytest.mark.parametrize("count", [301, 5000])
def test_thinning_keeps_every_peak_and_every_dip(count):
    rng = np.random.default_rng(0)
    values = rng.normal(size=count)
    values[[7, count - 3]] = 50.0, -50.0
    steps = np.arange(count, dtype=float)
    line = thin(Series("train", steps, values))
    assert len(line.x) == 150
    assert line.records == count
    assert line.high.max() == 50.0
    assert line.low.min() == -50.0
    assert (line.low <= line.y).all()
    assert (line.y <= line.high).all()
    # Each record is in one bin: weighted by their counts the bins have the mean of all.
    place = np.minimum(np.arange(count) * 150 // (count - 1), 149)
    weights = np.bincount(place, minlength=150)
    np.testing.assert_allclose(np.average(line.y, weights=weights), values.mean(), rtol=1e-9)


def test_few_records_are_drawn_as_they_are():
    steps = np.arange(300.0)
    line = thin(Series("train", steps, steps))
    assert line.low is None
    assert line.y.tolist() == steps.tolist()


def test_a_bin_of_nothing_finite_breaks_the_line_and_the_band():
    steps = np.arange(1000.0)
    values = np.where((steps > 400) & (steps < 600), np.nan, 1.0)
    line = thin(Series("train", steps, values), most=10)
    assert np.isnan(line.y[4:6]).any()
    chart = line_chart([(1, line)], x="step", logarithmic=False)
    (band,) = shapes(chart, "band")
    assert band.attributes["d"].count("Z") == 2
    assert "nan" not in band.attributes["d"]


@pytest.mark.parametrize(
    "values",
    [
        [0.0, 0.0],
        [1e-300, 1e300],
        [-1e308, 1e308],
        [5.0],
        [],
        [np.nan],
        [1e-320, 1.0],
        [3, 3 + 1e-9],
    ],
)
@pytest.mark.parametrize("tight", [False, True])
def test_any_values_have_an_axis(values, tight):
    given = np.array(values, float)
    made = axis(given, logarithmic=wants_logarithm(given), tight=tight)
    assert made.low < made.high
    assert np.isfinite([made.low, made.high]).all()
    assert len(made.ticks) < 30


def test_points_lie_where_the_numbers_of_the_axes_say():
    steps = np.array([0.0, 50.0, 100.0])
    line = thin(Series("train", steps, np.array([0.0, 0.5, 1.0])))
    chart = line_chart([(1, line)], x="step", logarithmic=False)
    (path,) = shapes(chart, "line")
    (x0, y0), (x1, y1), (x2, y2) = numbers(path.attributes["d"])
    ticks = {s.text: s.attributes for s in shapes(chart, "tick")}
    # The numbers of the vertical axis stand four below their lines, so that these go through them.
    up = {s.text: float(s.attributes["y"]) - 4 for s in shapes(chart, "end")}
    assert up["0"] == pytest.approx(y0, abs=0.1)
    assert up["1"] == pytest.approx(y2, abs=0.1)
    assert y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
    assert float(ticks["100"]["x"]) == pytest.approx(x2, abs=0.1)
    assert x0 < x1 < x2


def test_steps_are_whole():
    line = thin(Series("train", np.array([1.0, 2.0]), np.array([1.0, 2.0])))
    chart = line_chart([(1, line)], x="step", logarithmic=False)
    under = [s.text for s in shapes(chart, "tick") if "end" not in s.attributes["class"]]
    assert under == ["1", "2", "step"]


def test_equal_ratios_are_equally_long_on_a_logarithmic_axis():
    line = thin(Series("train", np.arange(3.0), np.array([1.0, 10.0, 100.0])))
    chart = line_chart([(1, line)], x="step", logarithmic=True)
    (path,) = shapes(chart, "line")
    heights = [y for _, y in numbers(path.attributes["d"])]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.11)


def test_pairs_that_agree_lie_on_the_diagonal():
    points = np.array([0.0, 2.0, 4.0])
    chart = scatter_chart(points, points, label="target")
    (ideal,) = shapes(chart, "ideal")
    (x0, y0), (x1, y1) = numbers(ideal.attributes["d"])
    for dot in shapes(chart, "dot"):
        share = (float(dot.attributes["cx"]) - x0) / (x1 - x0)
        assert float(dot.attributes["cy"]) == pytest.approx(y0 + share * (y1 - y0), abs=0.2)
