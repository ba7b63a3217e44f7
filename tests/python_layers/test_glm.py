"""The maths of the GLM loss against a naive float64 reference and against finite differences."""

import tracemalloc

import numpy as np
import pytest
from batches import random_batch, smooth_batch
from glm_reference import glm as reference

from python_layers import glm

pytestmark = pytest.mark.filterwarnings("error")


def assert_same(features, labels, margins, tolerance=1e-4, **options):
    terms = glm.forward(features, labels, margins, **options)
    gradient = terms.gradient(features)
    loss, expected, shares = reference(features, labels, margins, **options)
    assert terms.loss == pytest.approx(loss, rel=tolerance)
    assert np.abs(gradient - expected).max() <= tolerance * np.abs(expected).max()
    named = dict(zip(glm.diagnostic_names(len(labels)), terms.diagnostics(), strict=True))
    for kind, values in shares.items():
        assert [named[f"{kind}_{j}"] for j in range(1, len(labels) + 1)] == pytest.approx(values)
    return loss


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("within_gradient", ["paper", "exact"])
@pytest.mark.parametrize("k", [1, 3, 1000])
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_agrees_with_the_reference(levels, k, within_gradient, normalize):
    losses = [
        assert_same(
            *random_batch(seed, levels), k=k, within_gradient=within_gradient, normalize=normalize
        )
        for seed in range(4)
    ]
    assert min(losses) > 0


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("samples, fine_classes", [(1, 1), (6, 1), (6, 60), (40, 5)])
def test_batches_of_any_make_up_and_scale(samples, fine_classes, scale):
    """One sample, one class, (nearly) all classes distinct, many per class."""
    features, labels, margins = random_batch(7, 3, samples, fine_classes, scale=scale)
    assert_same(features, labels, margins, k=2, within_gradient="exact")


def test_absent_classes_can_count_in_the_mean():
    features, labels, margins = random_batch(3, 2)
    present = len(np.unique(labels[0]))
    mean = glm.forward(features, labels, margins)
    over_all = glm.forward(features, labels, margins, classes=4 * present)
    assert over_all.loss == pytest.approx(mean.loss / 4)
    assert over_all.coefficients == pytest.approx(mean.coefficients / 4)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_exact_gradient_is_the_derivative(levels, normalize):
    options = {"k": 2, "within_gradient": "exact", "normalize": normalize}
    step, margins = 1e-6, [3] * levels
    features, labels = smooth_batch(step, levels, margins, **options)
    features = features.astype(np.float64)
    gradient = glm.forward(features, labels, margins, **options).gradient(features)
    numeric = np.empty_like(features)
    for index in np.ndindex(features.shape):
        side = []
        for sign in (1, -1):
            moved = features.copy()
            moved[index] += sign * step
            side.append(glm.forward(moved, labels, margins, **options).loss)
        numeric[index] = (side[0] - side[1]) / (2 * step)
    assert gradient == pytest.approx(numeric, abs=1e-6 * np.abs(gradient).max())


def test_paper_gradient_is_short_by_one_minus_one_over_n():
    """Eq. (20) on a batch where only D_W acts: both modes differ by exactly that factor."""
    features = np.array([[0, 0], [2, 0], [0.1, 3], [0, -3]], np.float32)
    labels = [[0, 0, 0, 1], [0, 0, 0, 0]]
    # Without the nearest pair's own gradient, by taking it from the single-sample class away.
    exact, paper = (
        glm.forward(features, labels, [9, 0], 1, mode).gradient(features)
        for mode in ("exact", "paper")
    )
    zero_margin = glm.forward(features, labels, [9, 0], 1, "exact")
    mean = features[:3].mean(axis=0)
    within = 2 / 3 * (features[:3] - mean) / 2  # two classes in the mean of Eq. (14)
    assert zero_margin.loss > 0
    assert exact[:3] - paper[:3] == pytest.approx(within / 3, abs=1e-6)


def test_duplicate_features_give_no_nan_and_no_warning():
    features = np.repeat(np.array([[1, 2, 3], [4, 5, 6]], np.float32), 6, axis=0)
    labels = [np.arange(12) % 4, np.arange(12) % 2]
    for normalize in (False, True):
        terms = glm.forward(features, labels, [1, 1], normalize=normalize)
        assert np.isfinite(terms.loss) and np.isfinite(terms.gradient(features)).all()


def test_zero_features_have_no_direction():
    features = np.zeros((4, 3), np.float32)
    features[3] = [0, 3, 4]
    terms = glm.forward(features, [[0, 0, 1, 1]], [1], normalize=True)
    gradient = terms.gradient(features)
    assert np.isfinite(gradient).all() and not gradient[:3].any()


def test_small_distances_of_long_features_survive():
    """0.0042 between 4096-d features of squared length 5000; a float32 Gram matrix has 0.75."""
    rng = np.random.default_rng(0)
    center = np.abs(rng.normal(scale=1.1, size=4096))
    features = (center + rng.normal(scale=0.001, size=(12, 4096))).astype(np.float32)
    labels = [np.arange(12) % 6, np.arange(12) % 2]
    assert (features**2).sum(axis=1).min() > 4000
    loss = assert_same(features, labels, [0.001, 0.001], within_gradient="exact")
    assert 0 < loss < 0.1


def test_memory_is_linear_in_the_feature_size():
    """n = 128, d = 4096: no n x n x d array (268 MB), only a float64 copy of features (4 MB)."""
    features, labels, margins = random_batch(0, 3, 128, 64, 4096)
    tracemalloc.start()
    glm.forward(features, labels, margins, normalize=True).gradient(features)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 128 * 4096 * 8


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x, y: (x, [y[0][:-1], y[1]]), "label_1 has 5 values for 6 samples"),
        (lambda x, y: (x, [y[0] + 0.5, y[1]]), "label_1 must hold whole numbers"),
        (lambda x, y: (x, [y[0], y[1] - 5]), "label_2 must hold whole numbers"),
        (
            lambda x, y: (x, [y[0], np.array([0, 0, 0, 0, 1, 1])]),
            "class 1 of label_1 has two parents in label_2, 0 and 1",
        ),
        (
            lambda x, y: (np.where(np.arange(6)[:, None] == 4, np.nan, x), y),
            r"features of 1 of 6 samples hold nan or inf \(first: sample 4\)",
        ),
        (lambda x, y: (x * np.float32(np.inf), y), "features of 6 of 6 samples hold nan or inf"),
        (lambda x, y: (x, y + y), "2 margins for 4 label levels"),
    ],
)
def test_bad_input_is_named(change, message):
    features = np.ones((6, 2), np.float32)
    features, labels = change(features, [np.array([0, 0, 1, 1, 1, 2]), np.zeros(6)])
    with pytest.raises(ValueError, match=message):
        glm.forward(features, labels, [1, 1])


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_shorter_features_always_cost_less(levels):
    """Euler's theorem for distances, which are homogeneous of degree 2: the gradient along the raw
    features is twice the loss without its margins. Where distances exceed the margins, every step
    shortens the features; at 0 they stay, and the loss is the sum of the margins."""
    features, labels, _ = random_batch(1, levels)
    features, margins = features.astype(np.float64), list(range(1, levels + 1))
    terms = glm.forward(features, labels, margins, within_gradient="exact")
    named = dict(zip(glm.diagnostic_names(levels), terms.diagnostics()))
    of_margins = sum(m * named[f"active_{j}"] for j, m in enumerate(margins, 1))
    along = (terms.gradient(features) * features).sum()
    assert along == pytest.approx(2 * (terms.loss - of_margins))
    nothing = glm.forward(0 * features, labels, margins, within_gradient="exact")
    named = dict(zip(glm.diagnostic_names(levels), nothing.diagnostics()))
    of_margins = sum(m * named[f"active_{j}"] for j, m in enumerate(margins, 1))
    assert nothing.loss == pytest.approx(of_margins) and not nothing.gradient(0 * features).any()
