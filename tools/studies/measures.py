"""Figures of an evaluation that a study's table can show beside the accuracies."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A figure of a results.Result.

    of       function: Result -> float, or None where the figure is not defined
    better   HIGHER or LOWER
    meaning  in a sentence below the table, without its end
    percent  whether it is a share in 0..1, shown in percent
    """

    of: Callable
    better: str
    meaning: str
    percent: bool = False


HIGHER, LOWER = "higher", "lower"


def _severity(result):
    found = result.decodings["own"].severity
    return found and found.value


def _hierarchical_distance(result):
    return result.decodings["own"].distance.value


def _valid_paths(result):
    if sum(level.head is not None for level in result.levels) < 2:
        return None  # the ancestors of a single classifier's answer are a path by definition
    return result.decodings["own"].valid_paths.value


def _recall_at_1(result):
    fine = result.levels[0].level
    found = [one.recall["1"].value for one in result.retrieval or () if one.level == fine]
    return found[0] if found else None


def _ece(result):
    found = result.levels[0].calibration
    return found and found.ece.value


MEASURES = {
    "severity": Measure(
        _severity,
        LOWER,
        "mean height of the lowest common ancestor of the true and the predicted fine class over "
        "the mistakes, 1 for siblings",
    ),
    "hierarchical_distance": Measure(
        _hierarchical_distance, LOWER, "the same over all images, 0 for a right answer"
    ),
    "valid_paths": Measure(
        _valid_paths,
        HIGHER,
        "percent of the images for which the answers of all classifiers are a path in the tree; "
        "of nets with two or more classifiers",
        percent=True,
    ),
    "recall@1": Measure(
        _recall_at_1,
        HIGHER,
        "percent of the images whose nearest neighbor, by the cosine of the feature, is of their "
        "fine class",
        percent=True,
    ),
    "ece": Measure(
        _ece, LOWER, "expected calibration error of the fine classifier, in percent", percent=True
    ),
}


def measured(result):
    """{name: value, or None where it is not defined} of all MEASURES of a results.Result."""
    return {name: measure.of(result) for name, measure in MEASURES.items()}
