"""Reads and writes an evaluation: NAME.json with the results, NAME.tsv with a row per image.

The JSON file carries the version of its format. Version 1 has accuracies only; results of 2 also
have the figures of tools/metrics, which are None in those of version 1.

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
from tools import features
from tools.metrics.calibration import Calibration
from tools.metrics.intervals import Bootstrap, Estimate
from tools.metrics.retrieval import Retrieval

VERSION = 2  # of the format; change it when a reader of the last one would misunderstand a file


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
    top               {k as text: share of the images whose true class is among the head's first k}
    top_of_sums       the same, by the sums of the fine probabilities below each class; only of
                      coarse levels
    calibration       of the head
    """

    level: str
    classes: int
    present: int
    head: Share | None = None
    from_fine: Share | None = None
    consistency: float | None = None
    top: dict[str, float] | None = None
    top_of_sums: dict[str, float] | None = None
    calibration: Calibration | None = None

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
class Decoding:
    """The answers of one way to decode, a class on each level.

    top1         per level, fine to coarse
    right_paths  share of the images with right answers on all levels
    valid_paths  share of the images whose answers are a path in the tree
    distance     mean distance in the tree of the fine answer from the true class (metrics.tree)
    precision, recall, f1  hierarchical, of the answers with their ancestors
    severity     mean distance over the images with a wrong fine answer; None if there are none
    """

    top1: tuple[float, ...]
    right_paths: Estimate
    valid_paths: Estimate
    distance: Estimate
    precision: Estimate
    recall: Estimate
    f1: Estimate
    severity: Estimate | None = None


@dataclass(frozen=True)
class Result:
    """The results of one net on one split of a data set.

    experiment   the solver's name without _solver
    levels       fine to coarse
    predictions_sha256  of the table; None in results of versions that did not record it
    version      of the format
    crops        of each image, whose probabilities are averaged
    decodings    {"own" (each level's classifier, or else the ancestor of the fine answer), "fine"
                 (the fine answer and its ancestors), "joint", "risk" (tools/recognition/decode.py):
                 Decoding}
    distance_at  {k as text: mean distance of the k likeliest fine classes from the true one}
    retrieval    Retrieval on the feature, per level
    bootstrap    how the intervals of Estimates were made
    features_sha256  of NAME_features.npy; None if it was not written
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
    version: int = VERSION
    crops: int = 1
    decodings: dict[str, Decoding] | None = None
    distance_at: dict[str, Estimate] | None = None
    retrieval: tuple[Retrieval, ...] | None = None
    bootstrap: Bootstrap | None = None
    features_sha256: str | None = None

    def __post_init__(self):
        names = [level.level for level in self.levels]
        if not names or len(set(names)) != len(names):
            raise ValueError("levels is empty or has two levels of one name")
        if self.images < 1:
            raise ValueError("images is not above 0")
        if (self.decodings is None) != (self.distance_at is None):
            raise ValueError("one of decodings and distance_at is missing")


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


def make_way(path, with_features=False):
    """Make the folder of a result.

    Raises UserError if NAME.json, NAME.tsv or, with features, NAME_features.npy can't be written,
    or was not written by an evaluation.
    """
    kinds = {Path(path): _is_result_file, table_of(path): _is_table}
    if with_features:
        kinds[features.path_of(path)] = features.is_features
    for file, ours in kinds.items():
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
    if isinstance(content, dict):
        version = content.setdefault("version", 1)
        if type(version) is int and not 1 <= version <= VERSION:
            raise UserError(
                f"{path} has format {version}, and these tools read 1 to {VERSION}: evaluate "
                "again, or use the tools that wrote it"
            )
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
