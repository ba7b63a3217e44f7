"""The table over all studies: what each variant adds to plain softmax, beside published figures."""

from data_prep.common import text_table
from tools.nets import tables
from tools.studies import published
from tools.studies.table import OWN

REFERENCE = "sm"
PUBLISHED = "the paper"
PART = "fine top-1 of SM, and points that the others add (95 % interval over seeds)"


def markdown(made):
    """Text of gains.md for table.Tables: rows of test images that have plain softmax and another
    variant, each at its own chosen options, then published ones. "" where there is none."""
    ours = [row for one in made for row in _rows_of(one)]
    if not ours:
        return ""
    known = {variant for *_, cells in ours for variant in cells}
    variants = [variant for variant in tables.STAGES if variant in known]
    found = [*ours, *(row for row in _published() if len(known & set(row[-1])) > 1)]
    lines = [["study", "data", "network", *map(tables.short_title, variants)]]
    for *place, cells in found:
        lines.append([*place, *(cells.get(variant, "") for variant in variants)])
    return "\n".join([PART, "", *text_table.markdown(lines)]) + "\n"


def _rows_of(table):
    """[study, data, network, {variant: text}] of each data set and network of a table."""
    tested = {data for split, _, data in table.scored if split == "test"}
    for (data, net), lines in table.parts().items():
        values = {line.row.variant: _fine(table, line) for line in lines if not line.row.shown}
        if data not in tested or not values.get(REFERENCE):
            continue
        cells = {name: _text(value, values) for name, value in values.items() if value}
        if len(cells) > 1:
            yield [table.study.name, data, net, cells]


def _fine(table, line):
    """The Value of the finest level; None without."""
    for column in table.columns:
        if column[1] == OWN and column in line.values:
            return line.values[column]
    return None


def _text(value, values):
    reference = values[REFERENCE]
    if value is reference:
        return f"{value.mean:.1f}"
    if value.effect:
        return f"{value.effect.mean:+.1f} ± {value.effect.half:.1f}"
    return f"{value.mean - reference.mean:+.1f}"


def _published():
    """The same rows of published.tsv, whose figures are one training each."""
    groups = {}
    for (_, data, net, variant), figure in published.read().items():
        groups.setdefault((data, net), {})[variant] = figure.top1
    for (data, net), figures in groups.items():
        first = figures.get(REFERENCE)
        if first is None:
            continue
        cells = {name: f"{top1 - first:+.1f}" for name, top1 in figures.items()}
        yield [PUBLISHED, data, net, cells | {REFERENCE: f"{first:.1f}"}]
