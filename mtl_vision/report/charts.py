"""Where curves, points and dots lie in inline SVG."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 360, 190
MOST = 400  # points of a curve
LEFT, RIGHT, TOP, BOTTOM = 48, 8, 8, 22
# Distinct for people who do not see red or green: after Okabe and Ito.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a6d00")


class Line(NamedTuple):
    """A curve ready to be drawn; `points` is the value of SVG's attribute."""

    name: str
    color: str
    points: str
    values: list[tuple[float, float, int, float]]


class Chart(NamedTuple):
    """A chart ready to be drawn.

    lines: the curves; `values` are (x, y, step, value) with x and y in the drawing.
    across, up: ticks (position, text) of the axes.
    """

    title: str
    lines: list[Line]
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]


def chart(title: str, curves: Mapping[str, Sequence[tuple[int, float]]], colors: Mapping) -> Chart:
    """Lays out the curves of one quantity; values that are not finite are left out.

    Args:
      title: of the chart.
      curves: by name, points (step, value).
      colors: by the same names.
    """
    finite = {
        name: [(s, v) for s, v in points if math.isfinite(v)] for name, points in curves.items()
    }
    flat = [point for points in finite.values() for point in points]
    if not flat:
        return Chart(title, [], [], [])
    steps, values = zip(*flat, strict=True)
    across, up = ticks(min(steps), max(steps), 4), ticks(min(values), max(values), 4)
    x = _scale(min(steps), max(steps), LEFT, WIDTH - RIGHT)
    y = _scale(min(*values, up[0]), max(*values, up[-1]), HEIGHT - BOTTOM, TOP)
    lines = []
    for name, points in finite.items():
        placed = [(round(x(s), 1), round(y(v), 1), s, v) for s, v in thinned(points)]
        text = " ".join(f"{px},{py}" for px, py, _, _ in placed)
        lines.append(Line(name, colors[name], text, placed))
    return Chart(
        title,
        lines,
        [(round(x(t), 1), f"{t:g}") for t in across],
        [(round(y(t), 1), f"{t:g}") for t in up],
    )


def thinned(points: Sequence) -> Sequence:
    """Returns at most `MOST` of the points, evenly, counted from the last."""
    return points[::-1][:: max(1, math.ceil(len(points) / MOST))][::-1]


def _scale(low: float, high: float, start: float, end: float):
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Returns about `count` round numbers inside ``[low, high]``, at least one."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)] or [low]


class Scatter(NamedTuple):
    """Points ready to be drawn.

    points: (x, y, half the length of the bar, name, whether on the front).
    front: ``points`` of a polyline through those on the front.
    """

    points: list[tuple[float, float, float, str, bool]]
    front: str
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]


def scatter(points: Sequence[tuple[float, float, float, str]], front: Collection[str]) -> Scatter:
    """Lays out gains against parameters, these on a logarithmic axis.

    Args:
      points: (millions of parameters, gain, spread, name) each.
      front: names of those that no other beats.
    """
    logs = [math.log10(max(x, 1e-4)) for x, *_ in points]
    margin = 0.08 * ((max(logs) - min(logs)) or 1.0)
    x = _scale(min(logs) - margin, max(logs) + margin, LEFT, WIDTH - RIGHT)
    lows, highs = [y - s for _, y, s, _ in points], [y + s for _, y, s, _ in points]
    up = ticks(min(lows), max(highs), 4)
    y = _scale(min(*lows, up[0]), max(*highs, up[-1]), HEIGHT - BOTTOM, TOP)
    unit = abs(y(1.0) - y(0.0))
    placed = [
        (round(x(log), 1), round(y(value), 1), round(spread * unit, 1), name, name in front)
        for log, (_, value, spread, name) in zip(logs, points, strict=True)
    ]
    best = sorted((px, py) for px, py, _, _, on in placed if on)
    tens = _powers(min(logs) - margin, max(logs) + margin)
    across = [(round(x(math.log10(t)), 1), f"{t:g}") for t in tens]
    line = " ".join(f"{px},{py}" for px, py in best)
    return Scatter(placed, line, across, [(round(y(t), 1), f"{t:g}") for t in up])


def _powers(low: float, high: float) -> list[float]:
    steps = (1, 2, 5) if high - low < 2.5 else (1,)
    powers = range(math.floor(low) - 1, math.ceil(high) + 1)
    return [m * 10.0**p for p in powers for m in steps if low <= math.log10(m * 10.0**p) <= high]


class Dots(NamedTuple):
    """An axis of a study ready to be drawn: (y, name, x, from, to) of every value."""

    title: str
    rows: list[tuple[float, str, float, float, float]]
    across: list[tuple[float, str]]
    height: float


ROW = 24


def dots(title: str, values: Mapping[str, tuple[float, float | None]]) -> Dots:
    """Lays out a mean and its spread per value of an axis."""
    ends = [m + side * (s or 0.0) for m, s in values.values() for side in (-1, 1)]
    across = ticks(min(ends), max(ends), 4)
    x = _scale(min(*ends, across[0]), max(*ends, across[-1]), 3 * LEFT, WIDTH - 2 * RIGHT)
    rows = []
    for i, (name, (mean, spread)) in enumerate(values.items()):
        low, high = mean - (spread or 0.0), mean + (spread or 0.0)
        rows.append((TOP + ROW * (i + 0.5), name, *(round(x(v), 1) for v in (mean, low, high))))
    return Dots(
        title, rows, [(round(x(t), 1), f"{t:g}") for t in across], TOP + ROW * len(rows) + BOTTOM
    )
