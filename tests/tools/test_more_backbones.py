"""Networks that prototxt/ does not have: VGG-19, and the Bilinear CNN of two networks."""

import math

import caffe
import numpy as np
import pytest
from caffe.proto import caffe_pb2
from commands import ROOT, assert_error, run
from google.protobuf import text_format

from tools.nets import backbones, rules, tables

HEAD = ("fc8_fine", "fc9_coarse", "fc10_coarse")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder with the files of all three networks on CUB."""
    folder = tmp_path_factory.mktemp("nets")
    for net in ("vgg19", "bcnn", "bcnn2"):
        options = ("--net", net, "--variant", "ours", "--out", folder, "--name", "more")
        done = run("make_prototxt", "--dataset", "cub", *options)
        assert done.returncode == 0, done.stderr
        for box in ("", "_bbox"):
            folders = ROOT / f"snapshots/more{box}_{net}_ours"
            if folders.exists():
                folders.rmdir()
    return folder


def deploy(made, net):
    path = made / f"more_{net}_deploy.prototxt"
    return text_format.Parse(path.read_text(), caffe_pb2.NetParameter())


def loaded(made, tmp_path, net, side):
    """caffe.Net of a deploy file with a smaller input, without the fully connected layers."""
    proto = deploy(made, net)
    proto.layer[0].input_param.shape[0].dim[2:] = [side, side]
    end = next(i for i, layer in enumerate(proto.layer) if layer.type == "InnerProduct")
    chosen = caffe_pb2.NetParameter(layer=proto.layer[:end], force_backward=True)
    path = tmp_path / f"{net}.prototxt"
    path.write_text(str(chosen))
    return caffe.Net(str(path), caffe.TEST)


def test_vgg19_is_configuration_e(made, tmp_path):
    """Simonyan & Zisserman 2015, table 1: 16 convolutions, 144 million parameters."""
    net = loaded(made, tmp_path, "vgg19", 64)
    names = [f"conv{i}_{j}" for i, n in enumerate((2, 2, 4, 4, 4), 1) for j in range(1, n + 1)]
    assert list(net.params) == names and len(names) == 16
    assert tuple(net.blobs["conv5_4"].shape) == (1, 512, 4, 4)
    convolutions = sum(math.prod(blob.shape) for blobs in net.params.values() for blob in blobs)
    inner = {
        layer.name: layer.inner_product_param.num_output
        for layer in deploy(made, "vgg19").layer
        if layer.type == "InnerProduct"
    }
    assert inner == dict(zip(("fc6", "fc7", *HEAD), (4096, 4096, 200, 40, 13)))
    fully_connected = 25089 * 4096 + 4097 * 4096
    assert convolutions + fully_connected == 143_667_240 - 4097 * 1000


@pytest.mark.parametrize("net", ["vgg19", "bcnn2"])
def test_only_the_head_starts_random(made, net):
    """All other layers have a name of the model zoo's file, after second/ in the second network."""
    train = text_format.Parse(
        (made / f"more_{net}_train_val.prototxt").read_text(), caffe_pb2.NetParameter()
    )
    chosen = rules.select(train, caffe.TRAIN, tables.STAGES["ours"])
    learned = {layer.name for layer in chosen.layer if layer.param and layer.type != "Python"}
    zoo = {f"conv{i}_{j}" for i in range(1, 6) for j in range(1, 5)} | {"fc6", "fc7"}
    for layer in chosen.layer:
        if layer.type == "Convolution":
            assert [(p.lr_mult, p.decay_mult) for p in layer.param] == [(1, 1), (2, 0)]
    assert {name.removeprefix(backbones.SECOND_STREAM) for name in learned} - zoo == set(HEAD)


def test_two_networks_start_equal_and_part(made, tmp_path):
    """With tools/two_streams.py's weights the descriptor is that of one network; its gradient is
    twice that of one only where the classifier is symmetric."""
    one = loaded(made, tmp_path, "bcnn", 32)
    weights, both = tmp_path / "one.caffemodel", tmp_path / "both.caffemodel"
    rng = np.random.default_rng(0)
    for filters, _ in one.params.values():  # the deploy file has no fillers
        wide = (2 / math.prod(filters.shape[1:])) ** 0.5
        filters.data[...] = rng.standard_normal(tuple(filters.shape), np.float32) * wide
    one.save(str(weights))
    done = run("two_streams", "--weights", weights, "--out", both)
    assert done.returncode == 0 and "26 layers" in done.stdout, done.stderr
    two = loaded(made, tmp_path, "bcnn2", 32)
    assert len(two.params) == 2 * len(one.params) == 26
    two.copy_from(str(both))
    image = rng.normal(size=(1, 3, 32, 32)) * 50
    for net in (one, two):
        net.blobs["data"].data[...] = image
        net.forward()
    expected = one.blobs["bilinear"].data
    np.testing.assert_allclose(two.blobs["bilinear"].data, expected, atol=1e-5)

    random = rng.normal(size=(512, 512)).astype(np.float32)
    for gradient, equal in ((random + random.T, True), (random, False)):
        found = []
        for net in (one, two):
            net.blobs["bilinear"].diff[...] = gradient.reshape(1, -1)
            net._backward(len(net.layers) - 1, 1)
            found += [
                net.params[name][0].diff.copy() for name in net.params if name.endswith("conv5_3")
            ]
        single, first, second = found
        scale = np.abs(single).max()
        assert np.abs(first + second - single).max() < 1e-3 * scale
        assert (np.abs(first - second).max() < 1e-3 * scale) == equal
    assert_error(run("two_streams", "--weights", weights, "--out", both), "exists: remove it")
    lacking = caffe_pb2.NetParameter(name="none")
    lacking.layer.add(name="conv1_1", type="Convolution")
    (tmp_path / "lacks.caffemodel").write_bytes(lacking.SerializeToString())
    done = run("two_streams", "--weights", tmp_path / "lacks.caffemodel", "--out", tmp_path / "o")
    assert_error(done, "has no weights of conv1_1: give those of VGG-16")
