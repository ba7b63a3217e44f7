"""Line charts for inline SVG: positions of ticks, lines and points in a box of WIDTH x HEIGHT."""

import math
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 18, 8, 22  # margins
MOST = 240  # points of a line; longer ones are thinned
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#7f7f7f")
DASHES = ("", "5 3", "1 3", "8 3 2 3", "3 2", "10 4")


@dataclass(frozen=True)
class Line:
    """points: "x,y x,y ..." in the box; circles: [(x, y, radius)] where points are
    marked."""

    points: str
    color: str
    dash: str = ""
    wide: float = 1.6
    opacity: float = 1
    circles: tuple = ()


@dataclass(frozen=True)
class Chart:
    """title; x_ticks, y_ticks: [(position, text)]; lines; legend: [(name, color, dash)];
    diagonal: whether the line of equal values is drawn; marks: [(x, color)], vertical lines.
    """

    title: str
    x_ticks: tuple
    y_ticks: tuple
    lines: tuple
    legend: tuple = ()
    diagonal: bool = False
    marks: tuple = ()


def ticks(low, high, count=4):
    """Round numbers in low..high, about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= raw * 0.999)
    return [
        k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def chart(title, curves, *, y_range=None, x_range=None, log=False, percent=False, **more):
    """Chart of curves [(x, y, options of Line)]; values that are not finite are left out.
    Of the options, radii: a number, or one per point, marks the points.

    y_range, x_range: (low, high); default: those of the values. log: logarithmic y axis, whose
    range is in logarithms.
    """
    scale = np.log10 if log else np.asarray
    shown = []
    for x, y, options in curves:
        x, y = np.asarray(x, float), np.asarray(y, float)
        known = np.isfinite(y) & ((y > 0) | (not log))
        shown.append((x[known], scale(y[known]), options, known))
    x_low, x_high = x_range or _range([x for x, _, _, _ in shown])
    y_low, y_high = y_range or _range([y for _, y, _, _ in shown])

    def at_x(x):
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def at_y(y):
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    lines = []
    for x, y, options, known in shown:
        keep = np.linspace(0, len(x) - 1, MOST).round().astype(int)
        keep = np.unique(keep) if len(x) else np.zeros(0, int)
        x, y = at_x(x[keep]), at_y(y[keep])
        inside = [*zip(x.round(1).tolist(), np.clip(y, TOP, HEIGHT - BOTTOM).round(1).tolist())]
        options = dict(options)
        radii = np.broadcast_to(options.pop("radii", 2.4 if len(inside) == 1 else 0), known.shape)
        circles = [(*at, r) for at, r in zip(inside, radii[known][keep].round(1).tolist()) if r]
        points = " ".join(f"{a:g},{b:g}" for a, b in inside)
        lines.append(Line(points, circles=tuple(circles), **options))
    if log:
        powers = range(math.ceil(y_low - 1e-9), math.floor(y_high + 1e-9) + 1)
        steps = [(k, f"{10.0**k:g}") for k in powers]
        if len(steps) < 2:
            steps = [(math.log10(v), f"{v:.3g}") for v in ticks(10**y_low, 10**y_high) if v > 0]
    else:
        steps = [(v, f"{v:.0%}" if percent else f"{v:g}") for v in ticks(y_low, y_high)]
    return Chart(
        title,
        tuple((round(at_x(v), 1), f"{v:g}") for v in ticks(x_low, x_high)),
        tuple((round(at_y(v), 1), text) for v, text in steps),
        tuple(lines),
        marks=tuple(
            (round(at_x(v), 1), color) for v, color in more.pop("marks", ()) if x_low <= v <= x_high
        ),
        **more,
    )


def _range(arrays):
    """(low, high) of all values, never equal."""
    values = np.concatenate(arrays) if arrays else np.zeros(0)
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (
        (low, high) if high > low else (low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1))
    )
