"""Reads and writes an evaluation: NAME.json with the results, NAME.tsv with a row per image.

The table has the column `key` (of the record in the LMDB) and, per level, `<level>_true`; if the
level has a classifier, `<level>_predicted` and `<level>_probability`; for a coarse level,
`<level>_from_fine`, the ancestor of the predicted fine class. Classes are the 0-based ids of the
data set's hierarchy.tsv. The JSON file holds the SHA-256 of the table, so that a mismatched pair
left by an interrupted evaluation is detected.
"""

import hashlib
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from data_prep.common import files
from data_prep.common.errors import UserError
from data_prep.common.text import read_json, read_table
from data_prep.common.typed import from_json, to_json


@dataclass(frozen=True)
class Share:
    """The share of right predictions in 0..1, its 95 % interval (low, high), and their number."""

    top1: float
    interval: tuple[float, ...]
    right: int

    def __post_init__(self):
        if len(self.interval) != 2 or not 0 <= min(self.top1, *self.interval, self.right):
            raise ValueError("a share has top1, an interval of two numbers, and right, from 0 on")
        if max(self.top1, *self.interval) > 1:
            raise ValueError("a share is above 1")


@dataclass(frozen=True)
class Level:
    """The predictions on one level.

    classes, present  numbers of classes in the label tree, and among the images
    head              the level's own classifier
    from_fine         the ancestors of the predicted fine classes; only of coarse levels
    consistency       share of the images for which both predict the same class
    """

    level: str
    classes: int
    present: int
    head: Share | None = None
    from_fine: Share | None = None
    consistency: float | None = None

    def __post_init__(self):
        if not (self.head or self.from_fine):
            raise ValueError("it has neither head nor from_fine")


@dataclass(frozen=True)
class Confusion:
    """Number of images of one fine class that were predicted as another; names of classes."""

    images: int
    true: str
    predicted: str


@dataclass(frozen=True)
class Fine:
    """Results of the fine level only; shares in 0..1. top5: None for 5 or fewer classes."""

    mean_class_accuracy: float
    recall: dict[str, float]
    confused: tuple[Confusion, ...]
    top5: float | None = None


@dataclass(frozen=True)
class Result:
    """The results of one net on one split of a data set.

    experiment   the solver's name without _solver
    levels       fine to coarse
    predictions_sha256  of the table; None in results of versions that did not record it
    """

    experiment: str
    solver: str
    net: str
    stages: tuple[str, ...]
    weights: str
    weights_sha256: str
    data: str
    split: str
    images: int
    levels: tuple[Level, ...]
    fine: Fine
    seconds: float
    predictions_sha256: str | None = None

    def __post_init__(self):
        names = [level.level for level in self.levels]
        if not names or len(set(names)) != len(names):
            raise ValueError("levels is empty or has two levels of one name")
        if self.images < 1:
            raise ValueError("images is not above 0")


@dataclass(frozen=True)
class Answers:
    """The table's columns for one level, arrays of N; None: the level has no such prediction."""

    true: np.ndarray
    predicted: np.ndarray | None = None
    probability: np.ndarray | None = None
    from_fine: np.ndarray | None = None

    def columns(self, level):
        """{name of a column: values}. Distinct for distinct levels, since each name has an end."""
        return {
            f"{level}_{field.name}": values
            for field in fields(self)
            if (values := getattr(self, field.name)) is not None
        }


@dataclass(frozen=True)
class Predictions:
    """The answers for each image. keys: N strings; levels: Answers per level, fine to coarse."""

    keys: np.ndarray
    levels: tuple[Answers, ...]


def table_of(path):
    """Path of the table of predictions that belongs to the result `path`."""
    return Path(path).with_suffix(".tsv")


def make_way(path):
    """Make the folder of a result.

    Raises UserError if NAME.json or NAME.tsv can't be written, or was not written by an evaluation.
    """
    for file, ours in ((Path(path), _is_result_file), (table_of(path), _is_table)):
        files.make_way(file)
        if file.exists() and not ours(file):
            raise UserError(f"{file} exists, and no evaluation wrote it: choose another --out")


def _is_result_file(path):
    try:
        return bool(read(path))
    except UserError:
        return False


def _is_table(path):
    with open(path, "rb") as file:
        return file.read(4) == b"key\t"


def write(path, result, predictions):
    """Write a Result and, before it, its Predictions."""
    columns = {"key": predictions.keys}
    for level, answers in zip(result.levels, predictions.levels):
        columns |= answers.columns(level.level)
    lines = ["\t".join(columns)]
    for row in zip(*(np.asarray(values).tolist() for values in columns.values())):
        lines.append(
            "\t".join(f"{value:.6f}" if isinstance(value, float) else str(value) for value in row)
        )
    table = ("\n".join(lines) + "\n").encode()
    content = to_json(replace(result, predictions_sha256=hashlib.sha256(table).hexdigest()))
    files.write_whole(table_of(path), table)
    files.write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read(path):
    """The Result in a file; raises UserError if it is not one."""
    content = read_json(path, "the result")
    return from_json(Result, content, f"{path} is not a result of tools/evaluate.py")


def read_predictions(path, result):
    """The Predictions beside the file `path` of a Result; None if that table is missing.

    Raises UserError if the table is not the one that was written with the result.
    """
    table = table_of(path)
    if not table.is_file():
        return None
    if result.predictions_sha256 is None:
        raise UserError(
            f"{path} was written by an earlier version, which did not record the table that it "
            "belongs to: evaluate again"
        )
    if files.sha256(table) != result.predictions_sha256:
        raise UserError(
            f"{table} is not the table that {path} was written with, as after an interrupted "
            "evaluation: evaluate again"
        )
    header, rows = read_table(table, "the table of predictions")
    try:
        if len(rows) != result.images:
            raise ValueError(f"{len(rows)} rows instead of {result.images}")
        columns = dict(zip(header, zip(*rows)))
        return Predictions(
            np.array(columns["key"]),
            tuple(_answers(level, columns) for level in result.levels),
        )
    except (ValueError, OverflowError) as error:
        raise UserError(f"{table} is not what tools/evaluate.py writes: {error}") from None
    except KeyError as error:
        raise UserError(f"{table} has no column {error}: evaluate again") from None


def _answers(level, columns):
    """Answers for a Level of the columns of a table."""
    wanted = {"true": int}
    if level.head:
        wanted |= {"predicted": int, "probability": float}
    if level.from_fine:
        wanted |= {"from_fine": int}
    return Answers(
        **{
            name: np.array(columns[f"{level.level}_{name}"], dtype=kind)
            for name, kind in wanted.items()
        }
    )
