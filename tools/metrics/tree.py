"""Distances, paths and sets in a label tree whose levels are 0 = fine .. h - 1, below a root.

The height of a fine class is 0, that of a class of level j is j, and that of the root is h. The
*distance* of two fine classes is the height of their lowest common ancestor (LCA): 0 for the same
class, 1 for siblings, h where only the root is common. Classes differ on all levels below the LCA,
so the distance is the number of levels on which they differ.

Sources: Bertinetto, Mueller, Tertikas, Samangooei, Lord: Making Better Mistakes, CVPR 2020
(mistake severity, hierarchical distance @k); Kiritchenko, Matwin, Nock, Famili: Learning and
Evaluation in the Presence of Class Hierarchies, 2006, and Silla, Freitas: A survey of hierarchical
classification, 2011, Sec. 8 (hierarchical precision and recall).
"""

import numpy as np

KS = (1, 5, 20)  # of the distance @k


def distance(labels, a, b):
    """int64: heights of the LCAs of fine classes a and b, int arrays that broadcast.

    labels: int, C x h, Hierarchy.labels.
    """
    return (labels[a] != labels[b]).sum(axis=-1)


def distances_at(labels, true, best):
    """float64, N x len(ks): mean distance from the true class of the first k predictions.

    true: int, N; best: int, N x K, fine classes, likeliest first; ks: those of KS up to K.
    """
    found = distance(labels, best, true[:, None])  # N x K
    ks = [k for k in KS if k <= best.shape[1]]
    return np.stack([found[:, :k].mean(axis=1) for k in ks], axis=1)


def ancestors(labels, level):
    """int64, C(level) x h: ancestors of each class of a level on the levels from there on.

    Columns of finer levels hold -1.
    """
    found = np.full((labels[:, level].max() + 1, labels.shape[1]), -1)
    found[labels[:, level], level:] = labels[:, level:]
    return found


def valid_paths(labels, answers):
    """bool, N: whether each answer is the parent of the finer one. answers: int, N x h."""
    valid = np.ones(len(answers), bool)
    for level in range(labels.shape[1] - 1):
        up = ancestors(labels, level)[answers[:, level], level + 1]
        valid &= up == answers[:, level + 1]
    return valid


def overlaps(labels, answers, true):
    """(common, predicted, actual), int64 N each: sizes of the sets of hierarchical precision.

    predicted: the answers of all levels with all their ancestors; actual: the true classes, h of
    them; the root is left out. Precision is the sum of common over that of predicted, recall over
    that of actual. On valid paths, both are the share of right answers on all levels.
    answers, true: int, N x h.
    """
    count, levels = answers.shape
    common, predicted = np.zeros(count, np.int64), np.zeros(count, np.int64)
    up = np.stack([ancestors(labels, j)[answers[:, j]] for j in range(levels)])  # h x N x h
    for level in range(levels):
        named = np.sort(up[: level + 1, :, level], axis=0)  # classes of this level, N each
        predicted += 1 + (named[1:] != named[:-1]).sum(axis=0)
        common += (named == true[:, level]).any(axis=0)
    return common, predicted, np.full(count, levels)
