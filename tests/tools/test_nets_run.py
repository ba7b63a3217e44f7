"""The nets in Caffe itself: what they print, steps of training, settings and levels, deploy."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import caffe
import cv2
import nets_data
import numpy as np
import programs
import pytest

from tools.nets import tables

ROOT = Path(__file__).resolve().parents[2]
BATCH = 4
ACCURACIES = ["accuracy_fine", "accuracy_fc9_coarse", "accuracy_fc10_coarse"]
LOSSES = ["loss_fine", "loss_fc9_coarse", "loss_fc10_coarse"]
EVERY = [part for variant in tables.STAGES for part in ("--variant", variant)]
AUXILIARY = {"loss1/loss_fine", "loss2/loss_fine"}


def tool(name, *arguments):
    """Run a tool of the repository in the current folder; returns what it prints."""
    done = programs.run(f"tools/{name}.py", *arguments, cwd=Path.cwd())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make(net, *options, out="nets", batch=BATCH, iterations=2):
    """Nets and solvers in the current folder; `caffe train` runs the iterations."""
    tool(
        "make_prototxt",
        "--net",
        net,
        "--out",
        out,
        "--train-batch",
        batch,
        "--max-iter",
        iterations,
        *options,
    )


def train(solver):
    """`caffe train` itself; returns its log."""
    done = subprocess.run(
        [shutil.which("caffe"), "train", "-solver", solver],
        text=True,
        env=os.environ | {"GLOG_minloglevel": "0"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Current folder with data sets of noise in data/, and the nets of every network in nets/."""
    folder = tmp_path_factory.mktemp("repository")
    for name, side in (("cub", 232), ("cards", 150)):
        facts = tables.DATASETS[name]
        nets_data.build(
            folder / "data" / name, name, facts.levels, facts.sizes, side, 2 * BATCH, BATCH
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make("squeezenet", "--data", "data/cards", *EVERY)
        for net in ("googlenet", "alexnet"):
            make(net, "--data", "data/cub", *EVERY, batch=2, iterations=50)
        yield folder


def trained_losses(variant, levels):
    """Names of the losses that training prints."""
    rows = [tables.LOSSES[stage] for stage in tables.STAGES[variant] if stage in tables.LOSSES]
    replaced = any(row.marginals for row in rows)
    return {f"{row.name}_loss" for row in rows} | set(() if replaced else LOSSES[:levels])


def load(name, phase, variant):
    return caffe.Net(f"nets/{name}_train_val.prototxt", phase, stages=list(tables.STAGES[variant]))


@pytest.mark.parametrize("name", ["cards_squeezenet", "cub_googlenet"])
@pytest.mark.parametrize("variant", tables.STAGES)
def test_only_losses_and_accuracies_are_printed(folder, name, variant):
    levels = 3 if "csm" in tables.STAGES[variant] else 1
    train = trained_losses(variant, levels) | (AUXILIARY if "googlenet" in name else set())
    assert set(load(name, caffe.TRAIN, variant).outputs) == train
    assert set(load(name, caffe.TEST, variant).outputs) == {*LOSSES[:levels], *ACCURACIES[:levels]}


@pytest.mark.parametrize("sizes", [(6,), (12, 6, 3, 2)], ids=["one level", "four levels"])
def test_other_depths(folder, sizes):
    """Every variant of a net for a label tree of another depth, and a step of OURS."""
    depth = len(sizes)
    levels, name = [f"level{i}" for i in range(depth)], f"deep{depth}"
    nets_data.build(folder / "data" / name, name, levels, sizes, 227, BATCH, BATCH)
    make("squeezenet", "--data", f"data/{name}", *EVERY)
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
    """`caffe train` itself, with the large-margin layer in it: it ends well, and has learned."""
    log = train(f"nets/cards_squeezenet_{variant}_solver.prototxt")
    assert not re.search("upgrad|deprecated", log, re.IGNORECASE)
    values = dict(re.findall(r"Test net output #\d+: (\w+) = (\S+)", log))
    levels = 3 if "csm" in tables.STAGES[variant] else 1
    assert set(values) == {*LOSSES[:levels], *ACCURACIES[:levels]}
    assert np.isfinite([float(value) for value in values.values()]).all()
    printed = set(re.findall(r"Train net output #\d+: (\w+) = ", log))
    assert printed == trained_losses(variant, levels)
    net = load("cards_squeezenet", caffe.TEST, variant)
    net.copy_from(f"snapshots/cards_squeezenet_{variant}/model_iter_2.caffemodel")
    for layer in net.params:
        assert np.isfinite(net.params[layer][0].data).all()
    biases = [net.params[layer][1].data for layer in net.params]  # all of them start at zero
    assert all(np.any(bias) for bias in biases)


def test_attributes(folder):
    """Two steps of BGL with a table of attributes, and its deploy net's probabilities."""
    rows = ["card\t" + "\t".join(f"attribute {c}" for c in range(5))]
    for card in range(52):
        rows.append("\t".join([f"card {card}", *(str(int(card % (c + 2) == 0)) for c in range(5))]))
    Path("attributes.tsv").write_text("\n".join(rows) + "\n")
    make_it = ("squeezenet", "--data", "data/cards", "--name", "traits", "--variant", "bgl")
    with pytest.raises(AssertionError, match="--attributes: attributes.tsv: class 1 .* has no 1"):
        make(*make_it, "--attributes", "attributes.tsv")
    lines = [re.sub(r"(\t0){5}$", "\t1\t1\t0\t0\t0", line) for line in rows]
    Path("attributes.tsv").write_text("\n".join(lines) + "\n")
    make(*make_it, "--attributes", "attributes.tsv")
    assert "bgl_loss" in train("nets/traits_squeezenet_bgl_solver.prototxt")
    net = load("traits_squeezenet", caffe.TEST, "bgl")
    weights = "snapshots/traits_squeezenet_bgl/model_iter_2.caffemodel"
    net.copy_from(weights)
    assert net.params["attributes_1"][0].data.shape == (5, 512)
    before = load("traits_squeezenet", caffe.TRAIN, "bgl")
    assert np.any(net.params["attributes_1"][1].data)  # its bias starts at zero: it has learned
    assert list(before.bottom_names["bgl"])[:4] == [
        "fc8_fine",
        "fc9_coarse",
        "fc10_coarse",
        "attributes_1",
    ]
    net.forward()
    assert np.exp(net.blobs["fc8_fine"].data).sum(axis=1) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("variant", ["bgl", "conditional_softmax", "hxe", "soft_label"])
def test_a_tree_of_another_data_set(folder, variant):
    """One sentence, before the first iteration, names the file and the numbers of classes."""
    deep = "data/other"
    if not Path(deep).exists():
        nets_data.build(folder / deep, "other", ("a", "b", "c"), (7, 4, 2), 150, BATCH, BATCH)
    text = Path("nets/cards_squeezenet_train_val.prototxt").read_text()
    Path("nets/wrong_train_val.prototxt").write_text(
        text.replace("data/cards/hierarchy.tsv", f"{deep}/hierarchy.tsv")
    )
    with pytest.raises(
        ValueError, match=f"net has 52 scores for the level a, and {deep}/hierarchy.tsv has 7 cl"
    ):
        caffe.Net("nets/wrong_train_val.prototxt", caffe.TRAIN, stages=list(tables.STAGES[variant]))


@pytest.mark.parametrize(
    "name, variant",
    [
        *(("cub_googlenet", variant) for variant in ("csm", "ours", "sm_center")),
        ("cub_alexnet", "ours"),
    ],
)
def test_a_step_of_larger_nets(folder, name, variant):
    """Two iterations of the solver through pycaffe, of 50: no test, no snapshot.

    The head is SqueezeNet's, which trains in every variant; here are the kinds that differ in what
    they do to the backbone: scores alone, feature and large-margin loss, a layer with a blob.
    """
    solver = caffe.SGDSolver(f"nets/{name}_{variant}_solver.prototxt")
    first, head = next(iter(solver.net.params)), "fc8_fine"
    before = {layer: solver.net.params[layer][0].data.copy() for layer in (first, head)}
    solver.step(2)
    for layer, weights in before.items():
        now = solver.net.params[layer][0].data
        assert np.isfinite(now).all() and np.any(now != weights)
    losses = [blob for blob in solver.net.outputs if "loss" in blob]
    assert all(np.isfinite(solver.net.blobs[blob].data).all() for blob in losses)


def test_boxes_from_training_to_evaluation(folder):
    """One net file reads either setting: solver, snapshot, check and evaluation of _bbox."""
    facts = tables.DATASETS["cub"]
    nets_data.build(
        folder / "data/cub_bbox", "cub_bbox", facts.levels, facts.sizes, 256, BATCH, BATCH, seed=1
    )
    make("squeezenet", "--dataset", "cub", "--bbox", "--variant", "sm_glm", out="boxes")
    path = Path("boxes/cub_bbox_squeezenet_sm_glm_solver.prototxt")
    assert sorted(os.listdir("boxes")) == [
        path.name,
        "cub_squeezenet_deploy.prototxt",
        "cub_squeezenet_train_val.prototxt",
    ]
    # a test of all 5794 images that CUB has is too long here
    path.write_text(re.sub(r"test_iter: \d+", "test_iter: 1", path.read_text()))
    log = train(path)
    assert set(re.findall(r"Opened lmdb (\S+)", log)) == {
        f"data/cub_bbox/{split}_{kind}"
        for split in ("train", "test")
        for kind in ("images", "labels")
    }
    assert "data/cub_bbox/test_labels" in tool("check_env", "--solver", path)
    tool("evaluate", "--solver", path, "--out", "boxes/result.json")
    result = json.loads(Path("boxes/result.json").read_text())
    assert (result["data"], result["images"]) == ("data/cub_bbox", BATCH)
    assert result["experiment"] == "cub_bbox_squeezenet_sm_glm"


@pytest.mark.parametrize(
    "options, chosen",
    [
        (("--levels", "2"), (0, 1)),
        (("--levels", "card"), (0,)),
        (("--levels", "color, card"), (0, 2)),
        (("--levels", "3"), (0, 1, 2)),
    ],
)
def test_some_levels_of_a_tree(folder, options, chosen):
    """The label LMDB has three levels; the net classifies some, and prints nothing of the rest."""
    name = f"levels{len(chosen)}{chosen[-1]}"
    make("squeezenet", "--data", "data/cards", "--name", name, *options, *EVERY)
    sizes = [tables.DATASETS["cards"].sizes[level] for level in chosen]
    for variant, stages in tables.STAGES.items():
        net = load(f"{name}_squeezenet", caffe.TEST, variant)
        count = len(chosen) if "csm" in stages else 1
        assert set(net.outputs) == {*LOSSES[:count], *ACCURACIES[:count]}
    net = load(f"{name}_squeezenet", caffe.TRAIN, "ours")
    net.forward()
    assert set(net.outputs) == {*LOSSES[: len(chosen)], "glm_loss"}
    heads = ["fc8_fine", "fc9_coarse", "fc10_coarse"][: len(chosen)]
    assert [net.blobs[head].shape[1] for head in heads] == sizes
    of = {layer: list(net.bottom_names[layer]) for layer in net.bottom_names}
    for loss, level in zip(LOSSES, chosen):
        label = net.blobs[of[loss][1]].data.ravel()
        assert np.array_equal(label, net.blobs["label"].data[:, level].ravel())
    assert np.isfinite(net.blobs["glm_loss"].data).all()
    deploy = caffe.Net(f"nets/{name}_squeezenet_deploy.prototxt", caffe.TEST)
    assert set(deploy.outputs) == {"prob_fine", *(f"prob_{head}" for head in heads[1:])}


def test_levels_from_training_to_evaluation(folder):
    """fc9_coarse of `--levels card,color` is scored on the tree's third level."""
    make(
        "squeezenet",
        "--data",
        "data/cards",
        "--name",
        "skipped",
        "--levels",
        "card,color",
        "--variant",
        "ours",
    )
    solver = "nets/skipped_squeezenet_ours_solver.prototxt"
    train(solver)
    tool("evaluate", "--solver", solver, "--out", "skipped.json")
    card, suit, color = json.loads(Path("skipped.json").read_text())["levels"]
    assert "head" in card and "head" not in suit and "head" in color and "from_fine" in suit


STEP = """
import resource, sys, caffe, numpy
from caffe.proto import caffe_pb2
from google.protobuf import text_format
param = text_format.Parse(open(sys.argv[1]).read(), caffe_pb2.SolverParameter())
for field in ("test_iter", "test_interval", "test_state"):  # a second net fills its weights again
    param.ClearField(field)
open("train_only.prototxt", "w").write(str(param))
solver = caffe.SGDSolver("train_only.prototxt")
solver.step(1)
assert all(numpy.isfinite(solver.net.blobs[name].data).all() for name in solver.net.outputs)
assert numpy.any(solver.net.params["conv1_1"][0].diff)
deploy = caffe.Net(sys.argv[2], caffe.TEST)
deploy.share_with(solver.net)
if "bcnn" in sys.argv[2]:  # whose feature is as long for images of any size
    deploy.blobs["data"].reshape(1, 3, 224, 224)
deploy.blobs["data"].data[...] = solver.net.blobs["data"].data[:, :, :224, :224]
del solver  # its activations
for name, values in deploy.forward().items():
    assert numpy.isclose(values.sum(), 1) and numpy.ptp(values) > 0, name
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.parametrize("net, side", [("vgg16", 224), ("bcnn", 448)])
def test_a_step_of_the_heaviest_nets(folder, net, side):
    """OURS with one image, then its deploy file: together they fit into 4 GB."""
    facts = tables.DATASETS["aircraft"]
    nets_data.build(folder / "data" / net, "aircraft", facts.levels, facts.sizes, side, 1, 1)
    make(net, "--data", f"data/{net}", "--variant", "ours", batch=1, iterations=50)
    files = [f"nets/aircraft_{net}_{kind}.prototxt" for kind in ("ours_solver", "deploy")]
    done = subprocess.run([sys.executable, "-c", STEP, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 4000, "MiB"


@pytest.mark.parametrize(
    "name, side",
    [("cards_squeezenet", 144), ("cub_googlenet", 224), ("cub_alexnet", 227), ("cub_vgg16", 224)],
)
def test_opencv_agrees_with_caffe(tmp_path, name, side):
    """Random weights, the deploy file, one image: the same probabilities in Caffe and OpenCV.

    Layers of 4096 outputs have 64 here: of 550 MB of weights most would be theirs.
    """
    text = (ROOT / f"prototxt/{name}_deploy.prototxt").read_text()
    deploy, weights = str(tmp_path / "deploy.prototxt"), str(tmp_path / "weights")
    Path(deploy).write_text(text.replace("num_output: 4096", "num_output: 64"))
    net = caffe.Net(deploy, caffe.TEST)
    rng = np.random.default_rng(0)
    for blobs in net.params.values():  # scaled to keep the size of activations through ReLUs
        values = blobs[0].data
        rng.standard_normal(values.shape, np.float32, values)
        values *= np.sqrt(2 / values[0].size)
        blobs[1].data[...] = rng.normal(0, 0.1, blobs[1].data.shape)
    net.save(weights)
    image = rng.standard_normal((1, 3, side, side), np.float32)
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
