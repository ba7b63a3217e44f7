"""Draws accuracy against the options that a study varies."""

import statistics
from dataclasses import dataclass

from data_prep.common.errors import UserError
from tools.nets import tables
from tools.studies import cells, pictures, plan, records

LOGARITHMIC = (plan.BASE_LR,)  # options whose values are tried in factors


@dataclass(frozen=True)
class Series:
    """One curve: accuracies in percent, one list over seeds per value of an option.

    points: {value: [accuracy]}, a value that is no number as its text; {None: [accuracy]} for a row
    without the option: a level line.
    """

    label: str
    points: dict


def panels(state):
    """{(option, data set, network, level, split): [Series]} of the options with two values.

    Options of the sweep are drawn from the trainings for the choice, those of the grid from the
    trainings of the table.
    """
    found = {}
    for row in state.rows:
        for each in state.candidates(row).values():
            for known in each:
                drawn = [one for one in known.cell.chosen if one[0] in cells.swept(state.study)]
                _add(found, known, drawn, known.cell.chosen)
        for known in state.finals(row):
            _add(found, known, [*row.shown, *_without(state.study, row)], row.shown)
    return {
        place: [Series(label, points) for label, points in curves.items()]
        for place, curves in found.items()
        if any(len(points) > 1 for points in curves.values())
    }


def _without(study, row):
    """[(option, None)] of the varied options that a row leaves at their defaults: level lines."""
    if any(name in study.vary for name, _ in row.shown):
        return []
    return [(name, None) for name in (*study.vary, *(() if row.shown else study.grid))]


def _point(value):
    """A value as it is drawn: a number, None, or the text of anything else."""
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    return cells.value_text(value)


def _add(found, known, drawn, named):
    """Add a cell's accuracies to curves.

    drawn, named: ((option, value), ...): of the curves, and those that tell curves apart.
    """
    record, row = known.record, known.cell.row
    if record is None or record.status == records.DIVERGED:
        return
    for name, value in drawn:
        others = [f"{one}={text}" for one, text in named if one != name]
        label = " ".join([tables.short_title(row.variant), *others])
        for level in record.scores.levels:
            answer = level.own or level.from_fine
            place = (name, row.data.name, row.net.name, level.level, record.scores.split)
            points = found.setdefault(place, {}).setdefault(label, {})
            points.setdefault(_point(value), []).append(100 * answer.top1)


def figure(state):
    """Matplotlib figure; raises UserError where no option has two values with results."""
    shown = panels(state)
    if not shown:
        raise UserError(
            f"study {state.study.path}: no option has results for two values; a plot shows "
            "accuracy against the values in [grid], [vary] and [sweep]"
        )
    picture, axes = pictures.grid(len(shown))
    for axis, ((name, data, net, level, split), series) in zip(axes, shown.items()):
        for number, one in enumerate(series):
            _draw(axis, one, f"C{number % 10}")
        if name in LOGARITHMIC:
            axis.set_xscale("log")
        title, y = f"{level}, {data}, {net}", f"top-1 on {split} images, %"
        pictures.words(axis, title, name, y)
    return picture


def _draw(axis, series, color):
    """A curve with the standard deviations over seeds, and a level line for the row without."""
    level = series.points.get(None)
    if level:
        label = f"{series.label}, default" if len(series.points) > 1 else series.label
        axis.axhline(statistics.fmean(level), color=color, linestyle="--", linewidth=1, label=label)
    x = [value for value in series.points if value is not None]
    if not x:
        return
    categories = any(isinstance(value, str) for value in x)
    if not categories:
        x.sort()
    y = [series.points[value] for value in x]
    axis.errorbar(
        [str(value) for value in x] if categories else x,
        [statistics.fmean(one) for one in y],
        yerr=[statistics.stdev(one) if len(one) > 1 else 0 for one in y],
        color=color,
        marker="o",
        markersize=3,
        capsize=2,
        linewidth=0 if categories else 1.2,
        elinewidth=1.2,
        label=series.label,
    )
