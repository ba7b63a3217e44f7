"""build_lmdb.py --scales: every training image at several sizes, in nets that crop them."""

import contextlib
import io
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import caffe
import cv2
import lmdb
import numpy as np
import pytest
from archive import run
from google.protobuf import text_format
from test_build_resume import CHECKPOINT, contents, stopped

from data_prep import build_lmdb, lmdb_io, manifest
from tools import data_checks
from tools.pycaffe import caffe_pb2

ROOT = Path(__file__).resolve().parents[2]
SCALES = (48, 64, 96)
CLASSES = ("herons/egret", "herons/bittern", "owls/barn", "owls/tawny")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """32 photographs of 4 classes, half of them for training."""
    root = tmp_path_factory.mktemp("scales") / "photos"
    rng = np.random.default_rng(3)
    for number in range(32):
        folder = root / CLASSES[number % len(CLASSES)]
        folder.mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number}.jpg"), cv2.resize(small, (130, 110)))
    return root


def arguments(photos, out, *options):
    start = ["build_lmdb.py", "folder", "--root", photos, "--test-share", 0.5, "--out", out]
    return [*start, "--jobs", 1, *options]


def build(photos, out, *options):
    """Build in this process, as it is faster; what it prints."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        command = arguments(photos, out, *options)[1:]
        assert build_lmdb.main([*map(str, command)]) == 0
    return said.getvalue()


def stored(folder, split="train"):
    """[(name, fine label, all labels, image, bytes of the file)] of each record, in order."""
    lines = (folder / f"{split}.tsv").read_text().splitlines()[1:]
    names = [line.split("\t")[1] for line in lines]
    found = []
    both = (lmdb_io.items(folder / f"{split}_{kind}") for kind in ("images", "labels"))
    for name, (key, image), (other, labels) in zip(names, *both, strict=True):
        assert key == other
        image, labels = lmdb_io.parse_datum(image), lmdb_io.parse_datum(labels)
        pixels = lmdb_io.datum_image(image)
        found.append((name, image.label, [*labels.float_data], pixels, image.data))
    return found


@pytest.fixture(scope="module")
def scaled(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "birds"
    said = build(photos, out, "--scales", "48,64,96")
    assert "48 train (of 16 images)" in said
    return out


@pytest.fixture(scope="module")
def plain(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "birds"
    build(photos, out, "--size", 48)
    return out


def test_each_image_at_each_scale(scaled, plain):
    """A third of the records is a pass over all images; their sizes are mixed in every pass."""
    records = stored(scaled)
    assert Counter((name, pixels.shape) for name, _, _, pixels, _ in records) == {
        (name, (side, side, 3)): 1 for name, *_ in stored(plain) for side in SCALES
    }
    for first in range(0, 48, 16):
        part = records[first : first + 16]
        assert len({name for name, *_ in part}) == 16
        assert {pixels.shape[0] for *_, pixels, _ in part} == set(SCALES)
    passes = [[name for name, *_ in records[first : first + 16]] for first in (0, 16, 32)]
    assert passes[0] != passes[1] != passes[2]


def test_what_is_stored_is_that_of_builds_of_one_scale(scaled, plain, photos, tmp_path):
    by_side = {48: plain}
    for side in SCALES[1:]:
        by_side[side] = tmp_path / str(side)
        build(photos, by_side[side], "--size", side)
    known = {
        (side, name): (label, labels, data)
        for side, folder in by_side.items()
        for name, label, labels, _, data in stored(folder)
    }
    for name, label, labels, pixels, data in stored(scaled):
        assert known[pixels.shape[0], name] == (label, labels, data)
    assert [one[-1] for one in stored(scaled, "test")] == [
        one[-1] for one in stored(plain, "test")
    ]  # of the first scale
    for file in ("mean.binaryproto", "hierarchy.tsv"):
        assert (scaled / file).read_bytes() == (plain / file).read_bytes()
    one, several = manifest.read(plain), manifest.read(scaled)
    assert several.mean_bgr == one.mean_bgr and several.size == 48
    assert several.splits["train"].distinct == one.splits["train"].distinct == 16


def test_size_names_the_scale_of_the_other_splits(photos, tmp_path):
    build(photos, tmp_path / "d", "--scales", "48,96", "--size", 96, "--resize", "shorter")
    sides = {split: Counter() for split in ("train", "test")}
    for split, counts in sides.items():
        counts.update(min(pixels.shape[:2]) for *_, pixels, _ in stored(tmp_path / "d", split))
    assert sides == {"train": {48: 16, 96: 16}, "test": {96: 16}}
    assert run("verify_lmdb.py", tmp_path / "d").returncode == 0


def test_hierarchical_order(photos, tmp_path):
    words = ("--order", "hierarchical", "--groups", 2, "--classes", 4, "--images", 2)
    build(photos, tmp_path / "d", "--scales", "48,64", *words, "--epochs", 2)
    records = stored(tmp_path / "d")
    counts = Counter((name, pixels.shape[0]) for name, *_, pixels, _ in records)
    assert len(counts) == 32 and set(counts.values()) == {2}  # epochs at each scale
    for first in range(0, len(records), 8):
        assert len({label for _, label, *_ in records[first : first + 8]}) == 4
    assert run("verify_lmdb.py", tmp_path / "d").returncode == 0


def test_a_killed_build_resumes(scaled, photos, tmp_path):
    out = tmp_path / "birds"
    command = arguments(photos, out, "--scales", "48,64,96")
    assert stopped(command, *CHECKPOINT) == -signal.SIGKILL
    said = build(photos, out, "--scales", "48,64,96")
    assert "resuming at 48 of 64 images" in said
    assert contents(out) == contents(scaled)
    assert "up to date" in build(photos, out, "--scales", "48,64,96")
    assert "up to date" not in build(photos, out, "--scales", "48,64")


def test_verify_names_what_is_missing(scaled, photos, tmp_path):
    done = run("verify_lmdb.py", scaled)
    assert done.returncode == 0 and "decode to 48, 64, 96 pixels" in done.stdout, done.stderr
    out = tmp_path / "birds"
    build(photos, out, "--scales", "48,64,96")
    with lmdb.open(str(out / "train_images"), map_size=1 << 24) as env:
        with env.begin(write=True) as transaction:
            datum = lmdb_io.parse_datum(transaction.get(b"00000000"))
            image = lmdb_io.datum_image(datum)
            other = SCALES[(SCALES.index(len(image)) + 1) % 3]
            picture = cv2.resize(image, (other, other))
            datum.data = cv2.imencode(".jpg", picture)[1].tobytes()
            transaction.put(b"00000000", datum.SerializeToString())
    done = run("verify_lmdb.py", out)
    assert "not stored equally often at each size: " in done.stdout
    assert f"2 of {other} pixels" in done.stdout and f"0 of {len(image)} pixels" in done.stdout


@pytest.mark.parametrize(
    "options, says",
    [
        (("--scales", "48,64", "--size", "96"), "--size 96, of the images of the other splits"),
        (("--scales", "48,48"), "a size occurs twice"),
        (("--scales", "48,big"), "invalid list of sizes"),
        (("--scales", "8"), "16 to 2048 expected"),
    ],
)
def test_refusals(photos, tmp_path, options, says):
    done = run(*arguments(photos, tmp_path / "d", *options))
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "d").exists()


def make(folder, *options):
    command = [sys.executable, ROOT / "tools/make_prototxt.py", "--net", "squeezenet", "--crop", 64]
    return subprocess.run(
        [*map(str, [*command, *options])], cwd=folder, capture_output=True, text=True
    )


def test_nets_read_crops_of_all_scales(photos, tmp_path, monkeypatch):
    """Caffe's Data layer takes a crop of each size; an epoch is one pass over the images."""
    build(photos, tmp_path / "several", "--scales", "64,80,96")
    build(photos, tmp_path / "one", "--size", 64)
    found = {}
    for name in ("several", "one"):
        done = make(tmp_path, "--data", name, "--out", f"nets/{name}", "--variant", "sm")
        assert done.returncode == 0, done.stderr
        (path,) = (tmp_path / "nets" / name).glob("*_sm_solver.prototxt")
        text = path.read_text()
        found[name] = [line for line in text.splitlines() if line.startswith("max_iter")]
    assert found["several"] == found["one"] and "the 16 training images" in found["one"][0]
    monkeypatch.chdir(tmp_path)
    (path,) = Path("nets/several").glob("*_train_val.prototxt")
    net = text_format.Parse(path.read_text(), caffe_pb2.NetParameter())
    layers = [layer for layer in net.layer if layer.type == "Data"]
    for layer in layers:
        layer.data_param.batch_size = 48
        layer.transform_param.ClearField("mirror")
    Path("data.prototxt").write_text(str(caffe_pb2.NetParameter(layer=layers)))
    data = caffe.Net("data.prototxt", caffe.TRAIN)
    data.forward()
    mean = np.array((104, 117, 123)).reshape(1, 3, 1, 1)
    batch = data.blobs["data"].data + mean  # 48 x 3 x 64 x 64
    for crop, (*_, pixels, _) in zip(batch, stored(tmp_path / "several")):
        planes = pixels.transpose(2, 0, 1)
        room = range(len(pixels) - 64 + 1)
        assert any(
            np.array_equal(crop, planes[:, y : y + 64, x : x + 64]) for y in room for x in room
        )
    (solver,) = Path("nets/several").glob("*_sm_solver.prototxt")
    tested = caffe.Net(str(path), caffe.TEST)
    tested.save("some.caffemodel")
    cached = subprocess.run(
        [sys.executable, ROOT / "tools/cache_features.py", "--solver", solver, "--out", "cached"]
        + ["--weights", "some.caffemodel"],
        capture_output=True,
        text=True,
    )
    assert cached.returncode == 1 and "build it without --scales" in cached.stderr, cached.stderr
    settings = text_format.Parse(solver.read_text(), caffe_pb2.SolverParameter())
    assert not [one for one in data_checks.findings(settings, net) if one.item == "sizes"]
    layers[0].transform_param.ClearField("crop_size")
    (finding,) = [one for one in data_checks.findings(settings, net) if one.item == "sizes"]
    assert finding.serious and "64, 80, 96 pixels, and layer data has no crop_size" in finding.text
    rows = [labels for _, _, labels, _, _ in stored(tmp_path / "several")]
    assert data.blobs["label"].data.reshape(48, -1).tolist() == rows


def test_crops_larger_than_a_scale_are_refused(scaled, tmp_path):
    done = make(tmp_path, "--data", scaled, "--out", "nets")
    assert done.returncode == 1 and "are 48 pixels wide" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "nets").exists()
