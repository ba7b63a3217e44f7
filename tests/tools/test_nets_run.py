"""The nets in Caffe itself: what they print, two steps of training, pretrained weights, deploy."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import caffe
import cv2
import numpy as np
import pytest

import nets_data
from tools.nets import tables

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "../shared/data/weights/bvlc_googlenet.caffemodel"
BATCH = 4
ACCURACIES = ["accuracy_fine", "accuracy_fc9_coarse", "accuracy_fc10_coarse"]
LOSSES = ["loss_fine", "loss_fc9_coarse", "loss_fc10_coarse"]
AUXILIARY = {"loss1/loss_fine", "loss2/loss_fine"}

# Shapes of the weights in the published networks (biases: the first number).
ALEXNET = {"conv1": (96, 3, 11, 11), "conv2": (256, 48, 5, 5), "conv3": (384, 256, 3, 3),
           "conv4": (384, 192, 3, 3), "conv5": (256, 192, 3, 3), "fc6": (4096, 9216),
           "fc7": (4096, 4096)}


def make(folder, name, net):
    """Nets for data/<name>, in nets/."""
    subprocess.run([sys.executable, ROOT / "tools/make_prototxt.py", "--data", f"data/{name}",
                    "--net", net, "--out", "nets", "--train-batch", str(BATCH), "--max-iter", "2"],
                   cwd=folder, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Current folder with data sets of noise in data/, and the nets of every network in nets/."""
    folder = tmp_path_factory.mktemp("repository")
    for name, side in (("cub", 232), ("cards", 150)):
        facts = tables.DATASETS[name]
        nets_data.build(folder / "data" / name, name, facts.levels, facts.sizes, side, 2 * BATCH,
                        BATCH)
    for name, net in (("cards", "squeezenet"), ("cub", "googlenet"), ("cub", "alexnet")):
        make(folder, name, net)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def load(name, phase, variant):
    return caffe.Net(f"nets/{name}_train_val.prototxt", phase, stages=list(tables.STAGES[variant]))


@pytest.mark.parametrize("name", ["cards_squeezenet", "cub_googlenet"])
@pytest.mark.parametrize("variant", list(tables.STAGES))
def test_only_losses_and_accuracies_are_printed(folder, name, variant):
    levels = 3 if "csm" in tables.STAGES[variant] else 1
    metric = {f"{stage}_loss" for stage in tables.STAGES[variant] if stage not in ("csm", "skip")}
    train = set(LOSSES[:levels]) | metric | (AUXILIARY if "googlenet" in name else set())
    assert set(load(name, caffe.TRAIN, variant).outputs) == train
    assert set(load(name, caffe.TEST, variant).outputs) == {*LOSSES[:levels], *ACCURACIES[:levels]}


@pytest.mark.parametrize("sizes", [(6,), (12, 6, 3, 2)], ids=["one level", "four levels"])
def test_other_depths(folder, sizes):
    """Every variant of a net for a label tree of another depth, and a step of OURS."""
    depth = len(sizes)
    levels, name = [f"level{i}" for i in range(depth)], f"deep{depth}"
    nets_data.build(folder / "data" / name, name, levels, sizes, 227, BATCH, BATCH)
    make(folder, name, "squeezenet")
    for variant, stages in tables.STAGES.items():
        count = depth if "csm" in stages else 1
        net = load(f"{name}_squeezenet", caffe.TEST, variant)
        assert sum(output.startswith("loss_") for output in net.outputs) == count
        assert sum(output.startswith("accuracy_") for output in net.outputs) == count
        assert len(net.outputs) == 2 * count
    net = load(f"{name}_squeezenet", caffe.TRAIN, "ours")
    losses = net.forward()
    net.backward()
    assert len(losses) == depth + 1
    assert all(np.isfinite(loss).all() for loss in losses.values())
    last = ["fc8_fine", "fc9_coarse", "fc10_coarse", "fc11_coarse"][depth - 1]
    read = 512 + sum(sizes[:-1])  # the feature and all finer scores
    assert net.params[last][0].data.shape == (sizes[-1], read)
    assert np.any(net.params[last][0].diff) and np.any(net.params["conv1"][0].diff)


def test_labels_reach_the_right_level(folder):
    net = load("cards_squeezenet", caffe.TRAIN, "ours")
    net.forward()
    labels = np.stack([net.blobs[f"label_{j}"].data.ravel() for j in (1, 2, 3)], axis=1)
    tree = nets_data.tree(tables.DATASETS["cards"].sizes)
    assert np.array_equal(labels, tree[labels[:, 0].astype(int)])


@pytest.mark.parametrize("variant", list(tables.STAGES))
def test_two_steps_of_training(folder, variant):
    """`caffe train` itself, with the large-margin layer in it: it ends well, and has learnt."""
    solver = f"nets/cards_squeezenet_{variant}_solver.prototxt"
    result = subprocess.run([shutil.which("caffe"), "train", "-solver", solver], text=True,
                            env=os.environ | {"GLOG_minloglevel": "0"}, capture_output=True)
    assert result.returncode == 0, result.stderr[-2000:]
    values = dict(re.findall(r"Test net output #\d+: (\w+) = (\S+)", result.stderr))
    levels = 3 if "csm" in tables.STAGES[variant] else 1
    assert set(values) == {*LOSSES[:levels], *ACCURACIES[:levels]}
    assert np.isfinite([float(value) for value in values.values()]).all()
    for stage in ("glm", *tables.RIVALS):
        assert (f"{stage}_loss = " in result.stderr) == (stage in tables.STAGES[variant])
    net = load("cards_squeezenet", caffe.TEST, variant)
    net.copy_from(f"snapshots/cards_squeezenet_{variant}/model_iter_2.caffemodel")
    for layer in net.params:
        assert np.isfinite(net.params[layer][0].data).all()
    biases = [net.params[layer][1].data for layer in net.params]  # all of them start at zero
    assert all(np.any(bias) for bias in biases)


def test_alexnet_has_the_published_shapes(folder):
    net = load("cub_alexnet", caffe.TEST, "ours")
    shapes = {name: tuple(blobs[0].shape) for name, blobs in net.params.items()}
    assert {name: shapes[name] for name in ALEXNET} == ALEXNET
    assert all(tuple(net.params[name][1].shape) == shape[:1] for name, shape in ALEXNET.items())
    assert {name: shapes[name] for name in set(shapes) - set(ALEXNET)} == {
        "fc8_fine": (200, 4096), "fc9_coarse": (40, 4296), "fc10_coarse": (13, 4336)}
    assert net.blobs["pool5"].data.shape == (BATCH, 256, 6, 6)


@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"{WEIGHTS.name} is not in ../shared/data/weights")
def test_imagenet_weights_fill_googlenet(folder):
    """All of BVLC GoogLeNet but its classifiers has a place of the same name and shape."""
    pretrained = caffe.proto.caffe_pb2.NetParameter.FromString(WEIGHTS.read_bytes())
    stored = {layer.name: layer.blobs for layer in [*pretrained.layer, *pretrained.layers]
              if layer.blobs}
    net = load("cub_googlenet", caffe.TRAIN, "ours")
    new = {name for name in net.params if name.startswith(("fc", "loss1/", "loss2/"))}
    assert set(net.params) - new == set(stored) - {"loss3/classifier"}
    assert {name for name in new if name.startswith("fc")} == {
        "fc8_fine", "fc9_coarse", "fc10_coarse"}
    net.copy_from(str(WEIGHTS))  # ends the process where a shape differs
    for name in set(net.params) - new:
        for blob, kept in zip(net.params[name], stored[name], strict=True):
            assert np.array_equal(blob.data.ravel(), np.array(kept.data, np.float32)), name


@pytest.mark.parametrize("name, side", [("cards_squeezenet", 144), ("cub_googlenet", 224)])
def test_opencv_agrees_with_caffe(folder, name, side):
    """Random weights, the deploy file, one image: the same probabilities in Caffe and OpenCV."""
    deploy, weights = f"nets/{name}_deploy.prototxt", f"{name}.caffemodel"
    net = caffe.Net(deploy, caffe.TEST)
    rng = np.random.default_rng(0)
    for blobs in net.params.values():  # scaled to keep the size of activations through ReLUs
        values = blobs[0].data
        values[...] = rng.normal(0, np.sqrt(2 / values[0].size), values.shape)
        blobs[1].data[...] = rng.normal(0, 0.1, blobs[1].data.shape)
    net.save(weights)
    image = rng.normal(0, 50, (1, 3, side, side)).astype(np.float32)
    net.blobs["data"].data[...] = image
    ours = net.forward()
    theirs = cv2.dnn.readNetFromCaffe(deploy, weights)
    theirs.setInput(image)
    assert sorted(ours) == ["prob_fc10_coarse", "prob_fc9_coarse", "prob_fine"]
    for output in ours:
        assert np.allclose(ours[output].sum(), 1, atol=1e-5) and np.ptp(ours[output]) > 1e-3
        assert np.allclose(ours[output].ravel(), theirs.forward(output).ravel(), atol=1e-4), output


def test_trained_variant_fits_the_deploy_file(folder):
    """Scores of the trained net and of the deploy file are those of the same weights."""
    trained = load("cards_squeezenet", caffe.TEST, "ours")
    trained.save("trained.caffemodel")
    trained.forward()
    net = caffe.Net("nets/cards_squeezenet_deploy.prototxt", "trained.caffemodel", caffe.TEST)
    net.blobs["data"].reshape(*trained.blobs["data"].shape)
    net.blobs["data"].data[...] = trained.blobs["data"].data
    net.forward()
    for name in ("fc8_fine", "fc9_coarse", "fc10_coarse"):
        assert np.allclose(net.blobs[name].data, trained.blobs[name].data, atol=1e-5)
