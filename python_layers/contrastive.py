"""The contrastive loss of one batch and its gradient: NumPy or CuPy, no Caffe.

With d_ij = |x_i - x_j|, a margin m and P = n (n - 1) / 2 unordered pairs of n samples,

    L = 1 / (2 P) sum_{i < j} { d_ij^2             where i and j are of one class
                              { [m - d_ij]_+^2     where they are not

That is Caffe's ContrastiveLoss (legacy_version: false) over the list of all pairs of the batch, and
R. Hadsell, S. Chopra, Y. LeCun, "Dimensionality reduction by learning an invariant mapping", CVPR
2006, Eq. (4), whose factor 1/2 it keeps.

The hinge has a cusp at d_ij = 0, where its gradient is taken as 0 (Caffe's does the same), as it is
for features whose difference is within rounding or below 1e-12.
"""

from python_layers.backend import array_module
from python_layers.labels import check_labels, pair_kinds
from python_layers.pairwise import GRADIENT_NORM, SHORTEST, Pairwise, per_unordered_pair

# Two float32 features that differ by less than this share of their length differ by rounding: the
# direction from one to the other is unknown.
APART = 1e-6


def diagnostic_names(levels):
    """Names of the entries of the diagnostics.

    `active` is the share of pairs of different classes that are inside the margin; `same` and
    `different` are the mean distances d (not squared) of the two kinds. 0 without such a pair.
    """
    return ["loss", "active", "same", "different", GRADIENT_NORM]


def forward(
    features,
    labels,
    margin=1.0,
    normalize=False,
    scale=1.0,
    average="pairs",
    anchors=None,
    gram=None,
):
    """The loss of one batch.

    features: n x d, float32 or float64, finite.
    labels:   one vector of n whole numbers, in a list.
    margin:   m, at least 0; a distance, not a squared one.
    normalize: scale the features to length `scale` first; d is then in [0, 2 scale]. The gradient
              is still with respect to the features given.
    scale:    above 0; only with normalize.
    average:  "pairs" as above; "kinds" takes the mean over pairs of one class and the mean over
              pairs of different classes, each with the factor 1/2, and adds the two.
    anchors:  number of samples, from the first, that are the current batch (memory.py): the sum is
              over the pairs with i among them and any j, and the gradient is theirs. None: all.
    gram:     n x n float64, X X^T, if it is known.
    Returns LossTerms; `diagnostic_names` names its diagnostics. Raises ValueError for features or
    labels that can't be used.
    """
    (label,) = check_labels(labels, len(features))
    batch = Pairwise(features, normalize, scale, anchors, gram)
    xp = array_module(features)

    # All arrays are r x n. Each pair of two anchors is in them, and in the counts, twice.
    same, different = pair_kinds(label, anchors)
    distance = xp.sqrt(batch.distances)
    gap = xp.where(different, xp.maximum(margin - distance, 0), 0)

    pairs = [kind.sum() for kind in (same, different)]
    counts = pairs if average == "kinds" else [pairs[0] + pairs[1]] * 2
    of_same, of_different = (1 / xp.maximum(count, 1) for count in counts)
    loss = (of_same * (batch.distances * same).sum() + of_different * (gap**2).sum()) / 2

    # d([m - d]_+^2) / d(d^2) = -[m - d]_+ / d, and 0 for pairs too close to have a direction.
    rounding = APART**2 * (batch.squares[:anchors][:, None] + batch.squares)
    apart = batch.distances > xp.maximum(rounding, SHORTEST**2)
    slope = xp.where(apart, gap / xp.where(apart, distance, 1), 0)
    affinity = per_unordered_pair((of_same * same - of_different * slope) / 2)

    def diagnostics():
        means = [
            (distance * kind).sum() / xp.maximum(count, 1)
            for kind, count in zip((same, different), pairs)
        ]
        return [loss, (gap > 0).sum() / xp.maximum(pairs[1], 1), *means]

    return batch.terms(loss, affinity, diagnostics)
