"""The Min-Max objective of one batch and its gradient: NumPy or CuPy, no Caffe.

W. Shi, Y. Gong, J. Wang, "Improving CNN performance with min-max objective", IJCAI 2016, with the
two graphs of marginal Fisher analysis (S. Yan et al., "Graph embedding and extensions", PAMI 2007).
With features x_i, their classes y_i and a batch of n samples,

    L     = 1/n sum_{i,j=1..n} (GI_ij - GP_ij) |x_i - x_j|^2
    GI_ij = 1 if i in N_k1(j) or j in N_k1(i), else 0                           intrinsic graph
            N_k1(i): the k1 nearest samples to x_i among the others of its class
    GP_ij = 1 if (i, j) in zeta_k2(y_i) or (j, i) in zeta_k2(y_j), else 0       penalty graph
            zeta_k2(c): the k2 nearest pairs among {(i, j): y_i = c, y_j != c}
    dL/dX = 4/n (diag(G 1) - G) X  with  G = GI - GP

The sum counts each pair twice, as (i, j) and as (j, i). Where there are fewer than k1 samples or k2
pairs, all are taken; a batch of one class has no penalty graph. The graphs are those of the batch
and count as constants in the gradient, which is exact wherever no two distances tie at rank k1 or
k2. Equal distances are ranked by sample number, so results are repeatable.
"""

import numpy as np

from python_layers.backend import array_module, candidates, vector
from python_layers.labels import check_labels, number_classes, pair_kinds
from python_layers.pairwise import LossTerms, Pairwise, ranked


def diagnostic_names(levels):
    """Names of the entries of the diagnostics.

    `within` and `between` are the mean squared distances in the intrinsic and in the penalty graph,
    0 in an empty one; the others are the pairs in them.
    """
    return ["loss", "within", "between", "intrinsic_pairs", "penalty_pairs"]


def forward(features, labels, k1=5, k2=10, normalize=True):
    """The objective of one batch.

    features:  n x d, float32 or float64, finite.
    labels:    one vector of n whole numbers, in a list, as all losses take them.
    k1:        nearest neighbours of a sample in its class.
    k2:        nearest pairs of a class with the rest.
    normalize: L2-normalise the features first; distances are then in [0, 4]. The gradient is still
               with respect to the features given.
    Returns LossTerms; `diagnostic_names` names its diagnostics. Raises ValueError for features or
    labels that can't be used.
    """
    n = len(features)
    (labels,) = check_labels(labels, n)
    batch = Pairwise(features, normalize)
    same, different = pair_kinds(labels)
    xp = array_module(features)
    intrinsic = _nearest_graph(batch.distances, same, xp.arange(n), k1)
    penalty = _nearest_graph(batch.distances, different, number_classes(labels).of, k2)
    graph = (intrinsic.astype(np.float64) - penalty) / n
    loss = xp.vdot(graph, batch.distances)

    def diagnostics():
        pairs = [joined.sum() / 2 for joined in (intrinsic, penalty)]
        means = [_mean(batch.distances, joined) for joined in (intrinsic, penalty)]
        return vector([loss, *means, *pairs], features)

    return LossTerms(loss, batch.coefficients(2 * graph), diagnostics)


def _nearest_graph(distances, allowed, group, k):
    """Symmetric n x n: of the allowed pairs (i, j), the k nearest of each group, group[i].

    group: n whole numbers below n.
    """
    # Only the k nearest of a row can be among its group's k nearest: n k pairs to sort, not n^2.
    xp, n = array_module(distances), len(distances)
    distance = xp.where(allowed, distances, np.inf)
    last = min(k, n) - 1
    near = allowed & (distance <= xp.partition(distance, last, axis=1)[:, last, None])
    i, j = candidates(near)
    is_near = near[i, j]
    order, rank, _ = ranked(distance[i, j], xp.where(is_near, group[i], n), n + 1, "stable")
    chosen = xp.empty_like(is_near)
    chosen[order] = rank < k
    graph = xp.zeros_like(allowed)
    graph[i, j] = chosen & is_near
    return graph | graph.T


def _mean(distances, joined):
    """The mean of the distances of the pairs that are joined, 0 if there is none."""
    i, j = candidates(joined)
    pairs = array_module(distances).where(joined[i, j], distances[i, j], 0)
    return pairs.sum() / array_module(distances).maximum(joined.sum(), 1)
