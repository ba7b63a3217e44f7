"""Labels of a batch, one vector per level of the tree: checks, numbering of classes, pairs."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from python_layers.backend import array_module, diagonal, on_host

# Largest label: float32, the type of Caffe's blobs, represents all whole numbers up to this one.
LARGEST_LABEL = 2**24

KINDS = "biuf"  # of NumPy's types that can hold whole numbers


def check_labels(labels, n, classes=None):
    """The labels as int64 vectors of n, from the fine level up.

    labels:  one vector per level, from the fine level up.
    n:       number of samples.
    classes: number of fine classes, if it is known.
    Raises ValueError unless the labels are whole numbers from 0 to LARGEST_LABEL that describe one
    tree and the fine ones are below `classes`. Values on a GPU are not checked.
    """
    labels = [_vector(values) for values in labels]
    for level, values in enumerate(labels, 1):
        if len(values) != n:
            raise ValueError(f"label_{level} has {len(values)} values for {n} samples")
    if not all(on_host(values) for values in labels):
        return [values.astype(np.int64) for values in labels]
    labels = _all_whole(labels)
    if classes is not None and labels[0].max(initial=0) >= classes:
        raise ValueError(
            f"label_1 holds class {labels[0].max()}, but there are only {classes} classes, "
            "numbered from 0; correct the layer's number of classes or the labels"
        )
    _check_tree(labels)
    return list(labels)


def _vector(values):
    return (values if hasattr(values, "ravel") else np.asarray(values)).ravel()


def _all_whole(labels):
    """whole_numbers of every level: h x n."""
    if all(values.dtype.kind in KINDS for values in labels):
        together = np.array(labels)  # checked at once, since a check costs more than its numbers
        if _are_whole(together).all():
            return together.astype(np.int64)
    return np.array([whole_numbers(values, level) for level, values in enumerate(labels, 1)])


def whole_numbers(values, level):
    """The labels of a level, an array on the host, as int64. Raises ValueError as check_labels."""
    if values.dtype.kind not in KINDS:
        raise ValueError(f"label_{level} must hold whole numbers, not {values.dtype.name} values")
    valid = _are_whole(values)
    if not valid.all():
        sample = np.flatnonzero(~valid)[0]
        raise ValueError(
            f"label_{level} must hold whole numbers of at least 0 and at most {LARGEST_LABEL}, "
            f"but sample {sample} has {values[sample]:g}"
        )
    return values.astype(np.int64)


def _are_whole(values):
    with np.errstate(invalid="ignore"):  # the comparison is false for nan
        return (values >= 0) & (values <= LARGEST_LABEL) & (np.floor(values) == values)


def _check_tree(labels):
    """labels: h x n int64."""
    if len(labels) == 1 or _is_tree(labels):
        return
    for level, (child, parent) in enumerate(zip(labels, labels[1:]), 1):
        _, first, inverse = np.unique(child, return_index=True, return_inverse=True)
        bad = np.flatnonzero(parent != parent[first][inverse])
        if len(bad):
            i = bad[0]
            raise ValueError(
                f"class {child[i]} of label_{level} has two parents in label_{level + 1}, "
                f"{parent[first][inverse][i]} and {parent[i]}; the labels must form a tree"
            )


def _is_tree(labels):
    order = np.argsort(labels[:-1], axis=1)  # h - 1 x n
    levels = np.arange(len(order))[:, None]
    child, parent = labels[levels, order], labels[levels + 1, order]
    return not ((child[:, 1:] == child[:, :-1]) & (parent[:, 1:] != parent[:, :-1])).any()


@dataclass(frozen=True)
class Classes:
    """The C classes of a batch, numbered in the order of their labels.

    of:      n numbers, the class of each sample.
    first:   C sample numbers, the first sample of each class.
    present: C booleans, whether the batch has a sample of the class. On the host C is the number of
             classes in the batch, and all are present. On a GPU, where that number is unknown,
             C = n; `first` of an absent class is a sample of another class.
    """

    of: Any
    first: Any
    present: Any


def number_classes(label):
    """The Classes of a vector of labels."""
    if on_host(label):
        _, first, of = np.unique(label, return_index=True, return_inverse=True)
        return Classes(of, first, np.ones(len(first), bool))
    xp = array_module(label)
    order = xp.argsort(label, kind="stable")
    of = xp.searchsorted(label[order], label)  # samples of lower labels
    return Classes(of, order, of[order] == xp.arange(len(order)))


def pair_kinds(label, anchors=None):
    """(same, different): booleans, the pairs (i, j), i != j, of one class and of two classes.

    Both are n x n, or r x n for i among the first r = `anchors` samples.
    """
    different = label[:anchors][:, None] != label
    same = ~different
    diagonal(same)[...] = False
    return same, different
