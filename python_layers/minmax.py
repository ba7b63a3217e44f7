"""The Min-Max objective of one batch and its gradient: NumPy or CuPy, no Caffe.

W. Shi, Y. Gong, J. Wang, "Improving CNN performance with min-max objective", IJCAI 2016, with the
two graphs of marginal Fisher analysis (S. Yan et al., "Graph embedding and extensions", PAMI 2007).
With features x_i, their classes y_i and a batch of n samples,

    L     = 1/n sum_{i,j=1..n} (GI_ij - GP_ij) |x_i - x_j|^2
    GI_ij = 1 if i in N_k1(j) or j in N_k1(i), else 0                           intrinsic graph
            N_k1(i): the k1 nearest samples to x_i among the others of its class
    GP_ij = 1 if (i, j) in zeta_k2(y_i) or (j, i) in zeta_k2(y_j), else 0       penalty graph
            zeta_k2(c): the k2 nearest pairs among {(i, j): y_i = c, y_j != c}
            or, with k2_per "sample", if j in N'_k2(i) or i in N'_k2(j)
            N'_k2(i): the k2 nearest samples to x_i of other classes
    dL/dX = 4/n (diag(G 1) - G) X  with  G = GI - GP

The sum counts each pair twice, as (i, j) and as (j, i). Where there are fewer than k1 samples or k2
pairs, all are taken; a batch of one class has no penalty graph. The graphs are those of the batch
and count as constants in the gradient, which is exact wherever no two distances tie at rank k1 or
k2. Equal distances are ranked by sample number, so results are repeatable.
"""

import numpy as np

from python_layers.backend import active_indices, array_module
from python_layers.labels import check_labels, number_classes, pair_kinds
from python_layers.pairwise import GRADIENT_NORM, Pairwise, per_unordered_pair, ranked


def diagnostic_names(levels):
    """Names of the entries of the diagnostics.

    `within` and `between` are the mean squared distances in the intrinsic and in the penalty graph,
    0 in an empty one; the others are the numbers of pairs in them.
    """
    return ["loss", "within", "between", "intrinsic_pairs", "penalty_pairs", GRADIENT_NORM]


def forward(
    features,
    labels,
    k1=5,
    k2=10,
    k2_per="class",
    normalize=True,
    scale=1.0,
    anchors=None,
    gram=None,
):
    """The objective of one batch.

    features:  n x d, float32 or float64, finite.
    labels:    one vector of n whole numbers, in a list, as all losses take them.
    k1:        number of nearest neighbors of a sample in its class.
    k2:        number of nearest pairs of a class, or of a sample, with other classes.
    k2_per:    "class", as in marginal Fisher analysis and the authors' abstract, or "sample".
    normalize: scale the features to length `scale` first; distances are then in [0, 4 scale^2]. The
               gradient is still with respect to the features given.
    scale:     above 0; only with normalize.
    anchors:   r, number of samples, from the first, that are the current batch (memory.py): i is
               among them in N_k1(i) and zeta_k2(y_i), j is any sample, the mean is over r and the
               gradient is theirs. None: all samples.
    gram:      n x n float64, X X^T, if it is known.
    Returns LossTerms; `diagnostic_names` names its diagnostics. Raises ValueError for features or
    labels that can't be used.
    """
    (label,) = check_labels(labels, len(features))
    batch = Pairwise(features, normalize, scale, anchors, gram)
    xp, distances = array_module(features), batch.distances  # r x n
    rows = len(distances)
    same, different = pair_kinds(label, anchors)  # r x n
    intrinsic = _nearest_graph(distances, same, xp.arange(rows), k1)  # r x n, GI
    group = xp.arange(rows) if k2_per == "sample" else number_classes(label).of[:rows]  # r
    penalty = _nearest_graph(distances, different, group, k2)  # r x n, GP

    # A pair of two anchors is here twice, as (i, j) and as (j, i); one with a past sample once.
    once = xp.ones_like(distances)  # r x n, weights that count each pair once
    once[:, :rows] = 0.5
    weights = 2 * once * (intrinsic.astype(np.float64) - penalty) / rows  # r x n
    loss = xp.vdot(weights, distances)

    def diagnostics():
        graphs = [once * graph for graph in (intrinsic, penalty)]
        pairs = [graph.sum() for graph in graphs]
        sums = [(distances * graph).sum() for graph in graphs]
        means = [total / xp.maximum(count, 1) for total, count in zip(sums, pairs)]
        return [loss, *means, *pairs]

    return batch.terms(loss, per_unordered_pair(weights), diagnostics)


def _nearest_graph(distances, allowed, group, k):
    """r x n booleans, symmetric in the first r columns: of the allowed pairs (i, j), the k nearest
    of each group.

    group: r whole numbers below n, the group of i.
    """
    # Only the k nearest of a row can be among its group's k nearest: r k pairs to sort, not r n.
    xp, (rows, n) = array_module(distances), distances.shape
    distance = xp.where(allowed, distances, np.inf)
    last = min(k, n) - 1
    near = allowed & (distance <= xp.partition(distance, last, axis=1)[:, last, None])
    i, j = active_indices(near)
    is_near = near[i, j]
    order, rank, _ = ranked(distance[i, j], xp.where(is_near, group[i], n), n + 1, "stable")
    chosen = xp.empty_like(is_near)
    chosen[order] = rank < k
    graph = xp.zeros_like(allowed)
    graph[i, j] = chosen & is_near
    graph[:, :rows] = graph[:, :rows] | graph[:, :rows].T
    return graph
