"""The label tree as the page draws it: nodes, depth first, and what each run says of them."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tree:
    """Nodes coarse to fine, depth first, so that the nodes below one follow it.

    names, levels, parents  per node; level 0 = fine; parent -1 for those of the coarsest level
    number  {(level, class): node}
    fine    per fine class its node
    images  int, nodes: test images below each
    """

    names: list
    levels: list
    parents: list
    number: dict
    fine: list
    images: np.ndarray


def tree(hierarchy, true):
    """Tree of a Hierarchy. true: int, N x h, labels of the images.

    Classes of one parent stay in their order of ids.
    """
    names, levels, parents, number = [], [], [], {}
    depth = len(hierarchy.levels)
    order = np.lexsort(hierarchy.labels.T)  # by the coarsest level, then the next ...
    for row in hierarchy.labels[order].tolist():
        parent = -1
        for level in range(depth - 1, -1, -1):
            node = number.get((level, row[level]))
            if node is None:
                node = number[level, row[level]] = len(names)
                names.append(hierarchy.names[level][row[level]])
                levels.append(level)
                parents.append(parent)
            parent = node
    images = np.zeros(len(names), np.int64)
    for level in range(depth):
        counts = np.bincount(true[:, level], minlength=hierarchy.sizes[level])
        for i, count in enumerate(counts.tolist()):
            images[number[level, i]] = count
    fine = [number[0, c] for c in range(hierarchy.sizes[0])]
    return Tree(names, levels, parents, number, fine, images)


def recalls(shown, run):
    """(of the node's own level, of the fine classes in it), float per node, nan without images.

    run: evaluated.Evaluated. The own level's answer is that of its classifier, or of the ancestor
    of the fine answer where it has none.
    """
    own, fine = np.full(len(shown.names), np.nan), np.full(len(shown.names), np.nan)
    first = run.predictions.levels[0]
    fine_right = first.true == first.predicted
    for level, answers in enumerate(run.predictions.levels):
        said = answers.from_fine if answers.predicted is None else answers.predicted
        size = run.hierarchy.sizes[level]
        images = np.bincount(answers.true, minlength=size)
        for values, right in ((own, said == answers.true), (fine, fine_right)):
            sums = np.bincount(answers.true, right, size)
            for i in np.flatnonzero(images).tolist():
                values[shown.number[level, i]] = sums[i] / images[i]
    return own, fine


def confusions(shown, run):
    """[true node, predicted node, images] of fine classes, one after the other in one list."""
    answers, classes = run.predictions.levels[0], run.hierarchy.sizes[0]
    pairs, counts = np.unique(answers.true * classes + answers.predicted, return_counts=True)
    fine = np.array(shown.fine)
    return (
        np.stack([fine[pairs // classes], fine[pairs % classes], counts], axis=1).ravel().tolist()
    )
