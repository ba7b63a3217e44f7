"""The worst confusions of a run, and the images on which two runs differ; by rows of the table."""

from dataclasses import dataclass

import numpy as np

from tools import scores
from tools.metrics import tree


@dataclass(frozen=True)
class Pair:
    """Images of one fine class that were predicted as another.

    true, predicted  names; images: how many; of: images of the true class; distance in the tree
    mistaken  rows of images predicted so, the surest first
    examples  rows of images of the predicted class, right and sure ones first
    """

    true: str
    predicted: str
    images: int
    of: int
    distance: int
    mistaken: tuple
    examples: tuple


def worst(run, pairs, photographs):
    """[Pair]: the most frequent confusions of fine classes, `pairs` of them at most.

    Of equally frequent ones, those of a larger share of their class come first, then those farther
    in the tree.
    """
    answers, hierarchy = run.predictions.levels[0], run.hierarchy
    classes = hierarchy.sizes[0]
    wrong = np.flatnonzero(answers.true != answers.predicted)
    codes, counts = np.unique(
        answers.true[wrong] * classes + answers.predicted[wrong], return_counts=True
    )
    true, predicted = codes // classes, codes % classes
    images = np.bincount(answers.true, minlength=classes)
    distance = tree.distance(hierarchy.labels, true, predicted)
    order = np.lexsort((codes, -distance, images[true], -counts))[:pairs]
    return [
        Pair(
            hierarchy.names[0][true[i]],
            hierarchy.names[0][predicted[i]],
            int(counts[i]),
            int(images[true[i]]),
            int(distance[i]),
            _surest(answers, wrong[_are(answers, wrong, true[i], predicted[i])], photographs),
            _examples(answers, predicted[i], photographs),
        )
        for i in order
    ]


def _are(answers, rows, true, predicted):
    return (answers.true[rows] == true) & (answers.predicted[rows] == predicted)


def _surest(answers, rows, count):
    """Rows of the highest probabilities first."""
    order = np.argsort(-answers.probability[rows], kind="stable")[:count]
    return tuple(rows[order].tolist())


def _examples(answers, number, count):
    """Rows of a class: right ones, the surest first, then others."""
    rows = np.flatnonzero(answers.true == number)
    right = rows[answers.predicted[rows] == number]
    others = rows[answers.predicted[rows] != number]
    return (_surest(answers, right, count) + tuple(others.tolist()))[:count]


@dataclass(frozen=True)
class Difference:
    """Fine answers of two runs on the same images.

    both, first, second, neither  numbers of images that are right; first: by the first run alone
    p              of McNemar's test
    first_rows, second_rows  rows that one alone has right, those it is surest of first
    """

    both: int
    first: int
    second: int
    neither: int
    p: float
    first_rows: tuple
    second_rows: tuple


def difference(first, second, photographs):
    """Difference of two runs; None if their tables are not of the same records."""
    if not np.array_equal(first.predictions.keys, second.predictions.keys):
        return None
    a, b = (run.predictions.levels[0] for run in (first, second))
    right = [one.true == one.predicted for one in (a, b)]
    only = [right[0] & ~right[1], right[1] & ~right[0]]
    return Difference(
        int((right[0] & right[1]).sum()),
        *(int(one.sum()) for one in only),
        int((~right[0] & ~right[1]).sum()),
        scores.mcnemar(*right),
        *(_surest(one, np.flatnonzero(rows), photographs) for one, rows in zip((a, b), only)),
    )
