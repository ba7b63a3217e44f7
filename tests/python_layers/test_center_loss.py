"""CenterLossLayer inside real Caffe nets, and its centers under Caffe's solvers and snapshots."""

import shutil
import subprocess

import caffe
import numpy as np
import pytest
from batches import random_batch
from center_reference import center as reference, moved
from layer_nets import fill, make_net, prototxt, run

LAYER = "center_loss.CenterLossLayer"
CLASSES = 6
FIXED = "param { lr_mult: 0 decay_mult: 0 }"


def batch(seed, samples=12):
    features, labels, _ = random_batch(seed, 1, samples, 4, dimensions=4)
    return features, labels[0]


def net_with_centers(tmp_path, parameters=None, **options):
    """(net, its centers, a copy of them); centers away from zero."""
    net = make_net(tmp_path, LAYER, {"num_classes": CLASSES, **(parameters or {})}, **options)
    (blob,) = net.params["metric"]
    blob.data[...] = np.random.default_rng(0).normal(size=(CLASSES, 4))
    return net, blob, blob.data.copy()


@pytest.mark.parametrize("loss_weight", [0.0, 1.0, 2.0, 0.003])
def test_loss_weight_scales_the_gradient_and_not_the_centers(tmp_path, loss_weight):
    net, centers, before = net_with_centers(tmp_path, loss_weight=loss_weight)
    features, labels = batch(1)
    expected_loss, expected = reference(features, labels, before)
    loss, gradient = run(net, features, labels)
    assert loss == pytest.approx(expected_loss)
    assert gradient == pytest.approx(loss_weight * expected, abs=1e-6)
    assert centers.data == pytest.approx(moved(features, labels, before), abs=1e-6)
    assert not centers.diff.any()


def test_centers_begin_at_zero(tmp_path):
    net = make_net(tmp_path, LAYER, {"num_classes": 7}, features="dim: 3 dim: 2")
    assert tuple(net.params["metric"][0].shape) == (7, 6)
    assert not net.params["metric"][0].data.any()


def test_centers_given_in_the_prototxt_are_kept(tmp_path):
    given = "blobs { shape { dim: 2 dim: 4 } " + " ".join(f"data: {i}" for i in range(8)) + " }"
    net = make_net(tmp_path, LAYER, {"num_classes": 2}, extra=given)
    assert [blob.data.tolist() for blob in net.params["metric"]] == [[[0, 1, 2, 3], [4, 5, 6, 7]]]
    with pytest.raises(ValueError, match="CenterLossLayer: the centers are 2 x 4, but .* is 3 x 4"):
        make_net(tmp_path, LAYER, {"num_classes": 3}, extra=given)


def test_centers_move_once_per_forward_pass_and_only_after_a_backward_pass(tmp_path):
    net, centers, before = net_with_centers(tmp_path, {"alpha": 0.3})
    features, labels = batch(2)
    fill(net, features, labels)
    net.forward()
    net.forward()
    assert np.array_equal(centers.data, before)
    net.backward()
    net.backward()
    after = moved(features, labels, before, 0.3)
    assert centers.data == pytest.approx(after, abs=1e-6)
    run(net, features, labels)
    assert centers.data == pytest.approx(moved(features, labels, after, 0.3), abs=1e-6)


@pytest.mark.parametrize("phase, parameters", [(caffe.TEST, {}), (caffe.TRAIN, {"alpha": 0})])
def test_centers_that_stay(tmp_path, phase, parameters):
    net, centers, before = net_with_centers(tmp_path, parameters, phase=phase)
    features, labels = batch(3)
    gradient = run(net, features, labels)[1]
    assert gradient == pytest.approx(reference(features, labels, before)[1], abs=1e-6)
    assert np.array_equal(centers.data, before)


@pytest.mark.parametrize("extra, moves", [("param { lr_mult: 0 }", False), ("", True)])
def test_where_nothing_below_learns(tmp_path, extra, moves):
    """The gradient of the features is not wanted, and stays as it was."""
    net, centers, before = net_with_centers(tmp_path, extra=extra, force_backward=False)
    features, labels = batch(6)
    fill(net, features, labels)
    net.blobs["features"].diff[...] = 9
    net.forward()
    net.backward()
    assert (net.blobs["features"].diff == 9).all()
    expected = moved(features, labels, before) if moves else before
    assert centers.data == pytest.approx(expected, abs=1e-6)


def test_two_losses_on_the_same_features_add_up(tmp_path):
    text = prototxt(LAYER, {"num_classes": CLASSES})
    layer = text[text.index('layer { name: "metric"') :]
    (tmp_path / "net.prototxt").write_text(
        text
        + layer.replace('"metric"', '"again"').replace(
            'top: "loss" loss_weight: 1', 'top: "loss_again" loss_weight: 2'
        )
    )
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TRAIN)
    features, labels = batch(7)
    expected = reference(features, labels, np.zeros((CLASSES, 4)))[1]
    assert run(net, features, labels)[1] == pytest.approx(3 * expected, abs=1e-6)


def test_blobs_of_any_shape_and_a_batch_size_that_changes(tmp_path):
    net, centers, _ = net_with_centers(tmp_path, features="dim: 2 dim: 1 dim: 2", labels="dim: 1")
    for samples in (12, 30, 3, 1):
        for name in ("features", "label_1"):
            net.blobs[name].reshape(samples, *list(net.blobs[name].shape)[1:])
        features, labels = batch(samples, samples)
        before = centers.data.copy()
        loss, gradient = run(net, features, labels)
        expected_loss, expected = reference(features, labels, before)
        assert loss == pytest.approx(expected_loss)
        assert gradient == pytest.approx(expected, abs=1e-6)
        assert centers.data == pytest.approx(moved(features, labels, before), abs=1e-6)


def test_a_batch_without_samples_moves_nothing(tmp_path):
    net, centers, before = net_with_centers(tmp_path)
    fill(net, *batch(8))
    net.forward()
    net.blobs["features"].reshape(0, 4)
    net.blobs["label_1"].reshape(0)
    assert net.forward()["loss"] == 0
    net.backward()
    assert np.array_equal(centers.data, before)


def test_features_of_another_size_stop_the_reshape(tmp_path):
    net = net_with_centers(tmp_path)[0]
    net.blobs["features"].reshape(12, 5)
    with pytest.raises(ValueError, match="CenterLossLayer: the centers are 6 x 4, but .* is 6 x 5"):
        net.reshape()


def test_labels_beyond_num_classes_stop_the_forward_pass(tmp_path):
    net, centers, before = net_with_centers(tmp_path)
    features, labels = batch(4)
    with pytest.raises(
        ValueError,
        match="^CenterLossLayer: label_1 holds class 6, but there are only 6 classes, numbered "
        "from 0; correct the layer's number of classes or the labels$",
    ):
        run(net, features, np.where(labels == 0, 6, labels))
    assert np.array_equal(centers.data, before)


def test_diagnostics_top(tmp_path):
    net, _, before = net_with_centers(tmp_path, diagnostics=True)
    features, labels = batch(5)
    fill(net, features, labels)
    present = np.unique(labels)
    assert net.forward()["diagnostics"] == pytest.approx(
        np.float32(
            [
                reference(features, labels, before)[0],
                len(present),
                np.linalg.norm(before[present], axis=1).mean(),
                np.linalg.norm(reference(features, labels, before)[1]),
            ]
        )
    )


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({}, 'param_str needs "num_classes"'),
        ({"num_classes": 0}, '"num_classes" must be a whole number from 1'),
        ({"num_classes": 5, "alpha": 1.5}, '"alpha" must be a number from 0 to 1, not 1.5'),
        ({"num_classes": 5, "memory": 9}, 'unknown parameter "memory"'),
        ({"classes": 5}, 'unknown parameter "classes"; the nearest known one is "num_classes"'),
    ],
)
def test_wrong_parameters_stop_the_net(tmp_path, parameters, message):
    with pytest.raises(ValueError, match="CenterLossLayer.*" + message):
        make_net(tmp_path, LAYER, parameters)


def make_solver(tmp_path, extra, iter_size=1, **fields):
    """A solver with everything that could disturb the centers."""
    (tmp_path / "net.prototxt").write_text(prototxt(LAYER, {"num_classes": CLASSES}, extra=extra))
    lines = {
        "net": f'"{tmp_path}/net.prototxt"',
        "base_lr": 0.1,
        "momentum": 0.9,
        "lr_policy": '"step"',
        "stepsize": 1,
        "gamma": 0.5,
        "clip_gradients": 0.01,
        "iter_size": iter_size,
        "snapshot_prefix": f'"{tmp_path}/model"',
        **fields,
    }
    path = tmp_path / "solver.prototxt"
    path.write_text("".join(f"{name}: {value}\n" for name, value in lines.items()))
    return caffe.get_solver(str(path))


@pytest.mark.parametrize("iter_size", [1, 2])
@pytest.mark.parametrize(
    "fields, extra",
    [
        ({}, FIXED),
        ({"weight_decay": 0.1}, FIXED),
        ({"weight_decay": 0.1}, "param { lr_mult: 0 }"),
        ({}, ""),
        ({"type": '"Adam"', "weight_decay": 0.1, "momentum2": 0.99}, FIXED),
    ],
)
def test_alpha_is_the_same_in_every_solver(tmp_path, fields, extra, iter_size):
    """Momentum, decay, clipping and learning rate leave the centers alone; iter_size: batches."""
    solver = make_solver(tmp_path, extra, iter_size, **fields)
    expected = np.zeros((CLASSES, 4))
    for iteration in range(4):
        features, labels = batch(iteration)
        fill(solver.net, features, labels)
        solver.step(1)
        for _ in range(iter_size):
            expected = moved(features, labels, expected)
        assert solver.net.params["metric"][0].data == pytest.approx(expected, abs=1e-5)


def test_a_forgotten_param_line_only_decays_the_centers(tmp_path):
    solver = make_solver(tmp_path, "", weight_decay=0.1, momentum=0, clip_gradients=-1)
    features, labels = batch(0)
    fill(solver.net, features, labels)
    solver.step(1)
    assert solver.net.params["metric"][0].data == pytest.approx(
        moved(features, labels, np.zeros((CLASSES, 4))) * (1 - 0.1 * 0.1), abs=1e-6
    )


NET = """
force_backward: true
layer { name: "ones" type: "DummyData" top: "ones" top: "zero"
        dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 }
                           data_filler { value: 1 } data_filler { value: 0 } } }
layer { name: "minus" type: "DummyData" top: "minus" top: "two"
        dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 }
                           data_filler { value: -4 } data_filler { value: 2 } } }
layer { name: "features" type: "Concat" bottom: "ones" bottom: "minus" top: "features"
        concat_param { axis: 0 } }
layer { name: "label_1" type: "Concat" bottom: "zero" bottom: "two" top: "label_1"
        concat_param { axis: 0 } }
layer { name: "center" type: "Python" bottom: "features" bottom: "label_1" top: "center_loss"
        loss_weight: 0.003 param { lr_mult: 0 decay_mult: 0 }
        python_param { module: "python_layers.center_loss" layer: "CenterLossLayer"
                       param_str: '{"num_classes": 4}' } }
"""


def train(tmp_path, max_iter, *arguments):
    """`caffe train` to max_iter; the snapshot's centers."""
    solver = tmp_path / "solver.prototxt"
    solver.write_text(f"""net: "{tmp_path}/net.prototxt" base_lr: 0.01 momentum: 0.9
        weight_decay: 0.1 lr_policy: "fixed" max_iter: {max_iter} test_iter: 2 test_interval: 1
        solver_mode: CPU snapshot_prefix: "{tmp_path}/model" """)
    result = subprocess.run(
        [shutil.which("caffe"), "train", "-solver", solver, *arguments],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    model = caffe.proto.caffe_pb2.NetParameter.FromString(
        (tmp_path / f"model_iter_{max_iter}.caffemodel").read_bytes()
    )
    (blob,) = next(layer for layer in model.layer if layer.name == "center").blobs
    return np.array(blob.data).reshape(blob.shape.dim)


def test_snapshots_keep_the_centers_and_testing_does_not_move_them(tmp_path):
    """Two samples of a class at x, from 0, with alpha 1/2: each iteration leaves 2/3 of the way."""
    (tmp_path / "net.prototxt").write_text(NET)
    goal = np.array([[1], [0], [-4], [0]]) * np.ones(3)
    assert train(tmp_path, 2) == pytest.approx(goal * (1 - (2 / 3) ** 2), abs=1e-6)
    resumed = train(tmp_path, 5, "-snapshot", tmp_path / "model_iter_2.solverstate")
    assert resumed == pytest.approx(goal * (1 - (2 / 3) ** 5), abs=1e-6)
    finetuned = train(tmp_path, 1, "-weights", tmp_path / "model_iter_2.caffemodel")
    assert finetuned == pytest.approx(goal * (1 - (2 / 3) ** 3), abs=1e-6)


def test_the_test_net_sees_the_centers_of_the_training_net(tmp_path):
    net = tmp_path / "net.prototxt"
    net.write_text(NET)
    (tmp_path / "solver.prototxt").write_text(
        f'net: "{net}" base_lr: 1 lr_policy: "fixed" test_iter: 1 test_interval: 100'
    )
    solver = caffe.get_solver(str(tmp_path / "solver.prototxt"))
    losses = []
    for _ in range(2):
        losses.append(float(solver.test_nets[0].forward()["center_loss"][0]))
        solver.step(1)
    assert losses == pytest.approx([3 * 17 / 4, 3 * 17 / 4 * (2 / 3) ** 2])
