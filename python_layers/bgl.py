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
plus those of the ancestors. A label set whose c_j is not known of any sample, such as attributes
that are known of classes only, has no term: it is summed over, as in p_i, and its scores learn
through the A^j of the other terms. Everything is computed in log space, in float64.
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
    labels: up to m + 1 vectors of n whole numbers: y, c_1 ..; the last may be unknown.
    graphs: m arrays of booleans, C x C_j, that join each class to at least one; or, where each is
            joined to one alone, as in a tree, vectors of C classes of the set: faster.
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
    rows = _rows(graphs)
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


def log_marginals(scores, graphs):
    """log p_i and log p^j_c of every sample: m + 1 arrays, n x C and n x C_j float64."""
    n, xp = len(scores[0]), array_module(scores[0])
    graphs = [
        graph[:, None] == xp.arange(values.shape[1]) if graph.ndim == 1 else graph
        for graph, values in zip(graphs, scores[1:])
    ]
    rows = _rows(graphs)
    parts = [
        _log_marginals([each[at : at + rows].astype(np.float64) for each in scores], graphs)
        for at in range(0, n, rows)
    ]
    if len(parts) == 1:
        return parts[0]
    return [xp.concatenate(arrays) for arrays in zip(*parts)]


def _rows(graphs):
    """Samples of a part."""
    return max(1, CHUNK // max([1, *(graph.size for graph in graphs)]))


def _log_marginals(scores, graphs):
    edges = [_edges(values, graph) for values, graph in zip(scores[1:], graphs)]
    log_p = log_softmax(sum((log_a for _, log_a in edges), scores[0]))  # n x C
    of_sets = [
        log_sum_exp(log_p[:, :, None] + log_edges, axis=1)[:, 0]  # n x C_j
        for log_edges, _ in edges
    ]
    return [log_p, *of_sets]


def _sums(scores, labels, graphs):
    """(sum of the losses, its gradients, p_i) of some samples."""
    xp = array_module(scores[0])
    sets = [
        (_One if graph.ndim == 1 else _Many)(values, graph)
        for values, graph in zip(scores[1:], graphs)
    ]
    log_p = log_softmax(sum((one.log_a for one in sets), scores[0]))  # n x C, log p_i
    fine = xp.exp(log_p)
    total = -entries(log_p, labels[0]).sum()
    of_fine = len(labels) * fine - one_hot(labels[0], fine.shape[1])  # n x C

    given = []  # per label set with known labels p(i|c_j), n x C
    for one, label in zip(sets, labels[1:]):
        joint = log_p + one.log_given(label)  # n x C, log p(i, c_j)
        log_marginal = log_sum_exp(joint)  # n x 1, log p^j_{c_j}
        total = total - log_marginal.sum()
        given.append(xp.exp(joint - log_marginal))
        of_fine -= given[-1]

    gradients = [of_fine]
    for j, one in enumerate(sets):
        of_set = of_fine + given[j] if j < len(given) else of_fine
        known = one_hot(labels[j + 1], one.classes) if j < len(given) else 0
        gradients.append(one.expected(of_set) - known)  # n x C_j
    return total, gradients, fine


class _Many:
    """A label set of n x C_j scores; a graph C x C_j. log_a: n x C, log A_i."""

    def __init__(self, values, graph):
        self.classes = values.shape[1]
        self._log_edges, self.log_a = _edges(values, graph)

    def log_given(self, label):
        """log p(c|i) of the label c of each sample: n x C."""
        samples = array_module(label).arange(len(label))
        return self._log_edges[samples, :, label]

    def expected(self, of_fine):
        """sum_i of_fine_i p(c|i): n x C_j; of_fine: n x C."""
        return (of_fine[:, None] @ array_module(of_fine).exp(self._log_edges))[:, 0]


class _One:
    """The same where each fine class is joined to one class: a vector of C."""

    def __init__(self, values, of_class):
        self.classes, self._of_class = values.shape[1], of_class
        self.log_a = values[:, of_class]

    def log_given(self, label):
        xp = array_module(label)
        return xp.where(self._of_class == label[:, None], 0.0, -np.inf)

    def expected(self, of_fine):
        return of_fine @ one_hot(self._of_class, self.classes)


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
        joined = graph[labels[0]] == label if graph.ndim == 1 else graph[labels[0], label]
        apart = np.flatnonzero(~joined)
        if len(apart):
            sample = apart[0]
            raise ValueError(
                f"label_1 of sample {sample} is class {labels[0][sample]}, which the graph does "
                f"not join to class {label[sample]} of label_{level}: labels and tree (or table of "
                "attributes) belong to different data sets"
            )
