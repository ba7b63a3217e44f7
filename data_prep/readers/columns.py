"""Decides which columns of a table are levels of the label tree."""

import re

from data_prep.common.errors import UserError
from data_prep.names import class_name, level_problem

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def levels(table, header, rows, wanted, others):
    """The columns that are levels, finest first.

    wanted: --levels or None; others: columns with another use; rows: table.Row. Raises UserError,
    with the options to choose from, if --levels is not given and a column does not look like a
    level.
    """
    if wanted is not None:
        lacking = [column for column in wanted if column not in header]
        if lacking:
            raise UserError(
                f"{table}: the header has no column {lacking[0]} of --levels; it has "
                f"{', '.join(filter(None, header))}"
            )
        found = list(wanted)
    else:
        found = [column for column in header if column not in others]
        if not found:
            raise UserError(f"{table}: the header has no column for a level, such as species")
        doubts = {c: doubt for c in found if (doubt := _doubt(c, rows))} if len(found) > 1 else {}
        if doubts:
            column, doubt = next(iter(doubts.items()))
            sure = [c for c in found if c not in doubts]
            raise UserError(
                f"{table}: the column {column!r} {doubt}: "
                f"{_choice(sure)} leaves it out{_all_of(found)}"
            )
    problem = level_problem(found)
    if problem:
        raise UserError(f"{table}: {problem}, or rename it: --column NEW={found[0]}")
    return found


def without(found, column):
    """The hint, for a message about a column's cells, that the column need not be a level."""
    rest = [level for level in found if level != column]
    return f"; {_choice(rest)}, if {column} is not a level" if rest else ""


def without_either(found, child, parent, rows):
    """As `without`, for the one of two columns that keeps the others from forming a tree."""
    rest = [level for level in found if level != parent]
    return without(found, parent if _is_tree(rest, rows) or len(found) == 2 else child)


def _is_tree(found, rows):
    """Whether each class of a column has one parent in the next."""
    for child, parent in zip(found, found[1:]):
        pairs = {(class_name(row.cells[child]), class_name(row.cells[parent])) for row in rows}
        if len(pairs) > len({own for own, _ in pairs}):
            return False
    return True


def _choice(sure):
    return f"--levels {','.join(sure) or 'FINE,...,COARSE'}"


def _all_of(found):
    named = all(re.fullmatch(r"\w+", column) for column in found)
    return f", --levels {','.join(found)} takes it as a level" if named else ""


def _doubt(column, rows):
    """Why a column does not look like a level, or None."""
    if not column:
        return "has no name"
    values = [class_name(row.cells[column]) for row in rows]
    different = set(values)
    if len(different) == 1:
        return f"has one value only, {values[0]!r}"
    if all(NUMBER.fullmatch(value) for value in different):
        return "has numbers only"
    if len(different) == len(values) > 2:
        return "has another value in each row"
    return None
