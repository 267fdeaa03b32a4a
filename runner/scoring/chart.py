"""Line charts of a report as SVG: where everything in them lies. templates/chart.html draws them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

WIDTH, HEIGHT = 520, 260  # of the drawing, in its own units, which are pixels where it is not scaled
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 12, 38  # margins
MOST_POINTS = 240  # of a curve; a run of 80,000 iterations logs as many
MOST_DOTS = 60  # of a curve whose points are marked


@dataclass(frozen=True)
class Series:
    """A curve. Points are (x, y), or (x, y, lowest, highest) for one in a band; dashed: a level to compare with."""

    label: str
    points: list[tuple[float, ...]]
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves over the same axes, the vertical one from a round number to a round number.

    Attributes:
        title: what it shows, with its unit.
        over: what is along the horizontal axis.
        ends: of the horizontal axis; default: where the curves end.
        floor: a level that is in the picture, wherever the curves are.
    """

    title: str
    series: list[Series]
    over: str = "iteration"
    ends: tuple[float, float] | None = None
    floor: float | None = None

    @property
    def x_ticks(self) -> list[tuple[float, str]]:
        """(place, number) along the horizontal axis."""
        low, high = self._x_range
        return [(self._x(tick), f"{tick:g}") for tick in _ticks(low, high) if low <= tick <= high]

    @property
    def y_ticks(self) -> list[tuple[float, str]]:
        """(place, number) along the vertical axis."""
        return [(self._y(tick), f"{tick:g}") for tick in self._y_steps]

    def path(self, series: Series) -> str:
        """The curve as the `d` of a path."""
        return "M" + "L".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y, *_ in series.points)

    def band(self, series: Series) -> str | None:
        """The band around the curve as the `d` of a path; None where it has none."""
        if not series.points or len(series.points[0]) == 2:
            return None
        edge = [(x, low) for x, _, low, _ in series.points] + [(x, high) for x, _, _, high in series.points[::-1]]
        return "M" + "L".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in edge) + "Z"

    def dots(self, series: Series) -> list[tuple[float, float]]:
        """The places of the points, where they are few; a curve of one point is nothing else."""
        if series.dashed or len(series.points) > MOST_DOTS:
            return []
        return [(round(self._x(x), 1), round(self._y(y), 1)) for x, y, *_ in series.points]

    def readout(self) -> dict:
        """What page.js needs to tell the values under the pointer."""
        low, high = self._x_range
        curves = [[series.label, [[_short(x), _short(y)] for x, y, *_ in series.points]] for series in self.series]
        return {"over": self.over, "low": low, "high": high, "left": LEFT, "right": WIDTH - RIGHT, "series": curves}

    @cached_property
    def _x_range(self) -> tuple[float, float]:
        places = [point[0] for series in self.series for point in series.points]
        low, high = self.ends or (min(places), max(places))
        return (low, high) if low < high else (low - 1, high + 1)

    @cached_property
    def _y_steps(self) -> list[float]:
        levels = [level for series in self.series for point in series.points for level in point[1:]]
        levels += [] if self.floor is None else [self.floor]
        low, high = min(levels), max(levels)
        return _ticks(low, high if high > low else low + (abs(low) or 1.0))

    def _x(self, value: float) -> float:
        low, high = self._x_range
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    def _y(self, value: float) -> float:
        low, *_, high = self._y_steps
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    from matplotlib.ticker import MaxNLocator  # half a second to import, so only where a report is made

    return MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high).tolist()


def _short(value: float) -> float:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points or, of many, the means of as many at a time as leaves `MOST_POINTS`."""
    size = -(-len(points) // MOST_POINTS) or 1
    chunks = (np.mean(points[start : start + size], axis=0) for start in range(0, len(points), size))
    return [(float(x), float(y)) for x, y in chunks]


def in_rows(rows: Sequence[dict], key: str, factor: float = 1.0) -> list[tuple[float, float]]:
    """(iteration, value) of the rows of a log that have one."""
    return [(row["iteration"], factor * row[key]) for row in rows if row.get(key) is not None]


def with_prefix(rows: Sequence[dict], prefix: str, factor: float = 1.0) -> list[Series]:
    """A curve for each value of a log whose name begins with the prefix, labelled with the rest of the name."""
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith(prefix))
    curves = ((key, thinned(in_rows(rows, key, factor))) for key in keys)
    return [Series(key.removeprefix(prefix), points) for key, points in curves if points]
