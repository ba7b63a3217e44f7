"""Options of tools/make_prototxt.py beyond the paper, in real Caffe: labels, schedules, inputs."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import caffe
import cv2
import nets_data
import numpy as np
import pytest
from caffe.proto import caffe_pb2
from commands import ROOT
from google.protobuf import text_format
from graft_nets import AUXILIARY, CLASSIFIER, CONV, FC, ONE, OUTPUTS, data_layers, graft

from tools.nets import rules, schedules, tables
from tools.studies import cells, plan, settings

EVERY = [part for variant in tables.STAGES for part in ("--variant", variant)]
SHARE = 0.1


def make(*options):
    """tools/make_prototxt.py in the current folder."""
    return subprocess.run(
        [sys.executable, ROOT / "tools/make_prototxt.py", *map(str, options)],
        capture_output=True,
        text=True,
    )


def made(*options):
    done = make(*options)
    assert done.returncode == 0, done.stderr


def refused(says, *options):
    done = make(*options)
    assert done.returncode in (1, 2) and says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "error: " in done.stderr


def parsed(path, message=caffe_pb2.NetParameter):
    return text_format.Parse(Path(path).read_text(), message())


def body(path):
    """The text of a prototxt without its comments."""
    return re.sub(r"(?m)^#.*\n", "", Path(path).read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Current folder with a data set of 12 -> 4 classes in data/mine."""
    folder = tmp_path_factory.mktemp("repository")
    nets_data.build(folder / "data/mine", "mine", ("plant", "genus"), (12, 4), 232, train=4, test=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


# --- label smoothing ------------------------------------------------------------------------------

MINE = ("--data", "data/mine", "--net", "squeezenet")
RUN = (*MINE, "--crop", 64, "--train-batch", 4, "--max-iter", 2)


@pytest.fixture(scope="module")
def smoothed(folder):
    made(*RUN, *EVERY, "--label-smoothing", SHARE, "--out", "smoothed")
    made(*RUN, *EVERY, "--out", "plain")
    return "smoothed/mine_squeezenet_train_val.prototxt"


def reference(scores, labels, share):
    """(loss, its gradient) of the cross-entropy with smoothed targets, by sample, float64."""
    loss, gradient = 0.0, np.zeros(scores.shape)  # B x C
    for i, (row, label) in enumerate(zip(scores.astype(np.float64), labels)):
        total = sum(math.exp(score) for score in row)
        for c, score in enumerate(row):
            target = (1 - share) * (c == label) + share / len(row)
            loss -= target * (score - math.log(total)) / len(scores)
            gradient[i, c] = (math.exp(score) / total - target) / len(scores)
    return loss, gradient


@pytest.mark.parametrize(
    "variant, classifier, level", [("sm", "fc8_fine", 1), ("csm", "fc9_coarse", 2)]
)
def test_smoothed_loss_and_gradient(smoothed, variant, classifier, level):
    """Of the last classifier, into which nothing but its own losses sends a gradient."""
    net = caffe.Net(smoothed, caffe.TRAIN, stages=list(tables.STAGES[variant]))
    net.forward()
    net.params[classifier][0].data[...] *= 3 / np.ptp(
        net.blobs[classifier].data
    )  # far from uniform
    values = net.forward()
    net.backward()
    scores, labels = net.blobs[classifier].data, net.blobs[f"label_{level}"].data.ravel()
    assert np.ptp(scores) > 1
    loss, gradient = reference(scores, labels.astype(int), SHARE)
    name = f"loss_{'fine' if level == 1 else classifier}"
    weights = net.blob_loss_weights
    found = sum(weights[one] * float(values[one]) for one in (name, f"{name}_smoothing"))
    assert found == pytest.approx(loss, rel=1e-5)
    assert float(values[name]) == pytest.approx(
        reference(scores, labels.astype(int), 0)[0], rel=1e-5
    )  # what is printed as ever
    np.testing.assert_allclose(net.blobs[classifier].diff, gradient, atol=1e-7)


def of_matrix(scores, labels, matrix, path):
    """(loss, gradient) of one InfogainLoss layer with its matrix in a file."""
    blob = caffe_pb2.BlobProto(num=1, channels=1, height=len(matrix), width=len(matrix))
    blob.data.extend(matrix.ravel().tolist())
    path.write_bytes(blob.SerializeToString())
    net = path.with_suffix(".prototxt")
    net.write_text(
        'force_backward: true layer { name: "in" type: "Input" top: "scores" top: "labels" '
        f"input_param {{ shape {{ dim: {scores.shape[0]} dim: {scores.shape[1]} }} "
        f"shape {{ dim: {len(labels)} }} }} }}"
        'layer { name: "loss" type: "InfogainLoss" bottom: "scores" bottom: "labels" top: "loss" '
        f'infogain_loss_param {{ source: "{path}" }} }}'
    )
    net = caffe.Net(str(net), caffe.TRAIN)
    net.blobs["scores"].data[...], net.blobs["labels"].data[...] = scores, labels
    loss = float(net.forward()["loss"])
    net.backward()
    return loss, net.blobs["scores"].diff


def test_the_reference_is_the_infogain_loss_of_the_smoothed_identity(tmp_path):
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(5, 7)).astype(np.float32) * 3, rng.integers(7, size=5)
    loss, gradient = reference(scores, labels, 0.3)
    matrix = 0.7 * np.eye(7) + 0.3 / 7
    caffes, slopes = of_matrix(scores, labels, matrix, tmp_path / "H.binaryproto")
    assert caffes == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(slopes, gradient, atol=1e-6)


def weights(net, phase, variant):
    """{(type, scores): loss_weight} of the softmax and infogain losses of one state."""
    return {
        (layer.type, layer.bottom[0]): layer.loss_weight[0]
        for layer in rules.select(net, phase, tables.STAGES[variant]).layer
        if layer.type in ("SoftmaxWithLoss", "InfogainLoss")
    }


@pytest.mark.parametrize("variant", tables.STAGES)
def test_what_is_smoothed(smoothed, variant):
    """Every softmax loss with a weight, in training; the sum of the weights stays."""
    plain, net = parsed(smoothed.replace("smoothed", "plain", 1)), parsed(smoothed)
    assert weights(net, caffe.TEST, variant) == weights(plain, caffe.TEST, variant)
    before, after = weights(plain, caffe.TRAIN, variant), weights(net, caffe.TRAIN, variant)
    expected = {}
    for (kind, scores), weight in before.items():
        expected[kind, scores] = weight * (1 - SHARE)
        if weight:
            expected["InfogainLoss", scores] = weight * SHARE
    assert after == pytest.approx(expected)
    assert any(before.values()) == tables.has_softmax(variant)
    caffe.Net(smoothed, caffe.TRAIN, stages=list(tables.STAGES[variant])).forward()


def test_auxiliary_classifiers_are_smoothed(folder):
    made("--dataset", "cub", "--net", "googlenet", "--label-smoothing", SHARE, "--out", "auxiliary")
    found = weights(parsed("auxiliary/cub_googlenet_train_val.prototxt"), caffe.TRAIN, "sm")
    assert found == pytest.approx(
        {
            (kind, scores): weight * share
            for scores, weight in (
                ("fc8_fine", 1),
                ("loss1/classifier_fine", 0.3),
                ("loss2/classifier_fine", 0.3),
            )
            for kind, share in (("SoftmaxWithLoss", 1 - SHARE), ("InfogainLoss", SHARE))
        }
    )


def test_no_smoothing_is_not_written_and_deploy_files_are_the_same(smoothed):
    made(*RUN, *EVERY, "--label-smoothing", 0, "--out", "zero")
    for kind in ("train_val", "deploy"):
        assert body(f"zero/mine_squeezenet_{kind}.prototxt") == body(
            f"plain/mine_squeezenet_{kind}.prototxt"
        )
    assert body("smoothed/mine_squeezenet_deploy.prototxt") == body(
        "plain/mine_squeezenet_deploy.prototxt"
    )


def test_smoothing_is_refused_where_no_softmax_loss_is_trained(folder):
    words = ("--variant", "bgl", "--variant", "hxe", "--label-smoothing", 0.1, "--out", "no")
    refused("--label-smoothing is for softmax losses, which bgl and hxe do not have", *RUN, *words)
    refused("0 to 1 expected", *RUN, "--label-smoothing", 1.5, "--out", "no")
    assert not Path("no").exists()


def test_the_flows_of_a_smoothed_net(smoothed):
    """tools/flows.py shows both losses of each classifier."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools/flows.py", "--iterations", "0", "--tsv", "flows.tsv"]
        + ["--solver", "smoothed/mine_squeezenet_csm_solver.prototxt"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in Path("flows.tsv").read_text().splitlines()]
    flows = {line[1]: float(line[2]) for line in lines if line[0] == "0"}
    names = ("loss_fine", "loss_fc9_coarse")
    assert {f"{name}{more}" for name in names for more in ("", "_smoothing")} == set(flows)
    assert flows["loss_fine_smoothing"] == pytest.approx(SHARE)


def test_a_study_smooths_what_has_softmax_losses():
    settings.check({"label-smoothing": 0.1, "schedule": "cosine", "warm-up": 5}, "here")
    applied = [variant for variant in tables.STAGES if settings.applies("label-smoothing", variant)]
    assert {"sm", "ours", "fgon"} < set(applied)
    assert set(tables.STAGES) - set(applied) == {"bgl", "hxe", "soft_label", "conditional_softmax"}


def test_a_grafted_net_with_an_auxiliary_classifier(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nets_data.build(tmp_path / "data", "mine", ("plant", "genus"), (12, 4), 16, train=8, test=4)
    old = AUXILIARY.replace("loss_weight: 0.3", "loss_weight: 0.3 loss_param { normalize: false }")
    text = data_layers("crop_size: 16") + CONV + old + FC + CLASSIFIER + OUTPUTS
    done = graft(text, *ONE, "--label-smoothing", SHARE)
    assert not done.returncode, done.stderr
    net = caffe.Net("nets/mine_mini_train_val.prototxt", caffe.TRAIN, stages=["csm", "skip", "glm"])
    net.forward()
    assert net.blob_loss_weights["aux/loss_smoothing"] == pytest.approx(0.03)
    assert net.blob_loss_weights["loss_fc9_coarse_smoothing"] == pytest.approx(SHARE)


# --- schedules ------------------------------------------------------------------------------------

TRIVIAL = """
layer { name: "data" type: "DummyData" top: "x" top: "y"
        dummy_data_param { shape { dim: 1 dim: 1 } shape { dim: 1 dim: 1 } } }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc"
        inner_product_param { num_output: 1 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "y" top: "loss" }
"""


def solver(folder, *options):
    """(path, values) of the solver that make_prototxt writes, but for its net, which is trivial."""
    made(*MINE, "--out", folder, "--variant", "sm", *options)
    values = parsed(folder / "mine_squeezenet_sm_solver.prototxt", caffe_pb2.SolverParameter)
    (folder / "net.prototxt").write_text(TRIVIAL)
    values.net, values.display = str(folder / "net.prototxt"), 1
    values.snapshot_prefix = str(folder / "model")
    for field in ("test_iter", "test_interval", "test_initialization"):
        values.ClearField(field)
    path = folder / "solver.prototxt"
    path.write_text(str(values))
    return path, values


def log(path, *words):
    """What `caffe train` prints."""
    done = subprocess.run(
        ["caffe", "train", "-solver", *map(str, (path, *words))],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOG_minloglevel": "0"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


def rates(path, *words):
    """{iteration: learning rate} that `caffe train` prints."""
    printed = re.findall(r"Iteration (\d+), lr = (\S+)", log(path, *words))
    return {int(iteration): float(rate) for iteration, rate in printed}


@pytest.mark.parametrize("iterations", [700, 60])
def test_cosine(folder, tmp_path, iterations):
    """The rate that Caffe prints stays as near to the cosine as the solver's comment says."""
    path, values = solver(
        tmp_path, "--schedule", "cosine", "--max-iter", iterations, "--base-lr", 0.02
    )
    found = rates(path)
    assert sorted(found) == list(range(iterations))
    assert values.lr_policy == "multistep"
    text = (tmp_path / "mine_squeezenet_sm_solver.prototxt").read_text()
    percent = float(re.search(r"within (\S+) % of it, down to 1 %", text)[1])
    assert max(map(len, text.splitlines())) < 200 and percent < (4 if iterations == 700 else 30)
    off = {}
    for iteration, rate in found.items():
        exact = 0.02 * (1 + math.cos(math.pi * iteration / iterations)) / 2
        if exact >= 0.01 * 0.02:
            off[iteration] = abs(rate / exact - 1)
        else:
            assert rate == pytest.approx(0.01 * 0.02, rel=0.7)  # the last stair
    assert max(off.values()) == pytest.approx(percent / 100, rel=0.06)
    assert max(off) > 0.9 * iterations


def test_stairs_of_any_length():
    for iterations in (1, 2, 3, 10, 999, 2**31 - 1):
        stairs = schedules.staircase(iterations)
        assert all(0 < step < iterations for step in stairs.steps)
        assert list(stairs.steps) == sorted(stairs.steps)
    assert schedules.staircase(2**31 - 1).error < 0.0265  # half a stair of 5 %


@pytest.mark.parametrize("schedule, exact", [("step", None), ("poly", lambda t: 1 - t)])
def test_other_schedules(folder, tmp_path, schedule, exact):
    path, _ = solver(tmp_path, "--schedule", schedule, "--max-iter", 30, "--base-lr", 0.5)
    for iteration, rate in rates(path).items():
        share = exact(iteration / 30) if exact else (1 if iteration < 20 else 0.1)
        assert rate == pytest.approx(0.5 * share, rel=1e-4)


# --- other inputs ---------------------------------------------------------------------------------

GOOGLENET = ("--net", "googlenet", "--train-batch", 1, "--max-iter", 1, "--variant", "ours")


def test_googlenet_reads_448_pixels(folder):
    """The layers, with the same weights, of a larger image; its feature is the mean of the maps."""
    nets_data.build(folder / "data/big", "big", ("plant", "genus"), (12, 4), 512, train=2, test=1)
    made("--data", "data/big", *GOOGLENET, "--crop", 448, "--out", "big")
    made("--data", "data/big", *GOOGLENET, "--out", "usual")
    shapes = {}
    for name in ("big", "usual"):
        net = caffe.Net(f"{name}/big_googlenet_train_val.prototxt", caffe.TRAIN, stages=["csm"])
        shapes[name] = {
            layer: [blob.data.shape for blob in blobs] for layer, blobs in net.params.items()
        }
        if name == "big":
            net.forward()
            net.backward()
            assert net.blobs["data"].data.shape == (1, 3, 448, 448)
            maps = net.blobs["inception_5b/output"].data  # 1 x 1024 x 14 x 14
            feature = net.blobs["pool5/7x7_s1"].data
            assert maps.shape[2:] == (14, 14) and np.ptp(feature) > 0
            np.testing.assert_allclose(feature[:, :, 0, 0], maps.mean(axis=(2, 3)), rtol=1e-4)
            # the auxiliary classifiers see all positions, four by four
            at, pooled = net.blobs["inception_4a/output"].data, net.blobs["loss1/ave_pool"].data
            corners = [
                at[0, :, y : y + 10, x : x + 10].mean((1, 2)) for y in (0, 18) for x in (0, 18)
            ]
            found = [pooled[0, :, y, x] for y in (0, 3) for x in (0, 3)]
            np.testing.assert_allclose(found, corners, rtol=1e-4)
            assert pooled.shape[2:] == (4, 4)
    assert shapes["big"] == shapes["usual"]
    deploy = caffe.Net("big/big_googlenet_deploy.prototxt", caffe.TEST)
    assert deploy.blobs["data"].data.shape == (1, 3, 448, 448)


@pytest.mark.parametrize(
    "dataset, net, crop, place",
    [
        ("cub", "googlenet", 448, "cub_512"),
        ("cub", "googlenet", 320, "cub_384"),
        ("cub", "bcnn", 224, "cub"),
        ("cards", "squeezenet", 448, "cards_512"),
    ],
)
def test_the_files_name_the_build_that_is_large_enough(folder, dataset, net, crop, place):
    out = f"at_{place}_{net}"
    made("--dataset", dataset, "--net", net, "--crop", crop, "--variant", "sm", "--out", out)
    proto = parsed(f"{out}/{dataset}_{net}_train_val.prototxt")
    images = [layer for layer in proto.layer if layer.name == "data"]
    assert {layer.transform_param.crop_size for layer in images} == {crop}
    sources = {layer.data_param.source.split("/")[1].replace("_bbox", "") for layer in images}
    assert sources == {place}
    text = Path(f"{out}/{dataset}_{net}_sm_solver.prototxt").read_text()
    side = place.partition("_")[2]
    assert re.findall(r"--size (\d+) --out (\S+)", text) == [(side, f"data/{place}")] * bool(side)


def test_the_usual_size_changes_nothing(folder):
    made("--data", "data/mine", *GOOGLENET, "--crop", 224, "--out", "same")
    made("--data", "data/mine", *GOOGLENET, "--out", "none")
    for path in Path("same").iterdir():
        assert body(path).replace("same/", "none/") == body(Path("none", path.name))


def test_sizes_that_cannot_be(folder):
    data = ("--data", "data/mine", "--out", "no")
    refused(
        "AlexNet reads inputs of 227 x 227 only; googlenet, ",
        *data,
        "--net",
        "alexnet",
        "--crop",
        448,
    )
    refused("such as 512", *data, "--net", "googlenet", "--crop", 448)
    refused("needs at least 64 pixels", *data, "--net", "googlenet", "--crop", 48)
    assert not Path("no").exists()


def test_training_to_export_at_another_size(folder):
    made(
        "--data", "data/mine", *GOOGLENET, "--crop", 96, "--out", "small", "--label-smoothing", 0.1
    )
    path = "small/mine_googlenet_ours_solver.prototxt"
    image = folder / "photo.png"
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8))
    tools = [sys.executable]
    for command, *words in (
        ["caffe", "train", "-solver", path],
        [*tools, ROOT / "tools/evaluate.py", "--solver", path, "--out", "results/small.json"],
        [*tools, ROOT / "tools/predict.py", "--solver", path, image],
        [
            *tools,
            ROOT / "tools/export.py",
            "--solver",
            path,
            "--out",
            "models/small",
            "--no-examples",
        ],
    ):
        done = subprocess.run([command, *map(str, words)], capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stderr[-2000:])
    assert '"crop": [\n  96,\n  96\n ]' in Path("models/small/preprocessing.json").read_text()


def test_a_study_reads_the_build_that_is_large_enough(tmp_path):
    path = tmp_path / "large.toml"
    path.write_text(
        'title = "T"\nvariants = ["sm"]\nseeds = [1]\n[data.cub]\n[nets.googlenet]\n'
        "[options]\ncrop = 448\nlabel-smoothing = 0.1\nschedule = 'cosine'\nwarm-up = 5\n"
    )
    study = plan.read(path, tmp_path)
    (row,) = cells.rows(study)
    (cell,) = cells.finals_of(study, row, row.candidates[0])
    assert cell.place.folder == "data/cub_512" and "--size 512" in cell.place.build
    assert settings.words(dict(cell.options))[:2] == ["--crop", "448"]


# --- warm-up --------------------------------------------------------------------------------------

needs_patch = pytest.mark.skipif(
    "warmup_iter" not in caffe_pb2.SolverParameter.DESCRIPTOR.fields_by_name,
    reason="the installed Caffe lacks docker/patches/0019: make setup builds it",
)


@needs_patch
@pytest.mark.parametrize("schedule", tables.POLICIES)
def test_warm_up(folder, tmp_path, schedule):
    """In the first iterations a rising part of the schedule's own rate, resumed in them or not."""
    (tmp_path / "without").mkdir()
    words = ("--schedule", schedule, "--max-iter", 30, "--base-lr", 0.5)
    without, _ = solver(tmp_path / "without", *words)
    path, values = solver(tmp_path, *words, "--warm-up", 12)
    assert values.warmup_iter == 12 and values.snapshot == 6
    whole = rates(path)
    for iteration, rate in rates(without).items():
        part = min(1, (iteration + 1) / 12)
        assert whole[iteration] == pytest.approx(rate * part, rel=1e-4)
    resumed = rates(path, "-snapshot", tmp_path / "model_iter_6.solverstate")
    assert resumed == {iteration: whole[iteration] for iteration in range(6, 30)}


def test_warm_up_is_written_only_where_it_is_asked_for(folder):
    made(*RUN, "--variant", "sm", "--warm-up", 0, "--out", "cold")
    assert "warmup" not in Path("cold/mine_squeezenet_sm_solver.prototxt").read_text()
    refused("the training has 2 iterations only", *RUN, "--warm-up", 3, "--out", "no")


# --- Clipped gradients


def test_gradients_are_clipped_at_the_length_that_is_given(folder, tmp_path):
    path, values = solver(tmp_path, "--max-iter", 3, "--base-lr", 1e-4, "--clip-gradients", 0.001)
    assert values.clip_gradients == pytest.approx(0.001)
    filler = 'data_filler { type: "constant" value: 1 }'
    net = TRIVIAL.replace("dummy_data_param {", f"dummy_data_param {{ {filler} {filler}")
    (tmp_path / "net.prototxt").write_text(net)
    lengths = re.findall(r"scaling down gradients \(L2 norm (\S+) > 0.001\)", log(path))
    assert len(lengths) == 3 and min(map(float, lengths)) > 0.001
    (tmp_path / "without").mkdir()
    path, values = solver(tmp_path / "without", "--max-iter", 3, "--clip-gradients", 0)
    assert "clip_gradients" not in str(values) and "scaling down" not in log(path)
