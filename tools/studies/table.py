"""The table of a study: rows with means and spreads over seeds, and what a test says of them."""

import statistics
from dataclasses import dataclass

import numpy as np

from tools.studies import (
    cells,
    convergence,
    effects,
    measures,
    published,
    records,
    significance,
)

OWN, FROM_FINE = "own", "from_fine"


@dataclass(frozen=True)
class Value:
    """Of one row in one column: top-1 in percent, or a measure.

    spread  None for one seed
    effect  effects.Effect, the difference from the first row of the data set and network, or None
    """

    mean: float
    spread: float | None
    seeds: int
    effect: effects.Effect | None = None
    best: bool = False
    above_first: bool = False


@dataclass(frozen=True)
class Line:
    """One row of the table.

    chosen   ((option, value), ...) that were selected
    values   {column: Value}; columns are (level, OWN or FROM_FINE)
    measured {name of measures.MEASURES: Value}, of the study's
    lacking  the study's measures without which one of its trainings was evaluated
    finished, diverged, wanted  numbers of its trainings, one per seed
    rising, watched             of trainings whose curve still rises, and whose curve can tell
    paper    published.Figure or None
    changed  whether the code has changed since a cell ended
    ends     options whose chosen value is the smallest or the largest of three or more
    """

    row: cells.Row
    chosen: tuple
    values: dict
    measured: dict
    lacking: tuple
    finished: int
    diverged: int
    wanted: int
    rising: int
    watched: int
    paper: published.Figure | None
    changed: bool
    ends: tuple


@dataclass(frozen=True)
class Table:
    """study: plan.Study; columns: [(level, OWN or FROM_FINE)]; split, images: that were scored."""

    study: object
    columns: tuple
    lines: tuple
    scored: tuple

    def parts(self):
        """{(name of the data set, name of the network): its Lines}, in the table's order."""
        found = {}
        for line in self.lines:
            found.setdefault((line.row.data.name, line.row.net.name), []).append(line)
        return found


def make(state):
    """The Table of a progress.State."""
    figures, found = published.read(), []
    for row in state.rows:
        found.append((row, *_ended(state, row)))
    columns = _columns([one for *_, finals, _ in found for one in finals])
    lines = []
    for group in _groups(found):
        verdicts = {column: _verdict(group, column) for column in columns}
        reference = group[0][2]
        for number, (row, options, finals, watched) in enumerate(group):
            first = reference if number else []
            values = {
                column: value
                for column in columns
                if (value := _value(finals, first, column, *verdicts[column](number)))
            }
            measured = _measured(finals, first, state.study.measures)
            lines.append(_line(state, row, options, finals, watched, values, measured, figures))
    scored = {
        (one.scores.split, one.scores.images, one.data)
        for *_, finals, _ in found
        for one in finals
        if one.scores
    }
    return Table(state.study, columns, tuple(lines), tuple(sorted(scored)))


def _ended(state, row):
    """(chosen options or None, Records of the final cells, Records whose curves were watched)."""
    options, tried = state.choice(row)
    finals = [one.record for one in state.finals(row) if one.record]
    if not state.study.select:
        return options, finals, finals
    return options, finals, [r for one in tried if one.options == options for r in one.found]


def _columns(found):
    """The columns that any record has, fine to coarse."""
    columns = {}
    for record in found:
        for level in record.scores.levels if record.scores else ():
            for kind in (OWN, FROM_FINE):
                if getattr(level, kind):
                    columns[level.level, kind] = True
    order = [level for level, _ in columns]
    return tuple(sorted(columns, key=lambda one: (order.index(one[0]), one[1] != OWN)))


def _groups(found):
    """Lists of rows that are compared: of one data set and network."""
    groups = {}
    for one in found:
        groups.setdefault((one[0].data.name, one[0].net.name), []).append(one)
    return groups.values()


def _answer(record, column):
    """records.Answer, or None."""
    level, kind = column
    for one in record.scores.levels if record.scores else ():
        if one.level == level:
            return getattr(one, kind)
    return None


def _rights(group, column):
    """[bool, S x N] per row; None for a row that lacks seeds, or has other images, than most."""
    found = []
    for _, _, finals, _ in group:
        usable = sorted((one for one in finals if _answer(one, column)), key=lambda one: one.seed)
        key = tuple((one.seed, one.scores.keys_sha256) for one in usable)
        found.append((key, usable))
    keys = [key for key, _ in found if key]
    usual = max(keys, key=lambda key: (len(key), keys.count(key)), default=None)
    return [
        np.stack([_answer(one, column).bits(one.scores.images) for one in usable])
        if key and key == usual
        else None
        for key, usable in found
    ]


def _verdict(group, column):
    """Function: number of a row -> (best, better than the first row)."""
    rights = _rights(group, column)
    better = significance.better(rights)
    compared = [i for i, one in enumerate(rights) if one is not None]

    def of(number):
        others = [i for i in compared if i != number]
        best = number in compared and bool(others) and all(better[number, i] for i in others)
        return best, bool(number and better[number, 0])

    return of


def _value(finals, first, column, best, above_first):
    def top1(record):
        answer = _answer(record, column)
        return answer and 100 * answer.top1

    return _mean(finals, first, top1, best, above_first)


def _mean(finals, first, figure, best=False, above_first=False):
    """Value of a row's records, beside those of the first row; None without any.

    figure: function(record) -> number or None.
    """
    found, reference = (
        {one.seed: value for one in records_of if (value := figure(one)) is not None}
        for records_of in (finals, first)
    )
    if not found:
        return None
    values = list(found.values())
    spread = statistics.stdev(values) if len(values) > 1 else None
    effect = effects.between(reference, found)
    return Value(statistics.fmean(values), spread, len(values), effect, best, above_first)


def _measured(finals, first, names):
    """{name: Value} of the measures that are known; shares in percent."""
    found = {}
    for name in names:

        def figure(record, name=name):
            value = (record.scores and record.scores.measures or {}).get(name)
            scale = 100 if measures.MEASURES[name].percent else 1
            return None if value is None else scale * value

        found[name] = _mean(finals, first, figure)
    return {name: value for name, value in found.items() if value}


def _line(state, row, options, finals, watched, values, measured, figures):
    curves = [one.curve for one in watched if one.curve and one.curve.p is not None]
    names = state.study.measures
    place = (state.study.table, row.data.name, row.net.name, row.variant)
    return Line(
        row,
        tuple((name, value) for name, value in options or () if name in cells.swept(state.study)),
        values,
        measured=measured,
        lacking=tuple(name for name in names if any(one.lacks([name]) for one in finals)),
        finished=sum(one.status == records.FINISHED for one in finals),
        diverged=sum(one.status == records.DIVERGED for one in finals),
        wanted=len(state.study.seeds),
        rising=sum(bool(convergence.rises(curve.p)) for curve in curves),
        watched=len(curves),
        paper=None if row.shown else figures.get(place),
        ends=_ends(row, options, cells.swept(state.study)),
        changed=any(state.changed(one) for one in state.finals(row) if one.record),
    )


def _ends(row, options, swept):
    """Options of the sweep whose chosen value has a neighbor on one side only."""
    found = []
    for name, value in options or ():
        tried = [dict(one).get(name) for one in row.candidates]
        numbers = {one for one in tried if isinstance(one, (int, float))}
        if name in swept and len(numbers) > 2 and value in (min(numbers), max(numbers)):
            found.append(name)
    return tuple(found)
