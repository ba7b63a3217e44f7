"""The backbones against the published networks: shapes, settings, BVLC's own files and weights.

Sources of the tables: Krizhevsky et al. 2012 with BVLC's models/bvlc_alexnet (AlexNet); Simonyan &
Zisserman 2015, table 1, configuration D, with the model zoo's names (VGG-16); Lin et al. 2015
(bilinear CNN).
"""

import functools
import math
import subprocess
from pathlib import Path

import caffe
import numpy as np
import pytest
import real_data
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from tools.nets import rules, tables

ROOT = Path(__file__).resolve().parents[2]
PREFIX = Path(caffe.__file__).resolve().parents[2]  # where Caffe is installed
MODELS = PREFIX.with_name(PREFIX.name + ".build") / "source/models"  # BVLC's own, if still there
WEIGHTS = real_data.FOLDER / "weights/bvlc_googlenet.caffemodel"

# layer: shape of its blob for one image, shape of its weights (None: it has none)
ALEXNET = {
    "conv1": ((96, 55, 55), (96, 3, 11, 11)),
    "norm1": ((96, 55, 55), None),
    "pool1": ((96, 27, 27), None),
    "conv2": ((256, 27, 27), (256, 48, 5, 5)),
    "norm2": ((256, 27, 27), None),
    "pool2": ((256, 13, 13), None),
    "conv3": ((384, 13, 13), (384, 256, 3, 3)),
    "conv4": ((384, 13, 13), (384, 192, 3, 3)),
    "conv5": ((256, 13, 13), (256, 192, 3, 3)),
    "pool5": ((256, 6, 6), None),
    "fc6": ((4096,), (4096, 9216)),
    "fc7": ((4096,), (4096, 4096)),
}


def vgg16(side, fully_connected):
    """As ALEXNET, for images of side x side; without fully connected layers it ends at conv5_3."""
    shapes, channels = {}, 3
    for block, (layers, outputs) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], 1):
        for layer in range(1, layers + 1):
            shapes[f"conv{block}_{layer}"] = (outputs, side, side), (outputs, channels, 3, 3)
            channels = outputs
        side //= 2
        shapes[f"pool{block}"] = (channels, side, side), None
    if not fully_connected:
        del shapes["pool5"]
        return shapes | {"bilinear": ((512 * 512,), None)}
    return shapes | {"fc6": ((4096,), (4096, 25088)), "fc7": ((4096,), (4096, 4096))}


SHAPES = {"alexnet": ALEXNET, "vgg16": vgg16(224, True), "bcnn": vgg16(448, False)}
# Parameters of the published networks, less those of the layers that the head replaces.
PARAMETERS = {
    "alexnet": 60_965_224 - 4097 * 1000,
    "vgg16": 138_357_544 - 4097 * 1000,
    "googlenet": 6_998_552 - 1025 * 1000,
    "bcnn": 14_714_688,
    "squeezenet": 722_496,
}
# fully connected layers of our head: nothing else may start random
HEAD = {"fc8_fine", "fc9_coarse", "fc10_coarse"}
SETTINGS = {  # momentum 0.9 everywhere; weight decay, lr_policy
    "alexnet": (0.0005, "step"),
    "googlenet": (0.0002, "poly"),
    "vgg16": (0.0005, "step"),
    "bcnn": (0.0005, "step"),
    "squeezenet": (0.0002, "poly"),
}
NETS = list(SETTINGS)


def read(name, message):
    return text_format.Parse((ROOT / f"prototxt/{name}.prototxt").read_text(), message)


@functools.cache
def training(name):
    """{name: layer} of the committed net <name>'s OURS in training, inputs apart."""
    net = read(f"{name}_train_val", caffe_pb2.NetParameter())
    chosen = rules.select(net, caffe.TRAIN, tables.STAGES["ours"])
    return {layer.name: layer for layer in chosen.layer if layer.type != "Data"}


def deploy(net):
    return caffe.Net(str(ROOT / f"prototxt/cub_{net}_deploy.prototxt"), caffe.TEST)


@pytest.mark.parametrize("name", SHAPES)
def test_every_layer_has_the_published_shape(name):
    net = deploy(name)
    blobs = {
        blob: tuple(values.data.shape[1:])
        for blob, values in net.blobs.items()
        if "split" not in blob
    }
    expected = {layer: blob for layer, (blob, _) in SHAPES[name].items()}
    assert {blob: blobs[blob] for blob in expected} == expected
    side = {"alexnet": 227, "vgg16": 224, "bcnn": 448}[name]
    assert blobs.pop("data") == (3, side, side)
    rest = set(blobs) - set(expected)  # the head's, and dropout's top
    assert all(blob.startswith(("fc8", "fc9", "fc10", "prob_")) or blob == "drop7" for blob in rest)
    weights = {layer: shape for layer, (_, shape) in SHAPES[name].items() if shape}
    assert set(net.params) - HEAD == set(weights)
    for layer, shape in weights.items():
        assert [tuple(blob.shape) for blob in net.params[layer]] == [shape, shape[:1]]


@pytest.mark.parametrize("name", NETS)
def test_count_of_parameters(name):
    """The published number of weights without the original classifiers; the head adds others."""
    net = deploy(name)
    count = sum(
        math.prod(blob.shape)
        for layer, blobs in net.params.items()
        if layer not in HEAD
        for blob in blobs
    )
    assert count == PARAMETERS[name] and HEAD < set(net.params)


def test_head_of_the_bilinear_cnn_reads_the_whole_descriptor():
    net = deploy("bcnn")
    assert tuple(net.params["fc8_fine"][0].shape) == (200, 262144)
    assert tuple(net.params["fc9_coarse"][0].shape) == (40, 262144 + 200)
    assert tuple(net.params["fc10_coarse"][0].shape) == (13, 262144 + 200 + 40)


@pytest.mark.parametrize("name", NETS)
def test_learning_rates_and_decay(name):
    """As the originals: biases at twice the rate, without decay; SqueezeNet's file sets nothing."""
    old = {
        layer.name: layer
        for layer in training(f"cub_{name}").values()
        if layer.type in ("Convolution", "InnerProduct")
        and layer.name not in HEAD
        and not layer.name.endswith("classifier_fine")
    }
    assert (
        len(old)
        == {"alexnet": 7, "googlenet": 57 + 4, "vgg16": 15, "bcnn": 13, "squeezenet": 25}[name]
    )
    for layer in old.values():
        # The Bilinear CNN's are two networks in one, whose gradients add up.
        other = {"squeezenet": [], "bcnn": [(0.5, 2), (1, 0)]}
        assert [(p.lr_mult, p.decay_mult) for p in layer.param] == other.get(name, [(1, 1), (2, 0)])


@pytest.mark.parametrize("name", NETS)
def test_solver_settings_are_the_originals(name):
    solver = read(f"cub_{name}_ours_solver", caffe_pb2.SolverParameter())
    decay, policy = SETTINGS[name]
    assert solver.momentum == pytest.approx(0.9) and solver.weight_decay == pytest.approx(decay)
    assert solver.lr_policy == policy and solver.type == "SGD"


def test_every_solver_value_has_its_origin():
    """All fields that are not self-explanatory have a reason beside them."""
    plain = {
        "net",
        "train_state",
        "test_state",
        "gamma",
        "power",
        "weight_decay",
        "display",
        "snapshot_prefix",
    }
    for path in (ROOT / "prototxt").glob("*_ours_solver.prototxt"):
        body = path.read_text().split("\n\n", 1)[1]
        for line in body.splitlines():
            assert "  # " in line or line.split(":")[0].split(" ")[0] in plain, (path.name, line)


def test_fillers_and_normalization():
    """BVLC's numbers, also where its own files are missing."""
    alexnet = training("cub_alexnet")
    for key, (std, bias) in {
        "conv1": (0.01, 0),
        "conv2": (0.01, 0.1),
        "conv3": (0.01, 0),
        "conv4": (0.01, 0.1),
        "conv5": (0.01, 0.1),
        "fc6": (0.005, 0.1),
        "fc7": (0.005, 0.1),
    }.items():
        layer = alexnet[key]
        param = layer.convolution_param if "conv" in key else layer.inner_product_param
        assert param.weight_filler.type == "gaussian"
        assert (param.weight_filler.std, param.bias_filler.value) == pytest.approx((std, bias))
    for layer in training("cub_googlenet").values():
        if layer.type == "Convolution":
            param = layer.convolution_param
            assert param.weight_filler.type == "xavier"
            assert param.bias_filler.value == pytest.approx(0.2)
    for name in ("cub_alexnet", "cub_googlenet"):
        norms = [layer.lrn_param for layer in training(name).values() if layer.type == "LRN"]
        assert len(norms) == 2
        for norm in norms:
            assert (norm.local_size, norm.alpha, norm.beta) == pytest.approx((5, 1e-4, 0.75))
            assert norm.norm_region == norm.ACROSS_CHANNELS


def without_rules(layer):
    """A copy of a layer that all states have."""
    copy = caffe_pb2.LayerParameter()
    copy.CopyFrom(layer)
    copy.ClearField("include")
    return copy


@pytest.mark.parametrize(
    "name, new, folder",
    [
        ("cub_alexnet", {"fc8", "loss", "accuracy"}, "bvlc_alexnet"),
        (
            "cub_googlenet",
            {
                f"loss{i}/{kind}"
                for i in (1, 2, 3)
                for kind in ("classifier", "loss", f"loss{i}", "top-1", "top-5")
            },
            "bvlc_googlenet",
        ),
    ],
)
def test_layers_are_bvlcs_own(name, new, folder):
    """Layer by layer and field by field, fillers and all, as in models/<folder>/train_val.prototxt.

    Ours differ in two places: the dropout before the classifier is not in place, and auxiliary
    classifiers exist in training only.
    """
    path = MODELS / folder / "train_val.prototxt"
    if not path.exists():
        pytest.skip(f"{path} not found: Caffe's source was deleted after the build")
    theirs = text_format.Parse(path.read_text(), caffe_pb2.NetParameter())
    theirs = {
        layer.name: without_rules(layer)
        for layer in theirs.layer
        if layer.type != "Data" and layer.name not in new
    }
    ours = {key: without_rules(layer) for key, layer in training(name).items() if key in theirs}
    dropout = {"cub_alexnet": "drop7", "cub_googlenet": "pool5/drop_7x7_s1"}[name]
    assert list(theirs[dropout].top) == list(theirs[dropout].bottom) == list(ours[dropout].bottom)
    assert list(ours[dropout].top) != list(ours[dropout].bottom)
    ours[dropout].top[:] = theirs[dropout].top
    assert set(ours) == set(theirs)
    for key, layer in theirs.items():
        assert ours[key] == layer, key


@pytest.mark.parametrize("name", NETS)
def test_only_new_layers_start_random(name):
    """What the ImageNet caffemodel lacks is the head and GoogLeNet's two auxiliary classifiers."""
    learned = {
        key
        for key, layer in training(f"cub_{name}").items()
        if layer.type in ("Convolution", "InnerProduct")
    }
    published = {
        "alexnet": set(key for key, (_, shape) in ALEXNET.items() if shape),
        "vgg16": set(key for key, (_, shape) in SHAPES["vgg16"].items() if shape),
        "bcnn": set(key for key, (_, shape) in SHAPES["vgg16"].items() if shape),
    }
    new = learned - published.get(name, set(deploy(name).params) - HEAD)
    auxiliary = {key for key in new if key.startswith(("loss1/", "loss2/"))}
    assert new - auxiliary == HEAD
    assert len(auxiliary) == (6 if name == "googlenet" else 0)


@pytest.mark.skipif(not WEIGHTS.exists(), reason=real_data.missing(WEIGHTS.name))
def test_imagenet_weights_fill_googlenet():
    """All of BVLC GoogLeNet but its classifier has a place of the same name, shape and values."""
    pretrained = caffe_pb2.NetParameter.FromString(WEIGHTS.read_bytes())
    stored = {
        layer.name: layer.blobs for layer in [*pretrained.layer, *pretrained.layers] if layer.blobs
    }
    net = deploy("googlenet")
    assert set(net.params) - HEAD == set(stored) - {"loss3/classifier"}
    net.copy_from(str(WEIGHTS))  # ends the process where a shape differs
    for name in set(net.params) - HEAD:
        for blob, kept in zip(net.params[name], stored[name], strict=True):
            assert np.array_equal(blob.data.ravel(), np.array(kept.data, np.float32)), name


@pytest.mark.parametrize(
    "kind, name",
    [
        *(("net", f"cub_{name}_train_val") for name in NETS),
        ("net", "cub_bcnn_deploy"),
        ("solver", "cub_bbox_bcnn_ours_solver"),
    ],
)
def test_caffe_has_nothing_to_upgrade(kind, name, tmp_path):
    """Caffe's own tools call one of each kind up to date; the rest is written by the same code."""
    tool = PREFIX / f"bin/upgrade_{kind}_proto_text"
    if not tool.exists():
        pytest.skip(f"{tool} not found")
    result = subprocess.run(
        [tool, ROOT / f"prototxt/{name}.prototxt", tmp_path / "out"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "already in latest proto format" in result.stderr
