"""Renews the tables that Markdown pages quote from the tables of studies.

A page quotes a part of a study's table.md, or of gains.md over all studies, by a comment above a
table of its own:

    <!-- tools/studies/results/demo_cards/table.md: cards, squeezenet -->
    | 52 playing cards | card | recall@1 ↑ |
    |---|---|---|
    | SM | 74.2 ± 0.6 | 63.2 ± 0.4 |

The head of its table, after the first cell, names columns of the part. The first cell of each row
has the texts of those cells that tell one row of the part from all others: `SM`, or `OURS, 0.8`.
"""

import itertools
import re

from data_prep.common.errors import UserError
from data_prep.common.text import read_text

QUOTE = re.compile(
    r"(?P<comment><!-- (?P<source>\S+\.md): (?P<part>.+) -->\n\n?)(?P<table>(?:\|.*\n)+)"
)
KEPT = ("", "-")  # cells that a page leaves out


def rows_of(lines):
    """[[text of a cell]] of the Markdown table that the lines begin with."""
    return [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in itertools.takewhile(lambda line: line.startswith("|"), lines)
        if not set(line) <= set("|-: ")
    ]


def renewed(page, root):
    """(text of a page, with the figures of the tables that it quotes; the number of these tables).

    page: path. root: folder that the sources are relative to. Raises UserError if a source, a part,
    a row or a column is not there.
    """
    count = 0

    def replace(found):
        nonlocal count
        count += 1
        place = f"{page}: the table quoted from {found['source']}, {found['part']},"
        part = _part(root / found["source"], found["part"], place)
        return found["comment"] + _renewed(found["table"].splitlines(), part, place)

    return QUOTE.sub(replace, read_text(page, "a Markdown page")), count


def _part(source, name, place):
    """Rows of a part of a study's table, its head first."""
    lines = read_text(source, "the table of a study").splitlines()
    if name not in lines:
        raise UserError(f"{place} names a part that is not there")
    return rows_of(lines[lines.index(name) + 2 :])


def _renewed(lines, part, place):
    """The text of a quoting table with the figures of a part."""
    head, *rows = part
    columns = rows_of(lines[:1])[0][1:]
    for column in columns:
        if column not in head:
            raise UserError(f"{place} has a column {column!r}, which is not there")
    text = lines[:2]
    for first, *cells in rows_of(lines)[1:]:
        wanted = set(first.replace("**", "").split(", "))
        found = [row for row in rows if wanted <= {cell.replace("**", "") for cell in row}]
        if len(found) != 1:
            raise UserError(f"{place} has a row {first!r}, which {len(found)} rows there match")
        known = dict(zip(head, found[0]))
        new = [cell if cell in KEPT else known[name] for name, cell in zip(columns, cells)]
        text.append(f"| {' | '.join([first, *new])} |")
    return "\n".join(text) + "\n"
