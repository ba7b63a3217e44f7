"""Rows of the loss table that read all labels or scores: training in Caffe."""

import caffe
import numpy as np
import pytest
import tiny
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from tools.nets import tables
from tools.nets.tables import ALL_LABELS, ALL_SCORES, FEATURE, FINE_LABEL, FINE_SCORES, Loss

FINE, COARSE = ["fc8_fine"], ["fc9_coarse", "fc10_coarse"]
ROWS = {  # name: (class of the layer, what it reads, its bottoms)
    "gtl": ("GTLLossLayer", (FEATURE, ALL_LABELS), ["feature", "label_1", "label_2", "label_3"]),
    "hxe": ("HXELossLayer", (FINE_SCORES, FINE_LABEL), [*FINE, "label_1"]),
    "soft_label": ("SoftLabelLossLayer", (FINE_SCORES, FINE_LABEL), [*FINE, "label_1"]),
    "bgl": (
        "BGLLossLayer",
        (ALL_SCORES, ALL_LABELS),
        [*FINE, *COARSE, "label_1", "label_2", "label_3"],
    ),
    "conditional_softmax": (
        "ConditionalSoftmaxLossLayer",
        (ALL_SCORES, FINE_LABEL),
        [*FINE, *COARSE, "label_1"],
    ),
}


def row(name):
    layer, reads, _ = ROWS[name]

    def parameters(labels):
        return {} if FEATURE in reads else {"hierarchy": labels.hierarchy}

    return Loss(name, name, f"{name} loss", "", layer, reads, 0.5, parameters, lambda given: ())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        tiny.data_set(folder, [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], split)
    return folder


@pytest.mark.parametrize("name", ROWS)
def test_what_a_row_reads(tmp_path, data, monkeypatch, name):
    """Its bottoms; Caffe prints losses only; softmax losses on its scores have no weight."""
    loss = row(name)
    monkeypatch.setitem(tables.LOSSES, name, loss)
    variant, stages = tables.alone(loss)
    csm = ALL_SCORES in loss.reads
    variants = {"bgl", "hxe", "soft_label", "conditional_softmax", "sm_gtl"}
    assert variant in variants and variant.removeprefix("sm_") == name
    assert stages == (("csm", "flat", name) if csm else (name,))
    path = tiny.solver(
        tmp_path, data, stages, embedding=16, more="test_iter: 1 test_interval: 9 random_seed: 5"
    )
    written = text_format.Parse(
        (tmp_path / "tiny_train_val.prototxt").read_text(), caffe_pb2.NetParameter()
    )
    assert [list(layer.bottom) for layer in written.layer if layer.name == name] == [ROWS[name][2]]
    solver = caffe.SGDSolver(str(path))
    net = solver.net
    assert all(output.startswith(("loss_", name)) for output in net.outputs)
    shown = ["loss_fine", "loss_fc9_coarse", "loss_fc10_coarse"][: 3 if csm else 1]
    weights = {output: net.blob_loss_weights[output] for output in (*shown, f"{name}_loss")}
    assert weights == {**dict.fromkeys(shown, 0 if loss.scored else 1), f"{name}_loss": 0.5}
    before = {layer: blobs[0].data.copy() for layer, blobs in net.params.items()}
    solver.step(3)
    for layer, values in before.items():
        assert np.isfinite(net.params[layer][0].data).all()
        assert np.any(net.params[layer][0].data != values), layer
    tested = solver.test_nets[0]
    assert sorted(tested.outputs) == sorted(
        [*shown, *(loss.replace("loss", "accuracy") for loss in shown)]
    )


@pytest.mark.parametrize("name", [name for name in ROWS if FEATURE not in ROWS[name][1]])
def test_the_plain_variant_keeps_its_softmax(tmp_path, data, monkeypatch, name):
    """A row in the table changes nothing in the variants without its stage."""
    tiny.solver(tmp_path, data, ("csm",), embedding=16)
    without = caffe.Net(str(tmp_path / "tiny_train_val.prototxt"), caffe.TRAIN, stages=["csm"])
    monkeypatch.setitem(tables.LOSSES, name, row(name))
    tiny.solver(tmp_path, data, ("csm",), embedding=16)
    net = caffe.Net(str(tmp_path / "tiny_train_val.prototxt"), caffe.TRAIN, stages=["csm"])
    assert list(net._layer_names) == list(without._layer_names)
    assert dict(net.blob_loss_weights) == dict(without.blob_loss_weights)
