"""Where the curves of a chart lie, against places worked out by hand."""

import pytest

from segkd.runner.scoring.chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_DOTS,
    MOST_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Series,
    thinned,
    with_prefix,
)


def places(path):
    return [tuple(map(float, pair.split(","))) for pair in path.removeprefix("M").removesuffix("Z").split("L")]


def test_curves_go_from_corner_to_corner_of_round_axes():
    chart = Chart("loss", [Series("ce", [(0, 0.0), (50, 1.0), (100, 4.0)])])
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
    assert places(chart.path(chart.series[0])) == [
        (left, bottom), ((left + right) / 2, bottom - (bottom - top) / 4), (right, top),
    ]  # fmt: skip
    assert [text for _, text in chart.x_ticks] == ["0", "20", "40", "60", "80", "100"]
    assert [text for _, text in chart.y_ticks] == ["0", "1", "2", "3", "4"] and chart.y_ticks[0][0] == bottom
    assert chart.dots(chart.series[0]) == places(chart.path(chart.series[0]))


def test_the_axes_hold_the_floor_the_ends_and_the_band():
    series = Series("kl", [(10, 0.5, 0.25, 1.0)])
    chart = Chart("mIoU", [series, Series("teacher", [(0, 0.7), (20, 0.7)], dashed=True)], ends=(0, 20), floor=0)
    assert chart.y_ticks[0][1] == "0" and chart.y_ticks[-1][1] == "1"
    (low, high), middle = places(chart.band(series)), (LEFT + WIDTH - RIGHT) / 2
    assert low == (middle, pytest.approx(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) / 4, abs=0.1)) and high[1] == TOP
    assert chart.band(chart.series[1]) is None and chart.dots(chart.series[1]) == []


@pytest.mark.parametrize("level", [0.0, 3.0, -2.0])
def test_a_single_point_and_a_level_curve_have_axes(level):
    (place,) = places(Chart("one", [Series("a", [(7, level)])]).path(Series("a", [(7, level)])))
    assert LEFT <= place[0] <= WIDTH - RIGHT and TOP <= place[1] <= HEIGHT - BOTTOM


def test_long_curves_are_thinned_to_means():
    points = [(i, float(i % 2)) for i in range(1, 4001)]
    thin = thinned(points)
    assert len(thin) <= MOST_POINTS and thinned([]) == []
    assert sum(y for _, y in thin) / len(thin) == pytest.approx(0.5, abs=0.01) and max(y for _, y in thin) < 0.6
    assert thinned(points[:MOST_DOTS]) == points[:MOST_DOTS]


def test_rows_without_a_value_have_no_point():
    rows = [{"iteration": 1, "loss/ce": 1.0}, {"iteration": 2, "loss/ce": None}, {"iteration": 3, "loss/kl": 2.0}]
    assert with_prefix(rows, "loss/", 10) == [Series("ce", [(1, 10)]), Series("kl", [(3, 20)])]
