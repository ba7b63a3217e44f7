"""The generalized triplet loss: its maths against a reference and finite differences, its layer."""

import numpy as np
import pytest
from batches import numeric_gradient, random_batch, steady_batch
from layer_nets import make_net, metric_step
from metric_references import gtl as reference, triplet as triplet_reference
from test_gradient_check import STEP, assert_passed, check, gradient_check  # noqa: F401
from test_memory import joined, step, stream

from python_layers import gtl, triplet

pytestmark = pytest.mark.filterwarnings("error")

LAYER = "gtl_loss.GTLLossLayer"
MARGINS = {False: [9, 6, 4, 2], True: [0.9, 0.6, 0.4, 0.2]}  # by normalize: distances are 20 or 2
each_mining = pytest.mark.parametrize("mining", triplet.MINING)
each_space = pytest.mark.parametrize("normalize", [False, True])


def options_of(levels, normalize, mining, **more):
    margins = MARGINS[normalize][-levels:]
    return {"margins": margins, "normalize": normalize, "mining": mining, **more}


@pytest.mark.parametrize("average", ["mined", "active"])
@each_space
@each_mining
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_agrees_with_the_reference(levels, mining, normalize, average):
    options = options_of(levels, normalize, mining, average=average)
    for seed in range(3):
        features, labels, _ = random_batch(seed, levels)
        terms = gtl.forward(features, labels, **options)
        loss, expected = reference(features, labels, **options)
        assert terms.loss == pytest.approx(loss, rel=1e-5) and loss > 0
        error = np.abs(terms.gradient(features) - expected).max()
        assert error <= 1e-4 * np.abs(expected).max()


def test_a_deep_tree():
    """Of eight levels, whose samples are counted in more than one integer each."""
    features, _, _ = random_batch(7, 1, samples=40)
    classes = np.random.default_rng(7).integers(2**8, size=40)
    labels = [classes >> level for level in range(8)]
    options = {"margins": [0.2 * (8 - j) for j in range(8)], "normalize": True}
    terms = gtl.forward(features, labels, **options)
    loss, expected = reference(features, labels, **options)
    assert terms.loss == pytest.approx(loss, rel=1e-5) and (terms.coefficients != 0).any()
    assert np.abs(terms.gradient(features) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_class_of_the_second_level_with_two_parents_is_refused():
    labels = [[0, 1, 2, 0], [0, 1, 1, 0], [0, 1, 0, 0]]
    with pytest.raises(ValueError, match="class 1 of label_2 has two parents in label_3, 1 and 0"):
        gtl.forward(np.eye(4, dtype=np.float32), labels, [3, 2, 1])


@each_mining
@pytest.mark.parametrize("samples, classes", [(1, 1), (2, 1), (6, 1), (6, 600), (40, 5)])
def test_batches_of_any_make_up(samples, classes, mining):
    """One sample, one pair, one class, all classes distinct, many per class."""
    features, labels, _ = random_batch(5, 3, samples, classes)
    options = options_of(3, True, mining)
    terms = gtl.forward(features, labels, **options)
    loss, expected = reference(features, labels, **options)
    assert terms.loss == pytest.approx(loss, rel=1e-5)
    error = np.abs(terms.gradient(features) - expected).max()
    assert error <= 1e-4 * np.abs(expected).max()


@each_space
@each_mining
def test_one_level_is_half_a_triplet_loss(mining, normalize):
    features, labels, _ = random_batch(1, 1)
    options = {"mining": mining, "normalize": normalize}
    terms = gtl.forward(features, labels, [3], **options)
    loss, gradient = triplet_reference(features, labels[0], margin=3, average="mined", **options)
    assert terms.loss == pytest.approx(loss / 2)
    assert terms.gradient(features) == pytest.approx(gradient / 2, abs=1e-5)


def test_quadruplet_by_hand():
    """On a line: r at 0, its class at 1, a sibling at 1.5, another parent at 2; m = (2, 1).

    For r, D is 1, 2.25 and 4, and the hinges [1 - 2.25 + 2 - 1]_+ = 0 and [2.25 - 4 + 1]_+ = 0; for
    the anchor at 1 [1 - 0.25 + 1]_+ = 1.75 and [0.25 - 1 + 1]_+ = 0.25. The sibling at 1.5 has no
    p+; with its two p- at 2.25 and 0.25: [2.25 - 0.25 + 1]_+ = 3 and [0.25 - 0.25 + 1]_+ = 1.
    """
    features = np.array([[0], [1], [1.5], [2]], np.float32)
    labels = [[0, 0, 1, 2], [0, 0, 0, 1]]
    terms = gtl.forward(features, labels, [2, 1], "all", normalize=False)
    assert terms.loss == pytest.approx(1.75 / 2 / 2 + (0.25 + 3 + 1) / 4 / 2)
    named = dict(zip(gtl.diagnostic_names(2), terms.diagnostics(), strict=True))
    del named["loss"], named["gradient_norm"]
    assert named == pytest.approx(
        {
            "active_1": 1 / 2,
            "active_2": 3 / 4,
            "triplets_1": 2,
            "triplets_2": 4,
            "skipped_1": 2 / 4,
            "skipped_2": 1 / 4,
        }
    )


@pytest.mark.parametrize("s", [0.1, 1, 100])
@each_mining
def test_gradient_is_the_derivative(mining, s):
    features, labels, _ = random_batch(2, 3, samples=14, fine_classes=6, dimensions=4)
    features = features.astype(np.float64)
    options = {"margins": [0.9 * s**2, 0.5 * s**2, 0.2 * s**2], "mining": mining, "scale": s}
    gradient = gtl.forward(features, labels, **options).gradient(features)
    numeric = numeric_gradient(lambda x: gtl.forward(x, labels, **options).loss, features, 1e-6)
    assert gradient == pytest.approx(numeric, abs=1e-6 * np.abs(gradient).max())


@each_space
@each_mining
def test_gradient_checker(gradient_check, tmp_path, mining, normalize):  # noqa: F811
    options = options_of(2, normalize, mining)

    def choice(x, labels):
        x = x / np.linalg.norm(x, axis=1, keepdims=True) if normalize else x
        return gtl.forward(x, labels, **{**options, "normalize": False}).coefficients.round(9)

    features, labels = steady_batch(STEP, 2, choice)
    assert_passed(check(gradient_check, tmp_path, LAYER, options, features, labels))


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_layer_has_facenets_margin_per_link_by_default(tmp_path, levels):
    features, labels, _ = random_batch(3, levels, samples=12, dimensions=4)
    net = make_net(tmp_path, LAYER, {}, levels=levels, diagnostics=True, loss_weight=2)
    loss, _, diff = metric_step(net, features, labels)
    margins = [0.2 * (levels - j) for j in range(levels)]
    expected, gradient = reference(features, labels, margins=margins, normalize=True)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert diff == pytest.approx(2 * gradient, abs=1e-5)


@each_mining
def test_memory(tmp_path, mining):
    options = options_of(2, False, mining)
    net = make_net(
        tmp_path, LAYER, {**options, "memory": 9}, samples=6, features="dim: 5", levels=2
    )
    first, second = stream(4, [6, 6], fine_classes=4)
    step(net, *first)
    loss, diff = step(net, *second)
    expected, gradient = reference(*joined(second, first), **options, anchors=6)
    assert loss == pytest.approx(expected, rel=1e-4) and loss > 0
    assert diff == pytest.approx(gradient[:6], abs=1e-4 * float(np.abs(gradient).max()))


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"margins": [1]}, '"margins": 1 margins for 2 label levels'),
        ({"margins": [1, 1]}, '"margins": margins must fall from the fine level up .* not .1, 1.'),
        ({"margins": [1, 0]}, '"margins": margins must fall'),
        ({"mining": "best"}, '"mining" must be "all" or "semihard" or "hard", not "best"'),
    ],
)
def test_wrong_parameters_stop_the_net(tmp_path, parameters, message):
    with pytest.raises(ValueError, match=f"^GTLLossLayer: .*{message}"):
        make_net(tmp_path, LAYER, parameters, levels=2)
