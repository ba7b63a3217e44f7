"""Figures of the literature, from published.tsv beside this file."""

from dataclasses import dataclass
from pathlib import Path

from data_prep.common.errors import UserError
from data_prep.common.text import read_table

FILE = Path(__file__).resolve().parent / "published.tsv"
COLUMNS = ["table", "data", "net", "variant", "top1", "certainty", "source"]


@dataclass(frozen=True)
class Figure:
    """Fine top-1 in percent, how sure it is and where it was seen."""

    top1: float
    certainty: str
    source: str


def read(path=FILE):
    """{(table, data set, network, variant): Figure}."""
    header, rows = read_table(path, "the table of published figures", remarks=True)
    if header != COLUMNS:
        raise UserError(f"{path}: the columns are not {', '.join(COLUMNS)}")
    found = {}
    for *place, value, certainty, source in rows:
        try:
            found[tuple(place)] = Figure(float(value), certainty, source)
        except ValueError:
            raise UserError(f"{path}: {value!r} is not a number") from None
    return found
