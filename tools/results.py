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

from data_prep.common import files
from data_prep.common.errors import UserError
from python_layers.parameters import is_number


def table_of(path):
    """Where the predictions of the result `path` are."""
    return Path(path).with_suffix(".tsv")


def write(path, result, columns):
    """Write a result (dict) and its predictions (name -> N values).

    The table comes first: where there are figures, there are the predictions that they sum up.
    """
    lines = ["\t".join(columns)]
    for row in zip(*(np.asarray(values).tolist() for values in columns.values())):
        lines.append(
            "\t".join(f"{value:.6f}" if isinstance(value, float) else str(value) for value in row)
        )
    files.write_whole(table_of(path), "\n".join(lines) + "\n")
    files.write_whole(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def read(path):
    """The result of evaluate.py in `path`, a dict."""
    try:
        result = json.loads(files.existing(path, "the result").read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        result = None
    if not _is_result(result):
        raise UserError(f"{path} is no result of tools/evaluate.py")
    return result


def _is_result(result):
    """Whether a decoded JSON value has all that the readers of results rely on."""
    return (
        isinstance(result, dict)
        and all(isinstance(result.get(name), str) for name in ("experiment", "data", "split"))
        and type(result.get("images")) is int
        and isinstance(result.get("levels"), list)
        and len(result["levels"]) > 0
        and all(map(_is_level, result["levels"]))
    )


def _is_level(level):
    shares = (
        [level[name] for name in ("head", "from_fine") if name in level]
        if isinstance(level, dict)
        else []
    )
    return (
        len(shares) > 0
        and isinstance(level.get("level"), str)
        and all(isinstance(share, dict) and is_number(share.get("top1")) for share in shares)
    )


def _columns(result):
    """Names of the columns that the predictions of a result must have."""
    for level in result["levels"]:
        yield level["level"]
        if "head" in level:
            yield f"{level['level']}_predicted"
            yield f"{level['level']}_probability"
        if "from_fine" in level:
            yield f"{level['level']}_from_fine"


def read_predictions(path):
    """The predictions beside the result `path`: {column: array of N}, or None if there are none."""
    table, result = table_of(path), read(path)
    if not table.is_file():
        return None
    try:
        with open(table, newline="", encoding="utf-8") as file:
            header, *rows = [*csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)] or [[]]
        if not {"key", *_columns(result)} <= {*header} or len(rows) != result["images"]:
            raise ValueError
        if {len(row) for row in rows} != {len(header)}:
            raise ValueError
        return {
            name: np.array(values, dtype=_kind(name)) for name, values in zip(header, zip(*rows))
        }
    except (ValueError, OverflowError, csv.Error):
        raise UserError(f"{table} is not what tools/evaluate.py writes: evaluate again") from None


def _kind(column):
    return str if column == "key" else float if column.endswith("_probability") else int
