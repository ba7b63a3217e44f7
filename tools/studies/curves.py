"""Draws the accuracy during the trainings of a study: is a variant better, or only faster?"""

from dataclasses import dataclass

import numpy as np

from data_prep.common.errors import UserError
from tools.nets import tables
from tools.studies import cells, pictures, plan

STYLES = ("-", "--", "-.")  # of the lines of a panel, by their options but for the learning rate
REFERENCE = dict(linewidth=0.9, linestyle=":")


@dataclass(frozen=True)
class Line:
    """Accuracy during the trainings of one set of options, one per seed.

    rate: base_lr, None where the study does not set it; others: text of the other options.
    iterations: of the tests that all seeds have, T. accuracy: percent, seeds x T.
    """

    rate: float | None
    others: str
    iterations: np.ndarray
    accuracy: np.ndarray

    @classmethod
    def of(cls, options, curves):
        """options: ((name, value), ...). curves: [records.Curve], not empty; a diverged training's
        ends early."""
        shared = sorted(set.intersection(*(set(one.iterations) for one in curves)))
        found = [dict(zip(one.iterations, one.accuracy, strict=True)) for one in curves]
        accuracy = [[one[iteration] for iteration in shared] for one in found]
        others = _text(one for one in options if one[0] != plan.BASE_LR)
        accuracy = 100 * np.array(accuracy).reshape(len(curves), -1)  # seeds x T
        return cls(dict(options).get(plan.BASE_LR), others, np.array(shared), accuracy)


def _text(options):
    return " ".join(f"{name} {cells.value_text(value)}" for name, value in options)


@dataclass(frozen=True)
class Panel:
    """The trainings of one row of the table.

    lines      {text of the options: Line}
    split      of the images
    reference  Panel of the first row with the same data set and network; None in that row itself
    """

    name: str
    title: str
    lines: dict
    split: str
    reference: "Panel | None"


def panels(state):
    """[Panel] of the rows with curves: of the trainings for the choice, if there is one."""
    found, first = [], {}
    for row in state.rows:
        lines, split = _lines(state, row)
        if not lines:
            continue
        name = " ".join((tables.short_title(row.variant), *cells.texts(row.shown)))
        pair = row.data.name, row.net.name
        panel = Panel(name, ", ".join((name, *pair)), lines, split, first.get(pair))
        first.setdefault(pair, panel)
        found.append(panel)
    return found


def _lines(state, row):
    """({text of options: Line}, split) of a row."""
    groups = state.candidates(row) or {row.candidates[0]: state.finals(row)}
    shown, lines, split = {name for name, _ in row.shown}, {}, None
    for group in groups.values():
        curves = [one.record.curve for one in group if one.record and one.record.curve]
        if not curves:
            continue
        own = [(name, value) for name, value in group[0].cell.chosen if name not in shown]
        line = Line.of(own, curves)
        if line.iterations.size:
            lines[_text(own)], split = line, curves[0].split
    return lines, split


def figure(state):
    """Matplotlib figure; raises UserError where no training was tested while it went on."""
    found = panels(state)
    if not found:
        raise UserError(
            f"study {state.study.path}: no training that has ended was tested during it; trainings "
            "for a choice are, and those of a study without one"
        )
    picture, axes = pictures.grid(len(found))
    colors = _colors(line.rate for panel in found for line in panel.lines.values())
    for axis, panel in zip(axes, found):
        others = list(dict.fromkeys(line.others for line in panel.lines.values()))
        for text, line in panel.lines.items():
            color = colors[line.rate]
            style = STYLES[others.index(line.others) % len(STYLES)]
            _draw(axis, line, text, color=color, linewidth=1.2, linestyle=style)
            low, high = line.accuracy.min(axis=0), line.accuracy.max(axis=0)
            axis.fill_between(line.iterations, low, high, color=color, alpha=0.2, linewidth=0)
        for text, line in panel.reference.lines.items() if panel.reference else ():
            label = f"{panel.reference.name}, {text}" if text else panel.reference.name
            _draw(axis, line, label, color=colors[line.rate], **REFERENCE)
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        pictures.words(axis, panel.title, "iteration", f"fine top-1 on {panel.split} images, %")
    return picture


def _colors(rates):
    """{base_lr: color}: the same in every panel, from dark to light; None where it is not set."""
    from matplotlib import colormaps  # takes a second, which most commands need not wait for

    known = sorted({rate for rate in rates if rate is not None})
    shades = np.linspace(0, 0.85, len(known))
    return {None: "C0"} | dict(zip(known, colormaps["viridis"](shades)))


def _draw(axis, line, label, **style):
    """The mean over the seeds; a label of "" is not in the legend."""
    axis.plot(line.iterations, line.accuracy.mean(axis=0), label=label or None, **style)
