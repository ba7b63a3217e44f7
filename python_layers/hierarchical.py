"""Softmax losses that use the label tree: hierarchical cross-entropy, soft labels, and the
conditional softmax along the tree. NumPy or CuPy, no Caffe.

L. Bertinetto, R. Mueller, K. Tertikas, S. Samangooei, N. Lord, "Making better mistakes: leveraging
class hierarchies with deep networks", CVPR 2020. p is the softmax of the fine scores f, P_l the
probability of y's ancestor at level l, the sum of p over its fine classes (P_0 = p_y, P_h = 1 at
the root), d(i, j) the height of the lowest common ancestor of two fine classes by that of the root.

    hierarchical cross-entropy   L = - sum_{l=0..h-1} lambda_l log(P_l / P_{l+1})
                                 lambda_l = e^{-alpha l}
        dL/df_i = - sum_l (lambda_l - lambda_{l-1}) (p(i | ancestor l) - p_i),  lambda_{-1} = 0
    soft labels                  L = - sum_i t_i log p_i,  t_i ~ e^{-beta d(y, i)}
        dL/df_i = p_i - t_i
    conditional softmax          L = - sum_{l=0..h-1} log p(y's class at l | its parent)
        with a softmax of the scores f^l of level l among the children of each node, as in YOLO9000
        (J. Redmon, A. Farhadi, CVPR 2017); p_i is the product along i's path
        dL/df^l_c = p(c | parent) - [c = y's class at l] for the siblings of y's class at l, else 0

All are means over the batch, in log space and float64.
"""

import numpy as np

from python_layers.backend import array_module
from python_layers.scores import (
    ScoreTerms,
    check_label,
    entries,
    float64,
    log_softmax,
    log_sum_exp,
    one_hot,
)


def cross_entropy(scores, labels, ancestors, alpha):
    """The hierarchical cross-entropy of one batch.

    scores:    [n x C].
    labels:    [n whole numbers], the fine classes.
    ancestors: C x h, the class of each fine class at each level; column 0 is 0..C-1.
    alpha:     at least 0; 0 is the cross-entropy.
    Returns scores.ScoreTerms. Raises ValueError for scores with nan or inf and labels that are not
    classes; on a GPU they are not checked.
    """
    (f,) = scores
    log_p = log_softmax(float64(f, 1))  # n x C
    label = check_label(labels[0], 1, f.shape[1])
    xp, n = array_module(log_p), len(log_p)
    p = xp.exp(log_p)
    loss, gradient, before = 0.0, xp.zeros_like(p), 0.0
    for level in range(ancestors.shape[1]):
        weight, before = np.exp(-alpha * level) - before, np.exp(-alpha * level)
        of_class = ancestors[:, level]  # C
        inside = of_class == of_class[label][:, None]  # n x C, below y's ancestor
        joint = xp.where(inside, log_p, -np.inf)
        log_ancestor = log_sum_exp(joint)  # n x 1, log P_l
        loss = loss - weight * log_ancestor.sum() / n
        gradient -= weight / n * (xp.exp(joint - log_ancestor) - p)
    return ScoreTerms(loss, [gradient], p)


def soft_labels(scores, labels, targets):
    """The cross-entropy with soft labels of one batch.

    scores, labels: as of cross_entropy.  targets: C x C, row y is t; each row sums to 1.
    """
    (f,) = scores
    log_p = log_softmax(float64(f, 1))  # n x C
    label = check_label(labels[0], 1, f.shape[1])
    xp, n = array_module(log_p), len(log_p)
    wanted = targets[label]  # n x C
    p = xp.exp(log_p)
    return ScoreTerms(-(wanted * log_p).sum() / n, [(p - wanted) / n], p)


def soft_targets(distances, beta):
    """C x C float64: e^{-beta d(y, i)}, normalized; distances: C x C in [0, 1]."""
    weights = np.exp(-beta * distances)
    return weights / weights.sum(axis=1, keepdims=True)


def conditional(scores, labels, ancestors, parents, children):
    """The conditional softmax of one batch.

    scores:    h arrays, n x C_l of the classes of level l.
    labels:    [n whole numbers], the fine classes.
    ancestors: C x h, the class of each fine class at each level; column 0 is 0..C-1.
    parents:   h vectors, the parent of each of the C_l classes; 0 for all at the coarsest level.
    children:  h arrays, P x K, the classes of each parent, and -1 for those that have fewer than K.
    """
    label = check_label(labels[0], 1, scores[0].shape[1])
    xp, n = array_module(scores[0]), len(scores[0])
    loss, gradients, log_p = 0.0, [], 0.0
    for level, (values, parent, of_parent) in enumerate(zip(scores, parents, children)):
        log_conditional = _among_siblings(float64(values, level + 1), parent, of_parent)  # n x C_l
        of_class = ancestors[:, level]  # C
        own = of_class[label]  # n, y's class at the level
        loss = loss - entries(log_conditional, own).sum() / n
        siblings = parent == parent[own][:, None]  # n x C_l
        gradient = siblings * xp.exp(log_conditional) - one_hot(own, len(parent))
        gradients.append(gradient / n)
        log_p = log_p + log_conditional[:, of_class]  # n x C
    return ScoreTerms(loss, gradients, xp.exp(log_p))


def conditional_marginals(scores, ancestors, parents, children):
    """log p of the classes of each level, for every sample: h arrays, n x C_l float64; arguments as
    of conditional. p of a class is the product of the conditional probabilities along its path."""
    levels = list(zip(scores, parents, children))
    found, above = [], 0.0  # log p of the level above, of the parent of each class
    for level in reversed(range(len(levels))):
        values, parent, of_parent = levels[level]
        found.append(above + _among_siblings(values.astype(np.float64), parent, of_parent))
        if level:
            above = found[-1][:, parents[level - 1]]
    return found[::-1]


def _among_siblings(values, parent, children):
    """log p(c | parent of c) of scores: n x C_l.

    parent: C_l numbers of parents.  children: P x K, the children of each, -1 where it has fewer.
    """
    xp = array_module(values)
    of_parent = xp.where(children >= 0, values[:, children], -np.inf)  # n x P x K
    return values - log_sum_exp(of_parent)[:, :, 0][:, parent]
