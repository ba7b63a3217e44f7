"""GLMLossLayer inside real Caffe nets."""

import json

import caffe
import numpy as np
import pytest
from batches import random_batch, smooth_batch
from glm_reference import glm as reference

from python_layers import glm


def make_net(
    tmp_path, samples, levels, parameters, features="dim: 5", loss_weight=1.0, diagnostics=False
):
    """A net of the layer alone: blobs features, label_1..h and loss."""
    labels = [f"label_{level + 1}" for level in range(levels)]
    inputs = [
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        f"dim: {samples} {shape} }} }} }}"
        for name, shape in [("features", features)] + [(label, "") for label in labels]
    ]
    bottoms = " ".join(f'bottom: "{name}"' for name in ["features"] + labels)
    tops = 'top: "loss" ' + f"loss_weight: {loss_weight} "
    if diagnostics:
        tops += 'top: "diagnostics" loss_weight: 0'
    param_str = json.dumps(json.dumps(parameters)) if isinstance(parameters, dict) else parameters
    prototxt = (
        "force_backward: true\n"
        + "\n".join(inputs)
        + f"""
        layer {{ name: "glm" type: "Python" {bottoms} {tops}
                 python_param {{ module: "python_layers.glm_loss" layer: "GLMLossLayer"
                                 param_str: {param_str} }} }}"""
    )
    path = tmp_path / "net.prototxt"
    path.write_text(prototxt)
    return caffe.Net(str(path), caffe.TRAIN)


def batch(seed, samples, levels, dimensions=5):
    return random_batch(seed, levels, samples, fine_classes=6, dimensions=dimensions)[:2]


def run(net, features, labels):
    net.blobs["features"].data[...] = features.reshape(net.blobs["features"].data.shape)
    for level, values in enumerate(labels, 1):
        net.blobs[f"label_{level}"].data[...] = values.reshape(
            net.blobs[f"label_{level}"].data.shape
        )
    outputs = net.forward()
    net.backward()
    return outputs, net.blobs["features"].diff.reshape(len(features), -1).copy()


@pytest.mark.parametrize("within_gradient", ["paper", "exact"])
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_layer_agrees_with_the_reference(tmp_path, levels, within_gradient):
    options = {"k": 2, "within_gradient": within_gradient, "normalize": levels % 2 == 0}
    margins = [2.0] * levels
    net = make_net(tmp_path, 16, levels, {**options, "margins": margins})
    features, labels = batch(levels, 16, levels)
    outputs, gradient = run(net, features, labels)
    loss, expected, _ = reference(features, labels, margins, **options)
    assert loss > 0
    assert outputs["loss"] == pytest.approx(loss, rel=1e-4)
    assert np.abs(gradient - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("levels", [1, 3])
def test_exact_gradient_by_finite_differences_in_caffe(tmp_path, levels, normalize):
    """Central differences over float32 blobs, good to about 1 %."""
    step, margins = 0.005, [4] * levels
    options = {"within_gradient": "exact", "normalize": normalize}
    features, labels = smooth_batch(step, levels, margins, **options)
    net = make_net(tmp_path, len(features), levels, {"margins": margins, **options}, "dim: 4")
    gradient = run(net, features, labels)[1]
    numeric = np.empty_like(gradient)
    for index in np.ndindex(features.shape):
        side = []
        for sign in (1, -1):
            moved = features.copy()
            moved[index] += sign * step
            side.append(float(run(net, moved, labels)[0]["loss"][0]))
        numeric[index] = (side[0] - side[1]) / (2 * step)
    assert numeric == pytest.approx(gradient, abs=0.01 * float(np.abs(gradient).max()))


@pytest.mark.parametrize("loss_weight", [1.0, 2.0, 0.8])
def test_loss_weight_scales_the_gradient(tmp_path, loss_weight):
    features, labels = batch(1, 12, 2)
    expected = reference(features, labels, [1, 1], within_gradient="paper")[1]
    net = make_net(tmp_path, 12, 2, {}, loss_weight=loss_weight)
    gradient = run(net, features, labels)[1]
    assert gradient == pytest.approx(loss_weight * expected, abs=1e-5)


def test_loss_weight_zero_reports_without_training(tmp_path):
    features, labels = batch(1, 12, 2)
    outputs, gradient = run(make_net(tmp_path, 12, 2, {}, loss_weight=0.0), features, labels)
    assert outputs["loss"] > 0 and not gradient.any()


def test_label_and_feature_blobs_of_any_shape(tmp_path):
    """A fully connected feature, a pooled one, and labels as Slice leaves them."""
    features, labels = batch(2, 8, 2, dimensions=12)
    flat = run(make_net(tmp_path, 8, 2, {}, "dim: 12"), features, labels)
    pooled = run(make_net(tmp_path, 8, 2, {}, "dim: 3 dim: 2 dim: 2"), features, labels)
    assert flat[0]["loss"] == pooled[0]["loss"] and np.array_equal(flat[1], pooled[1])


def test_batch_size_may_change(tmp_path):
    net = make_net(tmp_path, 8, 2, {})
    for samples in (8, 20, 3):
        for name, blob in net.blobs.items():
            if name != "loss":
                blob.reshape(samples, *blob.shape[1:])
        features, labels = batch(samples, samples, 2)
        outputs = run(net, features, labels)[0]
        assert outputs["loss"] == pytest.approx(reference(features, labels, [1, 1])[0], rel=1e-4)


def test_diagnostics_top(tmp_path):
    net = make_net(tmp_path, 16, 3, {"margins": [2, 2, 2]}, diagnostics=True)
    features, labels = batch(4, 16, 3)
    outputs, gradient = run(net, features, labels)
    named = dict(zip(glm.diagnostic_names(3), outputs["diagnostics"], strict=True))
    assert named["loss"] == outputs["loss"][0]
    assert named["between_min_sp"] <= named["between_max_sp"]
    counts = np.bincount(labels[0])
    spread = [
        ((features[labels[0] == c] - features[labels[0] == c].mean(0)) ** 2).sum() / counts[c]
        for c in np.unique(labels[0])
    ]
    assert named["within"] == pytest.approx(np.mean(spread), rel=1e-5)
    alone = make_net(tmp_path, 16, 3, {"margins": [2, 2, 2]})
    assert np.array_equal(gradient, run(alone, features, labels)[1])


def test_average_over_all_classes(tmp_path):
    features, labels = batch(6, 12, 2)
    present = len(np.unique(labels[0]))
    mean = run(make_net(tmp_path, 12, 2, {}), features, labels)[0]["loss"]
    whole = make_net(tmp_path, 12, 2, {"average": "all", "fine_classes": 200})
    assert run(whole, features, labels)[0]["loss"] == pytest.approx(mean * present / 200)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"margin": [1, 1]}, 'unknown parameter "margin"; the nearest known one is "margins"'),
        ({"margins": [1]}, '"margins" has 1 values for 2 label levels'),
        ({"k": "1"}, '"k" must be a whole number'),
        ({"average": "all"}, '"fine_classes" goes with "average": "all"'),
        ({"fine_classes": 9}, '"fine_classes" goes with "average": "all"'),
        ('"k=1"', "param_str is not JSON"),
    ],
)
def test_wrong_parameters_stop_the_net(tmp_path, parameters, message):
    with pytest.raises(ValueError, match="GLMLossLayer.*" + message):
        make_net(tmp_path, 8, 2, parameters)


def test_wrong_data_stops_the_forward_pass(tmp_path):
    net = make_net(tmp_path, 6, 2, {})
    features, labels = batch(0, 6, 2)
    for bad_features, bad_labels, message in [
        (features * np.nan, labels, "hold nan or inf"),
        (features, [np.zeros(6), np.arange(6)], "class 0 of label_1 has two parents"),
    ]:
        with pytest.raises(ValueError, match="GLMLossLayer: .*" + message):
            run(net, bad_features, bad_labels)


def test_more_classes_than_are_averaged_over(tmp_path):
    net = make_net(tmp_path, 6, 1, {"average": "all", "fine_classes": 3})
    with pytest.raises(ValueError, match="GLMLossLayer: label_1 holds class 3, .* only 3"):
        run(net, batch(0, 6, 1)[0], [np.array([0, 0, 1, 2, 3, 3])])


def test_labels_of_another_length_stop_the_reshape(tmp_path):
    net = make_net(tmp_path, 6, 2, {})
    net.blobs["label_2"].reshape(5)
    with pytest.raises(ValueError, match="bottom 2 has 5 labels for 6 samples"):
        net.reshape()
