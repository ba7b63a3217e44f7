"""What holds for each metric loss as a layer in real Caffe nets: one table of losses, all tests.

Each test would catch a fault that such layers are known for: loss_weight ignored, the hinge or a
division by N missing in backward, gradients of several consumers that overwrite each other.
"""

import json
from dataclasses import dataclass

import caffe
import metric_references
import numpy as np
import pytest
from batches import random_batch
from layer_nets import make_net, prototxt, run
from minmax_reference import minmax as minmax_reference

from python_layers import contrastive, minmax, triplet

pytestmark = pytest.mark.filterwarnings("error")


@dataclass(frozen=True)
class Loss:
    """layer: "<module of python_layers>.<class>"; reference(x, y, **parameters): (loss, dL/dX)"""

    layer: str
    parameters: dict
    reference: object
    names: object

    def __call__(self, features, labels):
        return self.reference(features, labels, **self.parameters)

    def __str__(self):
        return "-".join([self.layer.split("_")[0], *map(str, self.parameters.values())])


LOSSES = [
    *(
        Loss(
            "contrastive_loss.ContrastiveLossLayer",
            parameters,
            metric_references.contrastive,
            contrastive.diagnostic_names,
        )
        for parameters in ({"margin": 3}, {"margin": 1.2, "normalize": True, "average": "kinds"})
    ),
    *(
        Loss(
            "triplet_loss.TripletLossLayer",
            {"mining": mining, **space},
            metric_references.triplet,
            triplet.diagnostic_names,
        )
        for mining in ("all", "semihard", "hard")
        for space in ({"normalize": False, "margin": 3, "average": "mined"}, {"normalize": True})
    ),
    *(
        Loss(
            "minmax_loss.MinMaxLossLayer",
            {"k1": 5, "k2": 1, "normalize": normalize},
            lambda *batch, **parameters: minmax_reference(*batch, **parameters)[:2],
            minmax.diagnostic_names,
        )
        for normalize in (False, True)
    ),
]

each_loss = pytest.mark.parametrize("loss", LOSSES, ids=str)


def batch(seed, samples=12, dimensions=4):
    features, labels, _ = random_batch(seed, 1, samples, fine_classes=4, dimensions=dimensions)
    return features, labels[0]


def assert_close(actual, expected, tolerance=1e-4):
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("loss_weight", [0.0, 1.0, 2.0])
@each_loss
def test_loss_weight_scales_the_gradient_and_not_the_top(tmp_path, loss, loss_weight):
    features, labels = batch(1)
    expected, gradient = loss(features, labels)
    net = make_net(tmp_path, loss.layer, loss.parameters, loss_weight=loss_weight)
    for _ in range(2):  # the second pass must not add to the first
        value, actual = run(net, features, labels)
        assert value == pytest.approx(expected, rel=1e-4) and value > 0
        assert_close(actual, loss_weight * gradient)


@each_loss
def test_blobs_of_any_shape(tmp_path, loss):
    features, labels = batch(2, dimensions=12)
    flat = make_net(tmp_path, loss.layer, loss.parameters, features="dim: 12")
    expected = run(flat, features, labels)
    pooled = make_net(
        tmp_path,
        loss.layer,
        loss.parameters,
        features="dim: 3 dim: 2 dim: 2",
        labels="dim: 1 dim: 1 dim: 1",
    )
    actual = run(pooled, features, labels)
    assert actual[0] == expected[0] and np.array_equal(actual[1], expected[1])


@each_loss
def test_batch_size_may_change(tmp_path, loss):
    net = make_net(tmp_path, loss.layer, loss.parameters)
    for samples in (12, 20, 1, 8):
        for name in ("features", "label_1"):
            net.blobs[name].reshape(samples, *net.blobs[name].shape[1:])
        features, labels = batch(samples, samples)
        expected, gradient = loss(features, labels)
        value, actual = run(net, features, labels)
        assert value == pytest.approx(expected, rel=1e-4)
        assert_close(actual, gradient)


@each_loss
def test_empty_batch(tmp_path, loss):
    net = make_net(tmp_path, loss.layer, loss.parameters, diagnostics=True)
    expected = run(net, *batch(8))
    for name in ("features", "label_1"):
        net.blobs[name].reshape(0, *net.blobs[name].shape[1:])
    net.forward()
    net.backward()
    assert net.blobs["loss"].data == 0 and not net.blobs["diagnostics"].data.any()
    for name in ("features", "label_1"):
        net.blobs[name].reshape(12, *net.blobs[name].shape[1:])
    after = run(net, *batch(8))
    assert after[0] == expected[0] and np.array_equal(after[1], expected[1])


@each_loss
def test_train_and_test_phase_agree(tmp_path, loss):
    train, test = (
        run(make_net(tmp_path, loss.layer, loss.parameters, phase), *batch(3))
        for phase in (caffe.TRAIN, caffe.TEST)
    )
    assert train[0] == test[0] and np.array_equal(train[1], test[1])


@each_loss
def test_diagnostics_change_nothing(tmp_path, loss):
    net = make_net(tmp_path, loss.layer, loss.parameters, diagnostics=True)
    alone = make_net(tmp_path, loss.layer, loss.parameters)
    value, gradient = run(net, *batch(4))
    named = dict(zip(loss.names(1), net.blobs["diagnostics"].data, strict=True))
    assert named["loss"] == np.float32(value) and 0 < named.get("active", 1) <= 1
    assert np.array_equal(gradient, run(alone, *batch(4))[1])


def learning_net(path, losses, dimensions=4):
    """features = data W^T with W learned, and the losses, of weights 1, 2, ..., all on them."""
    inputs = "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" '
        f"input_param {{ shape {{ {shape} }} }} }}"
        for name, shape in (("data", f"dim: 12 dim: {dimensions}"), ("label_1", "dim: 12"))
    )
    path.write_text(
        inputs
        + """
        layer { name: "features" type: "InnerProduct" bottom: "data" top: "features"
                inner_product_param { num_output: 4 bias_term: false
                                      weight_filler { type: "gaussian" std: 1 } } }"""
        + "".join(
            f"""
        layer {{ name: "loss_{number}" type: "Python" bottom: "features" bottom: "label_1"
                 top: "loss_{number}" loss_weight: {number}
                 python_param {{ module: "python_layers.{loss.layer.split(".")[0]}"
                                 layer: "{loss.layer.split(".")[1]}"
                                 param_str: {json.dumps(json.dumps(loss.parameters))} }} }}"""
            for number, loss in enumerate(losses, 1)
        )
    )
    return path


def gradient_of_weights(losses, weights, data, labels):
    features = data @ weights.T
    return sum(number * loss(features, labels)[1].T @ data for number, loss in enumerate(losses, 1))


@each_loss
def test_gradients_of_several_losses_and_batches_add_up(tmp_path, loss):
    """Two losses read one blob; and two backward passes before an update, as with iter_size 2."""
    losses = [loss, LOSSES[0]]
    net = caffe.Net(str(learning_net(tmp_path / "net.prototxt", losses)), caffe.TRAIN)
    weights = net.params["features"][0]
    net.clear_param_diffs()
    expected = 0
    for seed in (5, 6):
        data, labels = batch(seed)
        net.blobs["data"].data[...], net.blobs["label_1"].data[...] = data, labels
        net.forward()
        net.backward()
        expected = expected + gradient_of_weights(losses, weights.data, data, labels)
    assert_close(weights.diff, expected)


@pytest.mark.parametrize("iter_size", [1, 2])
@each_loss
def test_solver_takes_the_mean_over_iter_size(tmp_path, loss, iter_size):
    net = learning_net(tmp_path / "net.prototxt", [loss])
    (tmp_path / "solver.prototxt").write_text(
        f'net: "{net}" base_lr: 0.5 lr_policy: "fixed" iter_size: {iter_size} random_seed: 1 '
        "max_iter: 1 snapshot_after_train: false"
    )
    solver = caffe.SGDSolver(str(tmp_path / "solver.prototxt"))
    data, labels = batch(7)
    blobs = solver.net.blobs
    blobs["data"].data[...], blobs["label_1"].data[...] = data, labels
    before = solver.net.params["features"][0].data.copy()
    solver.step(1)
    step = solver.net.params["features"][0].data - before
    assert_close(step, -0.5 * gradient_of_weights([loss], before, data, labels), 1e-3)


@each_loss
def test_batches_without_anything_to_learn_from(tmp_path, loss):
    """One class with all samples alike: no loss, no gradient, no nan, no warning."""
    net = make_net(tmp_path, loss.layer, loss.parameters)
    for features in (np.ones((12, 4), np.float32), np.zeros((12, 4), np.float32)):
        value, gradient = run(net, features, np.zeros(12))
        assert value == pytest.approx(0, abs=1e-12)
        assert gradient == pytest.approx(np.zeros_like(gradient), abs=1e-6)


@pytest.mark.parametrize(
    "layer, parameters, message",
    [
        (
            "contrastive_loss.ContrastiveLossLayer",
            {"margins": [1]},
            'unknown parameter "margins"; the nearest known one is "margin"',
        ),
        (
            "contrastive_loss.ContrastiveLossLayer",
            {"margin": -1},
            '"margin" must be a number from 0 to 1e.09, not -1',
        ),
        (
            "triplet_loss.TripletLossLayer",
            {"mining": "semi-hard"},
            '"mining" must be "all" or "semihard" or "hard", not "semi-hard"',
        ),
        (
            "triplet_loss.TripletLossLayer",
            {"margin": [0.2]},
            '"margin" must be a number from 0',
        ),
        (
            "minmax_loss.MinMaxLossLayer",
            {"k": 1},
            'unknown parameter "k"; the nearest known one is "k',
        ),
        ("minmax_loss.MinMaxLossLayer", {"k1": 0}, '"k1" must be a whole number from 1'),
        ("minmax_loss.MinMaxLossLayer", {"normalize": "yes"}, '"normalize" must be true or false'),
    ],
)
def test_wrong_parameters_stop_the_net(tmp_path, layer, parameters, message):
    with pytest.raises(ValueError, match=layer.split(".")[1] + ": .*" + message):
        make_net(tmp_path, layer, parameters)


@each_loss
def test_a_second_level_of_labels_is_refused(tmp_path, loss):
    path = tmp_path / "net.prototxt"
    path.write_text(
        prototxt(loss.layer, loss.parameters).replace(
            'bottom: "label_1"', 'bottom: "label_1" bottom: "label_1"'
        )
    )
    with pytest.raises(ValueError, match=r"takes 1 label bottom, not 2"):
        caffe.Net(str(path), caffe.TRAIN)


@each_loss
def test_wrong_data_stops_the_forward_pass(tmp_path, loss):
    name = loss.layer.split(".")[1]
    net = make_net(tmp_path, loss.layer, loss.parameters)
    features, labels = batch(0)
    with pytest.raises(ValueError, match=f"{name}: .* hold nan or inf"):
        run(net, features * np.nan, labels)
    with pytest.raises(ValueError, match=f"{name}: label_1 must hold whole numbers"):
        run(net, features, labels + 0.5)
