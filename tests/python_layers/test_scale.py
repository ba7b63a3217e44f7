"""Features of length s inside the losses ("scale"), and the gradient norm that they report."""

import json

import caffe
import metric_references
import numpy as np
import pytest
from batches import numeric_gradient, random_batch, steady_batch
from glm_reference import glm as glm_reference
from layer_nets import METRIC_LAYERS, make_net, metric_batch, metric_net, metric_step
from minmax_reference import minmax as minmax_reference
from test_gradient_check import STEP, assert_passed, check, gradient_check  # noqa: F401

from python_layers import contrastive, glm, glm_loss, minmax, pairwise, triplet

pytestmark = pytest.mark.filterwarnings("error")

SCALES = [0.1, 0.5, 2, 10, 100]


def losses(s):
    """{name: (forward, reference, layer, parameters)}; margins leave some hinges closed at s."""
    square = s**2
    return {
        "glm": (
            lambda x, y, **more: glm.forward(x, y, **more),
            lambda x, y, **more: glm_reference(x, y, **more)[:2],
            "glm_loss.GLMLossLayer",
            {"margins": [0.5 * square, 0.3 * square], "within_gradient": "exact", "k": 2},
        ),
        "contrastive": (
            lambda x, y, **more: contrastive.forward(x, y[:1], **more),
            lambda x, y, **more: metric_references.contrastive(x, y[0], **more),
            "contrastive_loss.ContrastiveLossLayer",
            {"margin": 1.2 * s},
        ),
        **{
            f"triplet-{mining}": (
                lambda x, y, **more: triplet.forward(x, y[:1], **more),
                lambda x, y, **more: metric_references.triplet(x, y[0], **more),
                "triplet_loss.TripletLossLayer",
                {"margin": 0.4 * square, "mining": mining},
            )
            for mining in triplet.MINING
        },
        "minmax": (
            lambda x, y, **more: minmax.forward(x, y[:1], **more),
            lambda x, y, **more: minmax_reference(x, y[0], **more)[:2],
            "minmax_loss.MinMaxLossLayer",
            {"k1": 2, "k2": 3},
        ),
    }


each_loss = pytest.mark.parametrize("name", losses(1))
each_scale = pytest.mark.parametrize("s", SCALES)


def batch(seed, samples=24):
    return random_batch(seed, 2, samples, fine_classes=6, dimensions=4)[:2]


@each_scale
@each_loss
def test_agrees_with_the_reference(name, s):
    forward, reference, _, parameters = losses(s)[name]
    for seed in range(3):
        features, labels = batch(seed)
        terms = forward(features, labels, **parameters, normalize=True, scale=s)
        loss, gradient = reference(features, labels, **parameters, normalize=True, scale=s)
        assert terms.loss == pytest.approx(loss, rel=1e-5, abs=1e-6 * s**2) and loss
        error = np.abs(terms.gradient(features) - gradient).max()
        assert error <= 1e-5 * np.abs(gradient).max()


@each_scale
@each_loss
def test_gradient_is_the_derivative(name, s):
    forward, _, _, parameters = losses(s)[name]
    features, labels = batch(1, 14)
    features = features.astype(np.float64)

    def terms(x):
        return forward(x, labels, **parameters, normalize=True, scale=s)

    gradient = terms(features).gradient(features)
    numeric = numeric_gradient(lambda x: terms(x).loss, features, 1e-6)
    assert gradient == pytest.approx(numeric, abs=1e-6 * np.abs(gradient).max())


@each_loss
def test_scale_multiplies_distances_and_so_the_gradient(name):
    """With margins that grow alike, s is s^2 times the loss: nothing else changes with it."""
    features, labels = batch(2)
    one, ten = (
        losses(s)[name][0](features, labels, **losses(s)[name][3], normalize=True, scale=s)
        for s in (1, 10)
    )
    assert ten.loss == pytest.approx(100 * one.loss)
    expected = 100 * one.gradient(features)
    assert ten.gradient(features) == pytest.approx(
        expected, abs=1e-4 * float(np.abs(expected).max())
    )


@each_loss
def test_a_scale_of_one_changes_no_bit(name):
    forward, _, _, parameters = losses(1)[name]
    features, labels = batch(3)
    plain = forward(features, labels, **parameters, normalize=True)
    scaled = forward(features, labels, **parameters, normalize=True, scale=1)
    assert plain.loss == scaled.loss
    assert np.array_equal(plain.coefficients, scaled.coefficients)


@pytest.mark.parametrize("s", [0.1, 4, 10])
@each_loss
def test_gradient_checker(gradient_check, tmp_path, name, s):  # noqa: F811
    """Not for s = 100: a float32 loss of 1000 has too few digits for the checker's steps."""
    forward, _, layer, parameters = losses(s)[name]

    def choice(x, labels):
        unit = s * x / np.linalg.norm(x, axis=1, keepdims=True)
        chosen = forward(unit, labels, **parameters, normalize=False).coefficients
        return chosen != 0 if name == "contrastive" else chosen.round(9)

    features, labels = steady_batch(STEP, 2 if name == "glm" else 1, choice)
    options = {**parameters, "normalize": True, "scale": s}
    assert_passed(check(gradient_check, tmp_path, layer, options, features, labels))


@each_scale
@each_loss
def test_layer(tmp_path, name, s):
    _, reference, layer, parameters = losses(s)[name]
    options = {**parameters, "normalize": True, "scale": s}
    levels = 2 if name == "glm" else 1
    net = make_net(tmp_path, layer, options, levels=levels, samples=24, diagnostics=True)
    features, labels = batch(4)
    loss, gradient = reference(features, labels, **options)
    actual, _, diff = metric_step(net, features, labels)
    assert actual == pytest.approx(loss, rel=1e-4, abs=1e-5 * s**2)
    assert np.abs(diff - gradient).max() <= 1e-4 * np.abs(gradient).max()


@each_loss
def test_scale_without_normalize_is_refused(tmp_path, name):
    forward, _, layer, parameters = losses(1)[name]
    options = {**parameters, "normalize": False, "scale": 2}
    message = '"scale" is the length of normalized features'
    with pytest.raises(ValueError, match=f'^{layer.split(".")[1]}: {message}.*"normalize": true'):
        make_net(tmp_path, layer, options, levels=2 if name == "glm" else 1)
    with pytest.raises(ValueError, match=message):
        forward(*batch(0), **options)


@pytest.mark.parametrize("wrong", [0, -1, 1e4, "2", None, [1]])
def test_wrong_scales(tmp_path, wrong):
    with pytest.raises(ValueError, match='"scale" must be a number from 0.001 to 1000, not'):
        make_net(tmp_path, "triplet_loss.TripletLossLayer", {"scale": wrong})


def test_settings_of_the_tools_check_the_scale():
    text = json.dumps({"normalize": True, "scale": 4})
    assert glm_loss.settings(text, 2)["scale"] == 4
    with pytest.raises(ValueError, match='--glm-json: "scale" is the length'):
        glm_loss.settings('{"scale": 4}', 2, "--glm-json")


@pytest.mark.parametrize("phase", [caffe.TRAIN, caffe.TEST])
@pytest.mark.parametrize("loss_weight", [0, 1, 2.5])
@pytest.mark.parametrize("name", METRIC_LAYERS)
def test_diagnostics_report_the_norm_of_the_gradient(tmp_path, name, loss_weight, phase):
    """That of the gradient in the features' diff; in the second batch with a memory too."""
    net = metric_net(tmp_path, name, loss_weight=loss_weight, phase=phase)
    for seed in (0, 1):
        _, diagnostics, diff, *_ = metric_step(net, *metric_batch(seed))
        assert diagnostics[-1] == pytest.approx(np.linalg.norm(diff), rel=1e-4)
    assert (diagnostics[-1] > 0) == (loss_weight > 0)


@pytest.mark.parametrize("length", [1e-6, 1, 47, 1e4])
@pytest.mark.parametrize("normalize", [False, True])
def test_gradient_norm_of_features_of_any_length(length, normalize):
    features, labels = batch(5)
    features = (length * features / np.linalg.norm(features, axis=1).mean()).astype(np.float32)
    margin = 0.5 if normalize else 0.5 * length**2
    terms = triplet.forward(features, labels[:1], margin, normalize=normalize)
    norm = np.linalg.norm(terms.gradient(features.astype(np.float64)))
    assert terms.gradient_norm == pytest.approx(norm, rel=1e-6) and norm > 0
    assert terms.diagnostics(-3)[-1] == pytest.approx(3 * norm, rel=1e-6)
    assert triplet.diagnostic_names(1)[-1] == pairwise.GRADIENT_NORM
