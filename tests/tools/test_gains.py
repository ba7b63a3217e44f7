"""tools/studies/gains.py: the table over all studies."""

from types import SimpleNamespace

import pytest

from tools.studies import gains
from tools.studies.effects import Effect
from tools.studies.table import FROM_FINE, OWN, Table, Value

COLUMNS = (("species", OWN), ("model", OWN), ("family", FROM_FINE))


def line(data, variant, column, mean, effect=None, shown=()):
    row = SimpleNamespace(
        data=SimpleNamespace(name=data),
        net=SimpleNamespace(name="googlenet"),
        variant=variant,
        shown=shown,
    )
    values = {column: Value(mean, 0.5, 5, effect), ("family", FROM_FINE): Value(9.0, None, 1)}
    return SimpleNamespace(row=row, values=values)


def table(*lines, split="test"):
    scored = tuple({(split, 10, one.row.data.name) for one in lines})
    return Table(SimpleNamespace(name="a_study"), COLUMNS, lines, scored)


def rows(*made):
    lines = gains.markdown(made).splitlines()[2:]
    return [[cell.strip() for cell in one.strip("|").split("|")] for one in (lines[0], *lines[2:])]


def ours(*made):
    return [row for row in rows(*made) if row[0] == "a_study"]


SM = line("cub", "sm", COLUMNS[0], 72.34)
OURS = line("cub", "ours", COLUMNS[0], 72.94, Effect(0.6, 1.25))


def test_each_data_set_has_its_fine_level():
    cars = [line("cars", name, COLUMNS[1], mean) for name, mean in (("sm", 49.0), ("csm", 44.7))]
    head, first, second, *_ = rows(table(SM, OURS, *cars))
    assert head == ["study", "data", "network", "SM", "CSM", "OURS"]
    assert first == ["a_study", "cub", "googlenet", "72.3", "", "+0.6 ± 1.2"]
    assert second == ["a_study", "cars", "googlenet", "49.0", "-4.3", ""]  # one seed: no interval


def test_published_figures_are_differences_too():
    assert ["the paper", "cub_bbox", "googlenet", "77.4", "+4.6"] in rows(table(SM, OURS))


@pytest.mark.parametrize(
    "made",
    [
        table(SM, OURS, split="val"),
        table(SM),
        table(OURS),
        table(SM, line("cub", "ours", COLUMNS[0], 70.0, shown=(("lambda", 0.8),))),
    ],
    ids=["validation images", "plain softmax alone", "without plain softmax", "a grid"],
)
def test_what_is_no_comparison_of_variants_is_left_out(made):
    assert gains.markdown([made]) == ""
    assert len(ours(made, table(SM, OURS))) == 1
