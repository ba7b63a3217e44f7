"""Reads JSON and tab-separated text; raises UserError, in one sentence, for any error in a file."""

import json
from pathlib import Path

from data_prep.common.errors import UserError


def read_text(path, what):
    """The content of a UTF-8 file, without a byte-order mark.

    what: its kind, for messages, e.g. "the manifest". Raises UserError if it can't be read.
    """
    path = Path(path)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{what} {path} not found (current folder: {Path.cwd()})") from None
    except OSError as error:
        raise UserError(f"{what} {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{what} {path} is not UTF-8 text (byte {error.start}): save it as UTF-8"
        ) from None


def read_json(path, what):
    """The value in a JSON file; raises UserError if it can't be read or is not JSON."""
    return parse_json(read_text(path, what), f"{what} {path}")


def parse_json(text, what):
    """The value of a JSON text.

    Raises UserError, beginning with `what`, for invalid JSON (also NaN, Infinity and repeated keys)
    and for text that is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise UserError(f"{what} is nested too deeply") from None
    except ValueError as error:  # also numbers of thousands of digits
        raise UserError(f"{what} is not valid JSON: {error}") from None


def _unique(pairs):
    found = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"duplicate key {key!r}")
        found[key] = value
    return found


def _refuse(constant):
    raise ValueError(f"{constant} is not a JSON number")


def read_table(path, what, remarks=False):
    """(header, rows) of a tab-separated file, lists of str; rows have as many cells as the header.

    Quotation marks have no special meaning. Blank lines are skipped and, with `remarks`, lines that
    start with #. Raises UserError, with the line number, if a row is shorter or longer than the
    header, or if a column occurs twice.
    """
    header, rows = read_numbered(path, what, remarks)
    return header, [row for _, row in rows]


def read_numbered(path, what, remarks=False):
    """As read_table, with rows as (line number, cells)."""
    lines = [line.removesuffix("\r") for line in read_text(path, what).split("\n")]
    rows = [
        (number, line.split("\t"))
        for number, line in enumerate(lines, 1)
        if line.strip() and not (remarks and line.startswith("#"))
    ]
    if not rows:
        raise UserError(f"{what} {path} is empty: a header line was expected")
    (_, header), *rows = rows
    if len(set(header)) != len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise UserError(f"{what} {path} has two columns {twice!r}")
    for number, row in rows:
        if len(row) != len(header):
            raise UserError(
                f"{what} {path}, line {number}: {len(row)} cells, but the header has {len(header)}"
            )
    return header, rows


def number_of(cell, most):
    """The whole number from 0 to `most` in a cell; raises ValueError for anything else.

    Only ASCII digits are accepted: no sign, blank or decimal point.
    """
    if not (cell.isascii() and cell.isdigit() and len(cell) <= len(str(most))) or int(cell) > most:
        raise ValueError(f"{cell[:20]!r} is not a whole number from 0 to {most}")
    return int(cell)
