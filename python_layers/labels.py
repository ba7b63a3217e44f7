"""The labels that a loss gets, one vector per level of the tree, checked."""

import numpy as np


def check_labels(labels, n):
    """The labels as integer vectors of n, from the fine level up.

    Raises ValueError unless they are whole numbers of at least 0 that describe one tree.
    """
    checked = []
    for level, values in enumerate(labels, 1):
        values = np.asarray(values).ravel()
        if len(values) != n:
            raise ValueError(f"label_{level} has {len(values)} values for {n} samples")
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
                f"{parent[first][inverse][i]} and {parent[i]}; the labels must form a tree")
    return checked


def pair_kinds(label):
    """(same, different): n x n booleans, the pairs (i, j), i != j, of one class and of two."""
    different = label[:, None] != label
    same = ~different
    np.fill_diagonal(same, False)
    return same, different
