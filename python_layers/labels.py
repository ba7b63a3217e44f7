"""The labels that a loss gets, one vector per level of the tree, checked."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from python_layers.backend import array_module, diagonal, on_host


def check_labels(labels, n):
    """The labels as integer vectors of n, from the fine level up.

    Raises ValueError unless they are whole numbers of at least 0 that describe one tree. What a
    label on a GPU holds is not looked at.
    """
    labels = [_vector(values) for values in labels]
    for level, values in enumerate(labels, 1):
        if len(values) != n:
            raise ValueError(f"label_{level} has {len(values)} values for {n} samples")
    if not all(on_host(values) for values in labels):
        return [values.astype(np.int64) for values in labels]
    return _checked(labels)


def _vector(values):
    return (values if hasattr(values, "ravel") else np.asarray(values)).ravel()


def _checked(labels):
    checked = []
    for level, values in enumerate(labels, 1):
        with np.errstate(invalid="ignore"):  # of nan and inf, which the next line refuses
            integers = values.astype(np.int64)
        if not np.array_equal(integers, values) or (integers < 0).any():
            raise ValueError(f"label_{level} must hold whole numbers of at least 0")
        checked.append(integers)
    for level, (child, parent) in enumerate(zip(checked, checked[1:]), 1):
        _, first, inverse = np.unique(child, return_index=True, return_inverse=True)
        bad = np.flatnonzero(parent != parent[first][inverse])
        if len(bad):
            i = bad[0]
            raise ValueError(
                f"class {child[i]} of label_{level} has two parents in label_{level + 1}, "
                f"{parent[first][inverse][i]} and {parent[i]}; the labels must form a tree"
            )
    return checked


@dataclass(frozen=True)
class Classes:
    """The classes of a batch, numbered in the order of their labels.

    of:      n numbers, each sample's class.
    first:   per number a sample of that class, the first one.
    present: per number whether there is such a class. On the host all are, and there are as many
             numbers as classes. On a GPU there are n: the classes are those numbers of which there
             is a sample, and where there is none, `first` is some sample of another class.
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


def pair_kinds(label):
    """(same, different): n x n booleans, the pairs (i, j), i != j, of one class and of two."""
    different = label[:, None] != label
    same = ~different
    diagonal(same)[...] = False
    return same, different
