"""The generalized triplet loss (GTL) of one batch and its gradient: NumPy or CuPy, no Caffe.

X. Zhang, F. Zhou, Y. Lin, S. Zhang, "Embedding label structures for fine-grained feature
representation", CVPR 2016 (arXiv 1512.02895). In a tree of two levels, a quadruplet is a reference
r, a sample p+ of its fine class, a sample p- of another fine class of its parent, and a sample n of
another parent. With D_ij = |x_i - x_j|^2 of L2-normalized features and margins m_1 > m_2 > 0,

    D(r, p+) + m_1 < D(r, p-) + m_2 < D(r, n)
    E = 1/2 1/N sum [D(r, p+) - D(r, p-) + m_1 - m_2]_+  +  1/2 1/N sum [D(r, p-) - D(r, n) + m_2]_+

With h levels the others of r's batch fall into h + 1 groups: group 0 has r's fine class, group j
shares r's label of level j + 1 but not of level j, group h does not share that of level h. E is
half the sum of h links: link j is a triplet loss (triplet.py) with a positive of group j - 1, a
negative of group j and the margin m_j - m_{j+1} (m_{h+1} = 0).

The paper trains on sampled quadruplets; its sampling and its margins are not established. Here each
link mines its triplets in the batch, and N counts those of the link: an anchor without a positive
or a negative of a link is skipped in it, and counted as skipped. The choice of the triplets, and N,
are constants in the gradient.
"""

from python_layers.backend import array_module
from python_layers.labels import check_labels
from python_layers.pairwise import GRADIENT_NORM, Pairwise, per_unordered_pair
from python_layers.triplet import MINING, label_groups


def diagnostic_names(levels):
    """Names of the entries of the diagnostics for a tree of `levels` levels.

    For each link j, `active_j` is the share of its triplets whose hinge is above 0 (0 without any),
    `triplets_j` their number, and `skipped_j` the share of anchors that have none.
    """
    kinds = ("active", "triplets", "skipped")
    return [
        "loss",
        *(f"{kind}_{j}" for kind in kinds for j in range(1, levels + 1)),
        GRADIENT_NORM,
    ]


def forward(
    features,
    labels,
    margins,
    mining="semihard",
    normalize=True,
    scale=1.0,
    average="mined",
    anchors=None,
    gram=None,
):
    """The loss of one batch.

    features: n x d, float32 or float64, finite.
    labels:   h vectors of n whole numbers, from the fine level up.
    margins:  h numbers, m_1 > ... > m_h > 0, in squared feature distance.
    mining:   "all", "semihard" or "hard": the triplets of a link, as triplet.forward's.
    normalize: scale the features to length `scale` first; distances are then in [0, 4 scale^2]. The
              gradient is still with respect to the features given.
    scale:    above 0; only with normalize.
    average:  what N counts: all "mined" triplets of a link, or the "active" ones, whose hinge is
              above 0.
    anchors:  r, number of samples, from the first, that are the current batch (memory.py): the
              references are among them, p+, p- and n are any samples, and the gradient is theirs.
              None: all samples.
    gram:     n x n float64, X X^T, if it is known.
    Returns pairwise.LossTerms; `diagnostic_names` names its diagnostics. Raises ValueError for
    features, labels or margins that can't be used.
    """
    check_margins(margins, len(labels))
    labels = check_labels(labels, len(features))
    batch = Pairwise(features, normalize, scale, anchors, gram)
    xp, distances = array_module(features), batch.distances  # r x n
    groups = label_groups(labels, anchors)  # r x n, 0 .. h; h + 1 for the anchor itself

    found = MINING[mining](distances, groups, _differences(margins))
    factors = [  # 1/2 1/N of each link
        0.5 / xp.maximum(mined if average == "mined" else active, 1)
        for _, active, mined in found.links
    ]
    loss = sum(hinges * factor for (hinges, _, _), factor in zip(found.links, factors))

    def diagnostics():
        active = [active / xp.maximum(mined, 1) for _, active, mined in found.links]
        members = [(groups == j).any(axis=1) for j in range(len(labels) + 1)]
        skipped = [
            1 - (lower & upper).sum() / len(distances) for lower, upper in zip(members, members[1:])
        ]
        return [loss, *active, *(mined for _, _, mined in found.links), *skipped]

    return batch.terms(loss, per_unordered_pair(found.weights(factors)), diagnostics)


def check_margins(margins, levels):
    """Raises ValueError unless there is one margin per level and m_1 > ... > m_h > 0."""
    if len(margins) != levels:
        raise ValueError(
            f"{len(margins)} margins for {levels} label levels; give one margin per level"
        )
    if not all(larger > smaller for larger, smaller in zip(margins, [*margins[1:], 0])):
        raise ValueError(
            f"margins must fall from the fine level up and be above 0, not {list(margins)}"
        )


def _differences(margins):
    """m_j - m_{j+1}, with m_{h+1} = 0."""
    return [larger - smaller for larger, smaller in zip(margins, [*margins[1:], 0])]
