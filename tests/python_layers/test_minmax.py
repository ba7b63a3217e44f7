"""The Min-Max objective: its maths against a naive float64 reference and finite differences.

What its layer has in common with others is tested with these."""

import numpy as np
import pytest
from batches import minmax_choice, numeric_gradient, random_batch, steady_batch
from layer_nets import fill, make_net, run
from minmax_reference import minmax as reference

from python_layers import minmax

pytestmark = pytest.mark.filterwarnings("error")

LAYER = "minmax_loss.MinMaxLossLayer"


def batch(seed, samples=24, classes=8, scale=1.0, dimensions=10):
    features, labels, _ = random_batch(seed, 1, samples, classes, dimensions, scale)
    return features, labels[0]


def assert_same(features, labels, tolerance=1e-5, **options):
    terms = minmax.forward(features, [labels], **options)
    loss, gradient, intrinsic, penalty = reference(features, labels, **options)
    named = dict(zip(minmax.diagnostic_names(1), terms.diagnostics(), strict=True))
    within, between = named["within"] * intrinsic, named["between"] * penalty
    rounding = tolerance * max(within, between)  # they are subtracted
    assert terms.loss == pytest.approx(loss, abs=rounding)
    assert terms.loss == pytest.approx(2 * (within - between) / len(features), abs=rounding)
    assert (named["intrinsic_pairs"], named["penalty_pairs"]) == (intrinsic, penalty)
    assert np.abs(terms.gradient(features) - gradient).max() <= tolerance * np.abs(gradient).max()
    return terms.loss


@pytest.mark.parametrize("k2_per", ["class", "sample"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("k2", [1, 10, 1000])
@pytest.mark.parametrize("k1", [1, 5, 1000])
def test_agrees_with_the_reference(k1, k2, normalize, k2_per):
    options = {"k1": k1, "k2": k2, "normalize": normalize, "k2_per": k2_per}
    losses = [assert_same(*batch(seed), **options) for seed in range(3)]
    assert np.unique(losses).size == 3


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("samples, classes", [(1, 1), (2, 1), (6, 1), (6, 600), (40, 5)])
def test_batches_of_any_make_up_and_scale(samples, classes, scale, normalize):
    """One sample, one pair, one class, all classes distinct, many per class."""
    assert_same(*batch(7, samples, classes, scale), k1=2, k2=3, normalize=normalize)


def test_graphs_by_hand():
    """On a line, 0 1 3 of class 0 and 4 9 of class 1, with one neighbor and one pair.

    Neighbors: 0-1, 1-3 (3's nearest), 4-9. Nearest pair of either class with the rest: 3-4.
    """
    features = np.array([[0], [1], [3], [4], [9]], np.float32)
    terms = minmax.forward(features, [[0, 0, 0, 1, 1]], k1=1, k2=1, normalize=False)
    assert terms.loss == pytest.approx(2 / 5 * (1 + 4 + 25 - 1))
    assert terms.diagnostics() == pytest.approx(
        [terms.loss, 10, 1, 3, 1, np.linalg.norm(terms.gradient(features))]
    )
    assert terms.gradient(features).ravel() == pytest.approx(
        4 / 5 * np.array([0 - 1, (1 - 0) + (1 - 3), (3 - 1) - (3 - 4), (4 - 9) - (4 - 3), 9 - 4])
    )


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("k1, k2", [(1, 1), (2, 4)])
@pytest.mark.parametrize("k2_per", ["class", "sample"])
def test_gradient_is_the_derivative(k1, k2, normalize, k2_per):
    options = {"k1": k1, "k2": k2, "normalize": normalize, "k2_per": k2_per}
    features, labels = steady_batch(1e-6, 1, minmax_choice(**options))
    features = features.astype(np.float64)
    gradient = minmax.forward(features, labels, **options).gradient(features)
    numeric = numeric_gradient(lambda x: minmax.forward(x, labels, **options).loss, features, 1e-6)
    assert gradient == pytest.approx(numeric, abs=1e-7 * np.abs(gradient).max() + 1e-8)


@pytest.mark.parametrize("normalize", [False, True])
def test_duplicate_and_zero_features(normalize):
    """Many equal distances: finite, repeatable, and zero gradient between equal features."""
    features = np.repeat(np.array([[1, 2, 3], [4, 5, 6], [0, 0, 0]], np.float32), 6, axis=0)
    for labels in (np.arange(18) % 4, np.arange(18) // 6, np.zeros(18)):
        terms, again = (minmax.forward(features, [labels], normalize=normalize) for _ in range(2))
        assert np.isfinite(terms.loss) and np.isfinite(terms.gradient(features)).all()
        assert np.array_equal(terms.coefficients, again.coefficients)
        if normalize:
            assert not terms.gradient(features)[12:].any()


def test_normalized_objective_is_bounded_and_the_raw_one_is_not():
    features, labels = batch(3)
    raw, normalized = (
        [minmax.forward(scale * features, [labels], normalize=n).loss for scale in (1, 100)]
        for n in (False, True)
    )
    assert normalized[1] == pytest.approx(normalized[0])
    assert raw[1] == pytest.approx(1e4 * raw[0])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x, y: (x, y[:-1]), "label_1 has 5 values for 6 samples"),
        (lambda x, y: (x, y + 0.5), "label_1 must hold whole numbers"),
        (
            lambda x, y: (np.where(np.arange(6)[:, None] == 4, np.nan, x), y),
            r"features of 1 of 6 samples hold nan or inf \(first: sample 4\)",
        ),
    ],
)
def test_bad_input_is_named(change, message):
    features, labels = change(np.ones((6, 2), np.float32), np.array([0, 0, 1, 1, 1, 2]))
    with pytest.raises(ValueError, match=message):
        minmax.forward(features, [labels])


def test_layer_has_the_same_defaults(tmp_path):
    features, labels = batch(1, 40, 3, dimensions=4)
    loss, expected = reference(features, labels, k1=5, k2=10, normalize=True)[:2]
    reported, gradient = run(make_net(tmp_path, LAYER, {}, samples=40), features, labels)
    assert reported == pytest.approx(loss, rel=1e-4)
    assert gradient == pytest.approx(expected, abs=1e-5 * float(np.abs(expected).max()))


def test_layer_with_diagnostics(tmp_path):
    net = make_net(tmp_path, LAYER, {}, diagnostics=True)
    features, labels = batch(5, 12, 4, dimensions=4)
    fill(net, features, labels)
    expected = minmax.forward(features, [labels]).diagnostics()
    assert net.forward()["diagnostics"] == pytest.approx(expected.astype(np.float32))
