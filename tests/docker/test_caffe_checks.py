"""Input that this build of Caffe refuses: invalid labels, and losses that are not finite.

A failed check is an exception: one sentence and status 1 of the caffe binary, caffe.Error in
pycaffe (docker/patches/0007 and 0009).
"""

import os
import subprocess

import caffe
import lmdb
import numpy as np
import pytest
from caffe.proto import caffe_pb2

CLASSES = 3

DATA = """
layer {{ name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {{
  shape {{ dim: 4 dim: {classes} }} shape {{ dim: 4 dim: 1 dim: 1 dim: 1 }}
  data_filler {{ type: "constant" value: 0.5 }}
  data_filler {{ type: "constant" value: {label} }} }} }}
"""
FC = """
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param {
  num_output: 3 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""

# layers that take labels for indices
BY_LABEL = {
    "SoftmaxWithLoss": "loss_param {{ {ignore} }}",
    "Accuracy": "accuracy_param {{ {ignore} }}",
    "InfogainLoss": 'bottom: "h" loss_param {{ {ignore} }}',
    "MultinomialLogisticLoss": "",
    "HingeLoss": "",
}
MATRIX = """
layer { name: "h" type: "DummyData" top: "h" dummy_data_param { shape {
  dim: 1 dim: 1 dim: 3 dim: 3 } } }
"""
IGNORING = ("SoftmaxWithLoss", "Accuracy", "InfogainLoss")


def net(folder, text, phase=caffe.TRAIN):
    path = folder / "net.prototxt"
    path.write_text(text)
    return caffe.Net(str(path), phase)


def label_text(kind, label, ignore=""):
    fields = BY_LABEL[kind].format(ignore=ignore)
    layer = f'type: "{kind}" bottom: "data" bottom: "label" top: "out" {fields}'
    matrix = MATRIX if kind == "InfogainLoss" else ""
    return DATA.format(classes=CLASSES, label=label) + matrix + f'layer {{ name: "x" {layer} }}'


def label_net(folder, kind, label, ignore=""):
    return net(folder, label_text(kind, label, ignore))


def run_caffe(folder, *arguments):
    done = subprocess.run(
        ["caffe", *arguments],
        cwd=folder,
        env=os.environ | {"GLOG_minloglevel": "0", "GLOG_logtostderr": "1"},
        capture_output=True,
        text=True,
        errors="replace",
    )
    return done.returncode, done.stderr.strip().splitlines()


def train(folder, text, **fields):
    """(exit status, log's lines) of `caffe train` on a net."""
    (folder / "net.prototxt").write_text(text)
    values = {
        "net": '"net.prototxt"',
        "base_lr": 0.1,
        "lr_policy": '"fixed"',
        "max_iter": 20,
        "display": 1,
        "snapshot": 1,
        "snapshot_prefix": '"model"',
        "random_seed": 1,
    } | fields
    (folder / "solver.prototxt").write_text("\n".join(f"{k}: {v}" for k, v in values.items()))
    return run_caffe(folder, "train", "-solver", "solver.prototxt")


@pytest.mark.parametrize("label", [-1, CLASSES, 1e9, "nan"])
@pytest.mark.parametrize("kind", BY_LABEL)
def test_a_label_that_is_no_class_is_named(tmp_path, kind, label):
    with pytest.raises(caffe.Error) as caught:
        label_net(tmp_path, kind, label).forward()
    value = label if label == "nan" else f"{label:g}"
    assert str(caught.value).startswith(
        f"layer 'x' ({kind}): label {value} is outside of the 3 classes (0 to 2) of 'data'"
    )


@pytest.mark.parametrize("kind", BY_LABEL)
def test_labels_that_are_classes_pass(tmp_path, kind):
    for label in range(CLASSES):
        label_net(tmp_path, kind, label).forward()


@pytest.mark.parametrize("kind", IGNORING)
def test_the_label_to_ignore_passes(tmp_path, kind):
    label_net(tmp_path, kind, -1, "ignore_label: -1").forward()


def test_training_stops_at_a_label_that_is_no_class(tmp_path):
    status, lines = train(tmp_path, DATA.format(classes=5, label=7) + FC)
    assert status == 1 and not list(tmp_path.glob("model*"))
    assert lines[-1].endswith(
        "caffe train stopped: layer 'loss' (SoftmaxWithLoss): label 7 is outside of the 3 classes "
        "(0 to 2) of 'fc': the net and its data do not belong together"
    )


def test_scores_that_are_nan_are_never_right(tmp_path):
    text = label_text("Accuracy", 0).replace("value: 0.5", "value: nan")
    found = net(tmp_path, text).forward()
    assert found["out"] == 0


def test_scores_of_one_class_beyond_nan(tmp_path):
    """As before for finite scores: ties count as better."""
    path = tmp_path / "net.prototxt"
    path.write_text(
        'layer { name: "i" type: "Input" top: "s" top: "l" input_param { '
        "shape { dim: 4 dim: 3 } shape { dim: 4 } } }"
        'layer { name: "a" type: "Accuracy" bottom: "s" bottom: "l" top: "a" }'
    )
    found = caffe.Net(str(path), caffe.TEST)
    found.blobs["s"].data[...] = [[3, 1, 2], [1, 1, 0], [0, 2, np.nan], [np.nan, 0, 5]]
    found.blobs["l"].data[...] = [0, 0, 1, 2]
    assert found.forward()["a"] == 0.25


BATCH_NORM = """
layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn"
  batch_norm_param { use_global_stats: true eps: 0 } }
layer { name: "fc" type: "InnerProduct" bottom: "bn" top: "fc" inner_product_param {
  num_output: 3 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""


def test_a_loss_that_is_nan_at_once_asks_for_the_weights(tmp_path):
    """Stored batch statistics that no weights have filled: 0 / 0."""
    text = DATA.format(classes=5, label=0).replace("value: 0.5", "value: 0") + BATCH_NORM
    status, lines = train(tmp_path, text)
    assert status == 1 and not list(tmp_path.glob("model*"))
    assert "iteration 0: the loss is" in lines[-1] and "was -weights forgotten?" in lines[-1]
    assert "nan" in lines[-1]


def test_a_loss_that_diverges_later_stops_before_the_weights_are_spoilt(tmp_path):
    status, lines = train(
        tmp_path,
        DATA.format(classes=5, label=0)
        + FC.replace("SoftmaxWithLoss", "EuclideanLoss").replace("num_output: 3", "num_output: 1"),
        base_lr=30,
        max_iter=1000,
    )
    assert status == 1
    assert "training has diverged" in lines[-1] and "-weights" not in lines[-1]
    newest = max(tmp_path.glob("*.caffemodel"), key=lambda path: int(path.stem.split("_")[-1]))
    model = caffe_pb2.NetParameter.FromString(newest.read_bytes())
    blobs = [np.array(blob.data) for layer in model.layer for blob in layer.blobs]
    assert blobs and all(np.isfinite(blob).all() for blob in blobs)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """The last update of a training may be the one that spoils them."""
    text = DATA.format(classes=5, label=0) + FC
    status, lines = train(tmp_path, text, base_lr=3e38, weight_decay=3e38, max_iter=1)
    assert status == 1 and not list(tmp_path.glob("model*"))
    assert "the sum of the weights of layer 'fc' is" in lines[-1]


def test_an_unknown_bottom_is_an_exception(tmp_path):
    text = DATA.format(classes=5, label=0) + FC.replace('bottom: "data"', 'bottom: "nothing"')
    with pytest.raises(caffe.Error, match="Unknown bottom blob 'nothing' .layer 'fc'"):
        net(tmp_path, text)
    status, lines = train(tmp_path, text)
    assert status == 1 and "caffe train stopped: Unknown bottom blob 'nothing'" in lines[-1]


def test_a_failed_check_names_its_place(tmp_path):
    text = DATA.format(classes=5, label=0) + FC.replace('bottom: "label"', 'bottom: "fc"')
    with pytest.raises(caffe.Error, match=r"^Check failed: .*\(softmax_loss_layer.cpp:\d+\)$"):
        net(tmp_path, text)


def broken(record):
    return caffe_pb2.Datum(data=b"no image", encoded=True, label=record).SerializeToString()


@pytest.mark.parametrize("content", [broken(1), b"\xff\xff", b""], ids=["image", "bytes", "empty"])
@pytest.mark.parametrize("bad", [0, 2])
def test_a_record_that_cannot_be_decoded_is_named(tmp_path, bad, content):
    """Data layers decode in a thread of their own, whose caller gets the exception."""
    good = caffe_pb2.Datum(channels=1, height=2, width=2, data=bytes(4), label=1)
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 20) as env, env.begin(write=True) as writer:
        for i in range(4):
            writer.put(b"%08d" % i, content if i == bad else good.SerializeToString())
    text = (
        'layer { name: "d" type: "Data" top: "data" top: "label" data_param { '
        f'source: "{tmp_path}/db" backend: LMDB batch_size: 1 }} }}'
    )
    says = rf"layer 'd': record {bad:08d} of {tmp_path}/db: "
    with pytest.raises(caffe.Error, match=says):
        found = net(tmp_path, text)
        for _ in range(4):
            found.forward()
    status, lines = run_caffe(tmp_path, "time", "-model", "net.prototxt", "-iterations", "4")
    assert status == 1 and f"caffe time stopped: layer 'd': record {bad:08d}" in lines[-1]
