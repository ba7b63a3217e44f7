"""The bipartite-graph label (BGL) loss of one batch and its gradient: NumPy or CuPy, no Caffe.

F. Zhou, Y. Lin, "Fine-grained image classification by exploring bipartite-graph labels", CVPR 2016
(arXiv 1512.02665). Fine scores f, scores f^j of m further label sets (coarse levels, attributes)
and binary graphs G^j between fine classes i and their classes c define

    p(i, c_1..c_m) = 1/z e^{f_i} prod_j G^j_{i c_j} e^{f^j_{c_j}}
    A^j_i   = sum_c G^j_ic e^{f^j_c}
    p_i     = 1/z e^{f_i} prod_j A^j_i                            marginal of the fine class
    p(c|i)  = G^j_ic e^{f^j_c} / A^j_i
    p^j_c   = sum_i p_i p(c|i)                                    marginal of a further label
    p(i|c)  = p_i p(c|i) / p^j_c

    L = -log p_y - sum_j log p^j_{c_j}, averaged over the batch
    dL/df_i   = (1+m) p_i - [i=y] - sum_j p(i|c_j)
    dL/df^j_c = (1+m) p^j_c - p(c|y) - [c=c_j] - sum_{o != j} sum_i p(i|c_o) p(c|i)
              = sum_i (dL/df_i + p(i|c_j)) p(c|i) - [c=c_j]

In a tree each i has one c per level, A^j_i = e^{f^j_c}, and p is the softmax of the fine scores
plus those of the ancestors. Everything is computed in log space, in float64.
"""

import numpy as np

from python_layers.backend import array_module, on_host
from python_layers.scores import (
    ScoreTerms,
    check_label,
    entries,
    float64,
    log_softmax,
    log_sum_exp,
    one_hot,
)

# Most entries of an array samples x fine classes x further classes; larger batches go in parts.
CHUNK = 1 << 22


def forward(scores, labels, graphs):
    """The loss of one batch.

    scores: m + 1 arrays, n x C of the fine classes and n x C_j of the further label sets.
    labels: m + 1 vectors of n whole numbers: y, c_1 .. c_m.
    graphs: m arrays of booleans, C x C_j, that join each class to at least one.
    Returns scores.ScoreTerms. Raises ValueError for scores with nan or inf and for labels that are
    not classes or that no edge of the graph joins; on a GPU they are not checked.
    """
    scores = [float64(values, level) for level, values in enumerate(scores, 1)]
    labels = [
        check_label(values, level, score.shape[1])
        for level, (values, score) in enumerate(zip(labels, scores), 1)
    ]
    _check_edges(labels, graphs)
    n = len(scores[0])
    size = max([1, *(graph.size for graph in graphs)])
    rows = max(1, CHUNK // size)
    parts = [
        _sums(
            [each[at : at + rows] for each in scores], [y[at : at + rows] for y in labels], graphs
        )
        for at in range(0, n, rows)
    ]
    if len(parts) == 1:
        ((total, gradients, probabilities),) = parts
    else:
        concatenate = array_module(scores[0]).concatenate
        total = sum(part[0] for part in parts)
        gradients = [concatenate(arrays) for arrays in zip(*(part[1] for part in parts))]
        probabilities = concatenate([part[2] for part in parts])
    return ScoreTerms(total / n, [gradient / n for gradient in gradients], probabilities)


def probabilities(scores, graphs):
    """p_i of every sample: n x C float64."""
    xp = array_module(scores[0])
    log_a = [
        _edges(values.astype(np.float64), graph)[1] for values, graph in zip(scores[1:], graphs)
    ]
    return xp.exp(log_softmax(sum(log_a, scores[0].astype(np.float64))))


def _sums(scores, labels, graphs):
    """(sum of the losses, its gradients, p_i) of some samples."""
    xp, m = array_module(scores[0]), len(graphs)
    edges = [_edges(values, graph) for values, graph in zip(scores[1:], graphs)]
    log_p = log_softmax(sum((log_a for _, log_a in edges), scores[0]))  # n x C, log p_i
    fine = xp.exp(log_p)
    total = -entries(log_p, labels[0]).sum()
    of_fine = (1 + m) * fine - one_hot(labels[0], fine.shape[1])  # n x C

    given = []  # per label set p(i|c_j), n x C
    for (log_edges, _), label in zip(edges, labels[1:]):
        samples = xp.arange(len(label))
        joint = log_p + log_edges[samples, :, label]  # n x C, log p(i, c_j)
        log_marginal = log_sum_exp(joint)  # n x 1, log p^j_{c_j}
        total = total - log_marginal.sum()
        given.append(xp.exp(joint - log_marginal))
        of_fine -= given[-1]

    gradients = [of_fine]
    for (log_edges, _), label, of_label in zip(edges, labels[1:], given):
        along = (of_fine + of_label)[:, None] @ xp.exp(log_edges)  # n x 1 x C_j
        gradients.append(along[:, 0] - one_hot(label, log_edges.shape[2]))
    return total, gradients, fine


def _edges(values, graph):
    """(log p(c|i), n x C x C_j, -inf without an edge; log A_i, n x C) of scores n x C_j."""
    xp = array_module(values)
    joined = xp.where(graph, values[:, None], -np.inf)
    log_a = log_sum_exp(joined)  # n x C x 1
    return joined - log_a, log_a[:, :, 0]


def _check_edges(labels, graphs):
    if not on_host(labels[0]):
        return
    for level, (label, graph) in enumerate(zip(labels[1:], graphs), 2):
        apart = np.flatnonzero(~graph[labels[0], label])
        if len(apart):
            sample = apart[0]
            raise ValueError(
                f"label_1 of sample {sample} is class {labels[0][sample]}, which the graph does "
                f"not join to class {label[sample]} of label_{level}: labels and tree (or table of "
                "attributes) belong to different data sets"
            )
