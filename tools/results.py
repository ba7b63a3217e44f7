"""An evaluation on disk: NAME.json with the figures and, beside it, NAME.tsv with a row per image.

Columns of the table: `key` of the record in the LMDB; then per level `<level>` (true class), and,
where the level has a classifier, `<level>_predicted` and `<level>_probability`; for a coarse level
also `<level>_from_fine`, the ancestor of the predicted fine class. Classes are the 0-based ids of
the data set's hierarchy.tsv.
"""

import csv
import json
from pathlib import Path

import numpy as np

from data_prep.cli import UserError
from tools import files

NEEDED = ("experiment", "data", "split", "images", "levels")


def table_of(path):
    """Where the predictions of the result `path` are."""
    return Path(path).with_suffix(".tsv")


def write(path, result, columns):
    """Write a result (dict) and its predictions (name -> N values).

    The table comes first: where there are figures, there are the predictions that they sum up.
    """
    lines = ["\t".join(columns)]
    for row in zip(*(np.asarray(values).tolist() for values in columns.values())):
        lines.append("\t".join(f"{value:.6f}" if isinstance(value, float) else str(value)
                               for value in row))
    files.write_whole(table_of(path), "\n".join(lines) + "\n")
    files.write_whole(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def read(path):
    """The result of evaluate.py in `path`, a dict."""
    try:
        result = json.loads(files.existing(path, "the result").read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        result = None
    if not isinstance(result, dict) or not all(name in result for name in NEEDED):
        raise UserError(f"{path} is no result of tools/evaluate.py")
    return result


def read_predictions(path):
    """The predictions beside the result `path`: {column: array of N}, or None if there are none."""
    table = table_of(path)
    if not table.is_file():
        return None
    with open(table, newline="", encoding="utf-8") as file:
        header, *rows = [*csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)] or [[]]
    try:
        if header[:1] != ["key"] or {len(row) for row in rows} != {len(header)}:
            raise ValueError
        return {name: np.array(values, dtype=_kind(name))
                for name, values in zip(header, zip(*rows))}
    except ValueError:
        raise UserError(f"{table} is not what tools/evaluate.py writes: evaluate again") from None


def _kind(column):
    return str if column == "key" else float if column.endswith("_probability") else int
