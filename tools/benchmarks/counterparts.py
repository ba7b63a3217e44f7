"""Metric losses of other projects, in PyTorch on the CPU, to compare speed with.

pytorch-metric-learning has the contrastive and the triplet loss. It has neither GLM nor Min-Max,
which are compared with its multi-similarity loss: like them, it works on the nearest pairs of each
sample's own and other classes. The center loss, which it lacks, is Eq. (2) of Wen et al. in two
lines. Needs docker/requirements-compare.txt.
"""

import importlib.util
import os

from data_prep.common.cores import cores_of_process

PACKAGES = ["torch", "pytorch_metric_learning"]


def missing():
    """Names of the packages that are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def threads():
    """How many threads NumPy's OpenBLAS uses for a product."""
    for name in ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name, "").isdigit() and int(os.environ[name]):
            return int(os.environ[name])
    return cores_of_process()


def losses_of(features, fine, classes, parameters):
    """{name: function() -> gradient, n x d} of forward + backward, by the names of our losses.

    features: n x d float32.  fine: n whole numbers below `classes`.
    parameters: {name: dict} of ours; theirs get the same margins, and lengths normalized alike.
    """
    import torch
    from pytorch_metric_learning import losses, miners
    from pytorch_metric_learning.distances import LpDistance

    torch.set_num_threads(threads())
    x, y = torch.from_numpy(features).requires_grad_(), torch.from_numpy(fine)
    centers = torch.zeros(classes, features.shape[1])

    def distance(name, power):
        return LpDistance(normalize_embeddings=parameters[name]["normalize"], p=2, power=power)

    reach, margin = (parameters[name]["margin"] for name in ("contrastive", "triplet"))
    contrastive = losses.ContrastiveLoss(
        pos_margin=0, neg_margin=reach, distance=distance("contrastive", 1)
    )
    triplet = losses.TripletMarginLoss(margin, distance=distance("triplet", 2))
    semihard = miners.TripletMarginMiner(margin, "semihard", distance=distance("triplet", 2))
    similar = losses.MultiSimilarityLoss()
    near = miners.MultiSimilarityMiner()

    forward = {
        "glm": lambda: similar(x, y, near(x, y)),
        "contrastive": lambda: contrastive(x, y),
        "triplet": lambda: triplet(x, y, semihard(x, y)),
        "center": lambda: ((x - centers[y]) ** 2).sum() / 2 / len(x),
        "minmax": lambda: similar(x, y, near(x, y)),
    }

    def both(loss):
        x.grad = None
        loss().backward()
        return x.grad.numpy()

    return {name: lambda loss=loss: both(loss) for name, loss in forward.items()}
