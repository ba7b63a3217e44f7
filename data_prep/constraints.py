"""Counts, from labels alone, which terms of the large-margin loss are defined in a batch.

The terms are those of python_layers/glm.py. The within-class scatter D_W of Eq. (5) needs two
images of its class, M1 of Eq. (9) a class that shares the parent, and Mj of Eqs. (10) and (15),
j = 2..h, a class that shares the j-th ancestor and one that does not. With a single level, M1 needs
any other class.
"""

import numpy as np


def names(levels):
    """Names of the terms for a tree of `levels` levels, in the order of `defined`."""
    return ["D_W", *(f"M{j}" for j in range(1, levels + 1))]


def defined(labels):
    """labels: images x h, from the fine level up. Returns (fine classes present, booleans of
    present classes x (h + 1)): whether D_W, M1, ..., Mh are defined for each class.
    """
    classes, first, images = np.unique(labels[:, 0], return_index=True, return_counts=True)
    rows, terms = labels[first], [images > 1]
    for level in range(1, rows.shape[1]):
        _, group, sizes = np.unique(rows[:, level], return_inverse=True, return_counts=True)
        alike = sizes[group]  # present classes that share the ancestor, the class itself included
        if level == 1:
            terms.append(alike > 1)
        terms.append((alike > 1) & (alike < len(rows)))
    if rows.shape[1] == 1:
        terms.append(np.full(len(rows), len(rows) > 1))
    return classes, np.stack(terms, axis=1)


def shares(labels, batch):
    """How often the terms are defined in the batches that a Data layer forms of records in order.

    labels: records x h; batch: records per batch. Records after the last full batch are ignored,
    unless there is no full batch.

    Returns a dict of shares of the (class, batch) pairs in which the class is present: "all" terms
    are defined; the "tree" allows them, i.e. all would be defined if the whole training set were
    one batch; and each term by its name.
    """
    classes, possible = defined(labels)
    possible = dict(zip(classes.tolist(), possible.all(axis=1).tolist()))
    found, allowed = [], []
    whole = len(labels) // batch * batch or len(labels)
    for start in range(0, whole, batch):
        classes, terms = defined(labels[start : min(start + batch, whole)])
        found.append(terms)
        allowed += [possible[c] for c in classes.tolist()]
    found = np.concatenate(found)
    result = {"all": found.all(axis=1).mean(), "tree": np.mean(allowed)}
    result.update(zip(names(labels.shape[1]), found.mean(axis=0)))
    return {name: round(float(share), 4) for name, share in result.items()}
