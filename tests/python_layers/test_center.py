"""The maths of the center loss against a naive float64 reference and against finite differences."""

import numpy as np
import pytest
from batches import numeric_gradient, random_batch
from center_reference import center as reference, moved

from python_layers import center

pytestmark = pytest.mark.filterwarnings("error")


def batch(seed, samples=24, classes=8, scale=1.0):
    """(features, labels, centers): not every center has samples, none is at zero."""
    features, labels, _ = random_batch(seed, 1, samples, classes, scale=scale)
    centers = np.random.default_rng(seed).normal(scale=scale, size=(classes + 2, 10))
    return features, labels[0], centers.astype(np.float32)


def assert_same(features, labels, centers, tolerance=1e-5):
    terms = center.forward(features, [labels], centers)
    loss, gradient = reference(features, labels, centers)
    assert terms.loss == pytest.approx(loss, rel=tolerance)
    assert terms.gradient(features).dtype == features.dtype
    assert np.abs(terms.gradient(features) - gradient).max() <= tolerance * np.abs(gradient).max()
    for alpha in (0.0, 0.5, 1.0):
        after = centers.copy()
        terms.move(after, alpha)
        assert np.abs(after - moved(features, labels, centers, alpha)).max() <= (
            tolerance * np.abs(centers).max()
        )
        absent = np.setdiff1d(np.arange(len(centers)), labels)
        assert np.array_equal(after[absent], centers[absent])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("samples, classes", [(1, 1), (6, 1), (6, 600), (40, 5), (128, 30)])
def test_agrees_with_the_reference(samples, classes, scale):
    """One sample, one class, all classes distinct, many per class."""
    for seed in range(3):
        assert_same(*batch(seed, samples, classes, scale))


def test_gradient_is_the_derivative_for_fixed_centers():
    features, labels, centers = batch(0, 12, 5)
    features = features.astype(np.float64)
    gradient = center.forward(features, [labels], centers).gradient(features)
    numeric = numeric_gradient(lambda x: center.forward(x, [labels], centers).loss, features, 1e-5)
    assert gradient == pytest.approx(numeric, abs=1e-8)


def test_mean_over_the_batch():
    """A batch given twice: the same loss, half the gradient for each of its samples."""
    features, labels, centers = batch(1)
    once = center.forward(features, [labels], centers)
    twice = center.forward(np.tile(features, (2, 1)), [np.tile(labels, 2)], centers)
    assert twice.loss == pytest.approx(once.loss)
    assert twice.gradient(features)[:24] == pytest.approx(once.gradient(features) / 2)


def test_one_step_of_a_center_by_hand():
    """Two samples at 3 and a center at 0: Delta = 2 (0 - 3) / (1 + 2) = -2."""
    centers = np.zeros((3, 1), np.float32)
    terms = center.forward(np.array([[3], [3]], np.float32), [[1, 1]], centers)
    terms.move(centers, 0.5)
    assert centers.tolist() == [[0], [1], [0]]


def test_duplicate_and_zero_features_at_their_centers():
    for value in (0, 3):
        features = np.full((6, 4), value, np.float32)
        centers = np.full((2, 4), value, np.float32)
        terms = center.forward(features, [np.arange(6) % 2], centers)
        terms.move(centers, 0.5)
        assert terms.loss == 0 and not terms.gradient(features).any() and (centers == value).all()


def test_diagnostics():
    features, labels, centers = batch(2)
    terms = center.forward(features, [labels], centers)
    present = np.unique(labels)
    assert dict(zip(center.diagnostic_names(1), terms.diagnostics(), strict=True)) == pytest.approx(
        {
            "loss": terms.loss,
            "classes": len(present),
            "center_length": np.linalg.norm(centers[present], axis=1).mean(),
            "gradient_norm": np.linalg.norm(terms.gradient(features)),
        }
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x, y: (x, y[:-1]), "label_1 has 5 values for 6 samples"),
        (lambda x, y: (x, y + 0.5), "label_1 must hold whole numbers"),
        (lambda x, y: (x, y - 1), "label_1 must hold whole numbers of at least 0"),
        (
            lambda x, y: (x, y + 3),
            "label_1 holds class 5, but there are only 5 classes, numbered from 0",
        ),
        (
            lambda x, y: (np.where(np.arange(6)[:, None] == 4, np.nan, x), y),
            r"features of 1 of 6 samples hold nan or inf \(first: sample 4\)",
        ),
        (lambda x, y: (x * np.float32(np.inf), y), "features of 6 of 6 samples hold nan or inf"),
    ],
)
def test_bad_input_is_named(change, message):
    features, labels = change(np.ones((6, 2), np.float32), np.array([0, 0, 1, 1, 1, 2]))
    with pytest.raises(ValueError, match=message):
        center.forward(features, [labels], np.zeros((5, 2), np.float32))
