"""tools/graft.py on three published networks: weights load, Caffe trains, deploy files agree."""

import subprocess

import caffe
import cv2
import field_nets
import nets_data
import numpy as np
import pytest
from caffe.proto import caffe_pb2
from commands import ROOT
from google.protobuf import text_format

SIZES = (7, 3)
# file name, prototxt, side, options, what the command says, feature, layers with weights before it
NETS = {
    "caffenet": ("train_val", field_nets.caffenet, 227, (), "fc7 (4096), what fc8 reads", "fc7", 7),
    "resnet": (
        "ResNet-50-deploy",
        field_nets.resnet50,
        224,
        (),
        "53 of 53 layers use the stored statistics in training too",
        "pool5",
        159,
    ),
    "mobilenet": (
        "mobilenet_deploy",
        field_nets.mobilenet,
        224,
        ("--mean", "103.94,116.78,123.68", "--scale", 0.017),
        "27 of 27 layers use those of the batch in training",
        "pool6",
        81,
    ),
}


def deploy_of(text):
    """Path of a prototxt with an input instead of data layers, losses, accuracies and fillers."""
    net = text_format.Parse(text, caffe_pb2.NetParameter())
    kept = [
        layer for layer in net.layer if layer.type not in ("Data", "Accuracy", "SoftmaxWithLoss")
    ]
    del net.layer[:]
    net.layer.extend(kept)
    for layer in net.layer:
        layer.convolution_param.ClearField("weight_filler")
        layer.inner_product_param.ClearField("weight_filler")
    if not net.input:
        net.input.append("data")
        net.input_dim.extend([1, 3, 227, 227])
    with open("original.prototxt", "w") as file:
        file.write(str(net))
    return "original.prototxt"


@pytest.mark.parametrize("name", NETS)
def test_trains_and_deploys(name, tmp_path, monkeypatch):
    """One step from the original's weights; then the deploy file in Caffe and in OpenCV."""
    stem, text, side, options, says, feature, learned = NETS[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{stem}.prototxt").write_text(text())
    nets_data.build(tmp_path / "data", "mine", ("plant", "genus"), SIZES, side, train=2, test=1)

    # the original network, as a deploy file, is where the weights come from
    rng = np.random.default_rng(0)
    original = caffe.Net(deploy_of(text()), caffe.TEST)
    field_nets.fill(original, rng)
    original.save("original.caffemodel")

    grafted = subprocess.run(
        [
            ROOT / "tools/graft.py",
            "--net",
            f"{stem}.prototxt",
            "--data",
            "data",
            "--out",
            "nets",
            "--variant",
            "ours",
            "--net-name",
            name,
            "--train-batch",
            "2",
            "--max-iter",
            "1",
            "--base-lr",
            "1e-7",
            "--weights",
            "original.caffemodel",
            *map(str, options),
        ],
        capture_output=True,
        text=True,
    )
    assert grafted.returncode == 0, grafted.stderr
    assert says in grafted.stdout
    assert f"has {learned} of the {learned} layers with weights" in grafted.stdout

    image = rng.normal(0, 50 * (0.017 if options else 1), (1, 3, side, side)).astype(np.float32)
    deploy = f"nets/mine_{name}_deploy.prototxt"
    features = []
    for net in (original, caffe.Net(deploy, "original.caffemodel", caffe.TEST)):
        net.blobs["data"].data[...] = image
        net.forward()
        features.append(net.blobs[feature].data)
    assert np.ptp(features[0]) > 0 and np.array_equal(*features)

    trained = subprocess.run(
        [
            "caffe",
            "train",
            "-solver",
            f"nets/mine_{name}_ours_solver.prototxt",
            "-weights",
            "original.caffemodel",
        ],
        capture_output=True,
        text=True,
    )
    assert trained.returncode == 0, trained.stderr[-3000:]

    snapshot = f"snapshots/mine_{name}_ours/model_iter_1.caffemodel"
    net = caffe.Net(deploy, snapshot, caffe.TEST)
    assert set(net.params) - set(original.params) == {"fc8_fine", "fc9_coarse"}
    assert len(set(original.params) - set(net.params)) == 1  # its classifier
    for layer in set(net.params) & set(original.params):
        if not layer.endswith("/bn"):  # whose statistics move in training
            for ours, theirs in zip(net.params[layer], original.params[layer], strict=True):
                assert np.allclose(ours.data, theirs.data, atol=1e-3), layer

    net.blobs["data"].data[...] = image
    ours = net.forward()
    theirs = cv2.dnn.readNetFromCaffe(deploy, snapshot)
    theirs.setInput(image)
    assert sorted(ours) == ["prob_fc9_coarse", "prob_fine"]
    for output, classes in zip(("prob_fine", "prob_fc9_coarse"), SIZES):
        assert ours[output].shape == (1, classes) and abs(ours[output].sum() - 1) < 1e-5
        assert np.ptp(ours[output]) > 1e-3
        assert np.allclose(ours[output], theirs.forward(output), atol=1e-4)
