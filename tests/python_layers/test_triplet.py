"""The maths of the triplet loss: reference, finite differences, other implementations."""

import tracemalloc

import numpy as np
import pytest
from batches import numeric_gradient, random_batch, steady_batch, triplet_choice
from metric_references import triplet as reference, triplets
from scipy.spatial.distance import cdist

from python_layers import triplet

pytestmark = pytest.mark.filterwarnings("error")

MININGS = ["all", "semihard", "hard"]
RAW = {"normalize": False, "margin": 5.0}  # distances of random_batch are about 20
SPHERE = {"normalize": True, "margin": 0.4}  # about 2


def batch(seed, samples=24, classes=8, scale=1.0):
    features, labels, _ = random_batch(seed, 1, samples, classes, scale=scale)
    return features, labels[0]


def assert_same(features, labels, tolerance=1e-4, **options):
    terms = triplet.forward(features, [labels], **options)
    loss, expected = reference(features, labels, **options)
    assert terms.loss == pytest.approx(loss, rel=tolerance)
    assert np.abs(terms.gradient(features) - expected).max() <= tolerance * np.abs(expected).max()
    return terms


@pytest.mark.parametrize("average", ["active", "mined"])
@pytest.mark.parametrize("options", [RAW, SPHERE, {"normalize": False, "margin": 0.0}])
@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_reference(seed, mining, options, average):
    features, labels = batch(seed)
    features[:6] += 2  # so that some anchors have all their negatives nearer than a positive
    terms = assert_same(features, labels, mining=mining, average=average, **options)
    assert terms.loss > 0 or (mining == "semihard" and not options["margin"])


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("samples, classes", [(1, 1), (2, 1), (6, 1), (6, 600), (40, 5)])
def test_batches_of_any_make_up_and_scale(samples, classes, scale, mining):
    """One sample, one pair, one class, all classes distinct, many per class."""
    features, labels = batch(5, samples, classes, scale)
    assert_same(features, labels, mining=mining, normalize=False, margin=5 * scale**2)
    assert_same(features, labels, mining=mining, normalize=True)


@pytest.mark.parametrize("average", ["active", "mined"])
@pytest.mark.parametrize("options", [RAW, SPHERE])
@pytest.mark.parametrize("mining", MININGS)
def test_gradient_is_the_derivative(mining, options, average):
    options = {**options, "mining": mining, "average": average}
    features, labels = steady_batch(1e-6, 1, triplet_choice(**options))
    features = features.astype(np.float64)
    gradient = triplet.forward(features, labels, **options).gradient(features)
    numeric = numeric_gradient(lambda x: triplet.forward(x, labels, **options).loss, features, 1e-6)
    assert gradient == pytest.approx(numeric, abs=1e-6 * np.abs(gradient).max())


@pytest.mark.parametrize("mining", MININGS)
def test_ties_and_duplicate_features_give_no_nan_and_no_warning(mining):
    """Distances 0, 1, 2 and 4 only, all of them often: hinges of exactly 0, equal candidates."""
    features = np.tile(np.array([[0, 0], [1, 0], [0, 1], [2, 0]], np.float32), (4, 1))
    labels = np.arange(16) // 2 % 3
    for margin in (0, 1, 2):
        mean = triplet.forward(features, [labels], margin, mining, normalize=False)
        assert mean.loss == pytest.approx(
            reference(features, labels, margin=margin, mining=mining)[0]
        )
        sphere = triplet.forward(features, [labels], margin, mining)
        assert np.isfinite(sphere.gradient(features)).all()
    ones = np.ones((6, 3), np.float32)
    same = triplet.forward(ones, [[0, 0, 1, 1, 2, 2]], 0.2, mining)
    assert same.loss == pytest.approx(0.2)
    assert same.gradient(ones) == pytest.approx(np.zeros_like(ones), abs=1e-6)


def test_a_negative_as_far_as_the_positive_but_for_rounding_is_not_semihard():
    """From the anchor at 0, the positive and a negative are at 1 and 1 + 4e-16, the other at 2."""
    features = np.array([[0.0], [1.0], [-1.0 - 4e-16], [2.0]])
    terms = triplet.forward(features, [[0, 0, 1, 1]], 4, normalize=False, average="mined")
    of_zero, of_one = 1 - 4 + 4, 1 - 4 + 4  # D_ap - D_an + m; at 1, the negatives are at 4 and 1
    of_two, of_minus_one = 9 - 4 + 4, 9 - 4 + 4  # all negatives are nearer
    assert terms.loss == pytest.approx((of_zero + of_one + of_two + of_minus_one) / 4)


@pytest.mark.parametrize("features", [np.zeros((4, 3), np.float32), np.eye(4, dtype=np.float32)])
@pytest.mark.parametrize("mining", MININGS)
def test_zero_features_have_no_direction(mining, features):
    terms = triplet.forward(features, [[0, 0, 1, 1]], 0.3, mining)
    assert terms.loss == pytest.approx(0.3) and np.isfinite(terms.gradient(features)).all()


@pytest.mark.parametrize("mining", MININGS)
def test_diagnostics(mining):
    features, labels = batch(1)
    terms = triplet.forward(features, [labels], mining=mining, **RAW)
    square = cdist(features.astype(np.float64), features.astype(np.float64), "sqeuclidean")
    same = labels[:, None] == labels
    a, p, n = np.array(triplets(features.astype(np.float64), labels, mining)).T
    hinge = square[a, p] - square[a, n] + RAW["margin"]
    named = dict(zip(triplet.diagnostic_names(1), terms.diagnostics(), strict=True))
    assert named == pytest.approx(
        {
            "loss": terms.loss,
            "active": (hinge > 0).mean(),
            "triplets": len(a),
            "positive": square[same & ~np.eye(len(same), dtype=bool)].mean(),
            "negative": square[~same].mean(),
            "gradient_norm": np.linalg.norm(terms.gradient(features)),
        }
    )


def test_scipys_distances_give_the_same_loss():
    features, labels = batch(2)
    square = cdist(features.astype(np.float64), features.astype(np.float64), "sqeuclidean")
    hinges = square[:, :, None] - square[:, None, :] + 5
    same = labels[:, None] == labels
    valid = (same & ~np.eye(len(same), dtype=bool))[:, :, None] & ~same[:, None, :]
    terms = triplet.forward(features, [labels], mining="all", average="mined", **RAW)
    assert terms.loss == pytest.approx(np.maximum(hinges[valid], 0).mean())


def test_memory_of_all_triplets_is_quadratic():
    """n = 256 has 256^3 = 17 million (a, p, n): 134 MB in float64; the n x n arrays are 0.5 MB."""
    features, labels = batch(0, 256, 16)
    tracemalloc.start()
    triplet.forward(features, [labels], mining="all")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 256**2 * 8 + 2**23  # the second: scratch of the Gram matrix


@pytest.mark.parametrize("options", [RAW, SPHERE])
@pytest.mark.parametrize("mining", MININGS)
def test_torchs_loss_on_the_mined_triplets_gives_the_same(mining, options):
    torch = pytest.importorskip("torch", reason="torch, which this compares with, is not installed")
    features, labels = batch(3)
    x = torch.tensor(features, dtype=torch.float64, requires_grad=True)
    y = torch.nn.functional.normalize(x) if options["normalize"] else x
    a, p, n = np.array(triplets(y.detach().numpy(), labels, mining)).T
    loss = torch.nn.TripletMarginWithDistanceLoss(
        distance_function=lambda u, v: ((u - v) ** 2).sum(dim=1), margin=options["margin"]
    )(y[a], y[p], y[n])
    compare(features, labels, loss, x, mining=mining, average="mined", **options)


@pytest.mark.parametrize("options", [RAW, SPHERE])
@pytest.mark.parametrize("mining", ["all", "hard"])
def test_pytorch_metric_learning_gives_the_same(mining, options):
    """Its semi-hard miner keeps all semi-hard negatives, FaceNet the nearest: not comparable."""
    reason = "pytorch-metric-learning, which this compares with, is not installed"
    torch = pytest.importorskip("torch", reason=reason)
    pytest.importorskip("pytorch_metric_learning", reason=reason)
    from pytorch_metric_learning import distances, losses, miners

    features, labels = batch(4)
    x = torch.tensor(features, dtype=torch.float64, requires_grad=True)
    distance = distances.LpDistance(normalize_embeddings=options["normalize"], p=2, power=2)
    y = torch.tensor(labels)
    mined = miners.BatchHardMiner(distance=distance)(x, y) if mining == "hard" else None
    loss = losses.TripletMarginLoss(options["margin"], distance=distance)(x, y, mined)
    compare(features, labels, loss, x, mining=mining, **options)


def compare(features, labels, loss, x, **options):
    loss.backward()
    terms = triplet.forward(features, [labels], **options)
    assert terms.loss == pytest.approx(loss.item(), rel=1e-5)
    assert terms.gradient(features) == pytest.approx(
        x.grad.numpy(), abs=1e-5 * float(x.grad.abs().max())
    )
