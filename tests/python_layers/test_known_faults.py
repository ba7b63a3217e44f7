"""Faults that public metric losses for Caffe have: each check passes on our layers, and fails on
the same layer with the fault put in (faulty_layers.py). So the checks can fail."""

import caffe
import center_reference
import faulty_layers
import glm_reference
import layer_nets
import metric_references
import minmax_reference
import numpy as np
import pytest
from batches import random_batch

LEVELS = {"glm": 2}  # label bottoms; all others: 1
CENTERS = np.random.default_rng(9).normal(size=(8, 4)).astype(np.float32)

# Margins that leave some hinges closed; distances of the batches are about 8 (squared).
RAW = {
    "glm": {"margins": [1, 1]},
    "contrastive": {"margin": 2.5},
    "triplet": {"margin": 1, "mining": "all", "normalize": False, "average": "mined"},
    "minmax": {"k1": 2, "k2": 3, "normalize": False},
    "center": {"num_classes": 8, "alpha": 0.5},
}
ON_SPHERE = {
    "glm": {"normalize": True},
    "contrastive": {"normalize": True},
    "triplet": {"normalize": True},
    "minmax": {"normalize": True},
}


def expected(loss, parameters, features, labels):
    """(loss, gradient) of the reference implementations."""
    if loss == "glm":
        return glm_reference.glm(
            features,
            labels,
            parameters.get("margins", [1, 1]),
            within_gradient="paper",
            normalize=parameters.get("normalize", False),
        )[:2]
    if loss == "minmax":
        return minmax_reference.minmax(features, labels[0], **{"k1": 5, "k2": 10, **parameters})[:2]
    if loss == "center":
        return center_reference.center(features, labels[0], CENTERS[:, : features.shape[1]])
    return getattr(metric_references, loss)(features, labels[0], **parameters)


def batch(loss, dimensions=4, seed=3):
    features, labels, _ = random_batch(seed, LEVELS.get(loss, 1), samples=12, dimensions=dimensions)
    return features, [level.astype(int) for level in labels]


def make_net(tmp_path, loss, fault, parameters, change=lambda text: text, **options):
    """A net of one loss; fault: None for our layer; change(text) of its prototxt."""
    layer = (
        f"{loss}_loss.{faulty_layers.LAYERS[loss].__name__}"
        if fault is None
        else f"faulty_layers.{faulty_layers.name(loss, fault)}"
    )
    text = layer_nets.prototxt(
        layer,
        parameters,
        levels=LEVELS.get(loss, 1),
        package="python_layers." if fault is None else "",
        **options,
    )
    path = tmp_path / "net.prototxt"
    path.write_text(change(text))
    return caffe.Net(str(path), caffe.TRAIN)


def run(net, inputs, labels):
    """Forward and backward of inputs, {blob: values}, from the same centers every time."""
    for level, values in enumerate(labels, 1):
        inputs = {**inputs, f"label_{level}": values}
    for name, values in inputs.items():
        net.blobs[name].data[...] = values
    for name, (blob, *_) in net.params.items():
        if "metric" in name:
            blob.data[...] = CENTERS[:, : blob.shape[1]]
    net.forward()
    net.backward()
    return net


def same(actual, wanted):
    assert np.abs(wanted).max() > 0
    assert np.abs(actual - wanted).max() <= 1e-3 * np.abs(wanted).max()


def check_gradient(tmp_path, loss, fault, parameters):
    """The reference's times loss_weight, and in a second pass the same again."""
    features, labels = batch(loss)
    value, gradient = expected(loss, parameters, features, labels)
    net = make_net(tmp_path, loss, fault, parameters, loss_weight=2)
    for _ in range(2):
        run(net, {"features": features}, labels)
        assert net.blobs["loss"].data[0] == pytest.approx(value, rel=1e-4)
        same(net.blobs["features"].diff, 2 * gradient)


def check_shared_features(tmp_path, loss, fault, parameters):
    """Two layers read one blob: Caffe's Split gives each a diff of its own, and adds them."""

    def twice(text):
        head, layer = text.split('layer { name: "metric"')
        second = layer.replace('top: "loss" loss_weight: 1', 'top: "loss_2" loss_weight: 3')
        return head + "".join(
            f'layer {{ name: "metric{i}"' + each for i, each in enumerate((layer, second))
        )

    features, labels = batch(loss)
    net = make_net(tmp_path, loss, fault, parameters, twice)
    assert "Split" in [layer.type for layer in net.layers]
    for _ in range(2):
        run(net, {"features": features}, labels)
        same(net.blobs["features"].diff, 4 * expected(loss, parameters, features, labels)[1])


def check_weights_below(tmp_path, loss, fault, parameters):
    """Of a layer that is learned: features need a gradient, labels don't; as many features as
    bottoms, so that an array of either length fits the other."""
    dimensions = 1 + LEVELS.get(loss, 1)

    def learned(text):
        text = text.replace(
            'name: "features" type: "Input" top: "features"',
            'name: "data" type: "Input" top: "data"',
        )
        return text.replace(
            'layer { name: "metric"',
            """
            layer { name: "features" type: "InnerProduct" bottom: "data" top: "features"
                    inner_product_param { bias_term: false num_output: """
            f"""{dimensions}
                                          weight_filler {{ type: "gaussian" std: 1 }} }} }}
            layer {{ name: "metric\"""",
        )

    data, labels = batch(loss)
    net = make_net(tmp_path, loss, fault, parameters, learned, force_backward=False)
    weights = net.params["features"][0]
    features = data @ weights.data.T
    net.clear_param_diffs()
    for passes in (1, 2):  # an iteration of iter_size 2 adds up two passes
        run(net, {"data": data}, labels)
        gradient = expected(loss, parameters, features, labels)[1]
        same(weights.diff, passes * gradient.T @ data)


def check_labels(tmp_path, loss, fault, parameters):
    features, labels = batch(loss)
    net = make_net(tmp_path, loss, fault, parameters)
    names = [f"label_{level}" for level in range(1, len(labels) + 1)]
    for name in names:
        net.blobs[name].diff[...] = 7
    run(net, {"features": features}, labels)
    assert not any(net.blobs[name].diff.any() for name in names)


def check_centers(tmp_path, loss, fault, parameters):
    features, labels = batch(loss)
    assert np.bincount(labels[0]).max() > 1
    net = run(make_net(tmp_path, loss, fault, parameters), {"features": features}, labels)
    same(net.params["metric"][0].data, center_reference.moved(features, labels[0], CENTERS))


PAIRS = ("glm", "contrastive", "triplet", "minmax")
KNOWN = [  # fault, the check that catches it, the layers' parameters, the losses that it concerns
    (faulty_layers.LossWeightIgnored, check_gradient, RAW, RAW),
    (faulty_layers.DivisionForgotten, check_gradient, RAW, RAW),
    (faulty_layers.HingeIgnored, check_gradient, RAW, faulty_layers.WITHOUT_HINGE),
    (faulty_layers.OtherBranchesLength, check_gradient, ON_SPHERE, ON_SPHERE),
    (faulty_layers.LastPairWins, check_gradient, RAW, PAIRS),
    (faulty_layers.LastSampleMovesTheCenter, check_centers, RAW, ["center"]),
    (faulty_layers.AddedToTheBottom, check_gradient, RAW, RAW),
    (faulty_layers.AddedToTheBottom, check_shared_features, RAW, RAW),
    (faulty_layers.TimesPropagateDown, check_weights_below, RAW, RAW),
    (faulty_layers.LabelsLeftAlone, check_labels, RAW, RAW),
]


@pytest.mark.parametrize(
    "fault, check, loss, parameters",
    [
        pytest.param(
            fault, check, loss, table[loss], id=f"{fault.__name__}-{check.__name__}-{loss}"
        )
        for fault, check, table, losses in KNOWN
        for loss in losses
    ],
)
def test_check_passes_on_our_layer_and_fails_with_the_fault(
    tmp_path, fault, check, loss, parameters
):
    check(tmp_path, loss, None, parameters)
    with pytest.raises(AssertionError):
        check(tmp_path, loss, fault, parameters)


def test_every_fault_is_tried():
    assert {fault for fault, *_ in KNOWN} == set(faulty_layers.FAULTS)
