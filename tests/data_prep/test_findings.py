"""Identical photographs and images of one color: named, and left out if asked."""

import json
import shutil

import cv2
import numpy as np
import pytest
from archive import refused, run

from data_prep import findings


@pytest.fixture
def photos(tmp_path):
    """Splits of two classes with 4 photographs each."""
    rng, root = np.random.default_rng(0), tmp_path / "photos"
    for split in ("train", "test"):
        for name in ("crow", "rook"):
            (root / split / name).mkdir(parents=True)
            for number in range(4):
                image = rng.integers(0, 256, (24, 24, 3), np.uint8)
                cv2.imwrite(str(root / split / name / f"{split}{number}.png"), image)
    return root


def build(photos, *options):
    out = photos.parent / "birds"
    command = ("folder", "--root", photos, "--size", 16, "--encoded", "png", "--out", out, *options)
    return out, run("build_lmdb.py", *command)


def copy(photos, source, target):
    shutil.copy(photos / source, photos / target)


PAIRS = [
    ("train/crow/train0.png", "train/rook/copy.png", "warning: 1 image under more than one class"),
    ("train/crow/train0.png", "test/crow/copy.png", "WARNING: 1 image in more than one split"),
    ("test/rook/test1.png", "train/crow/copy.png", "WARNING: 1 image in more than one split"),
]


@pytest.mark.parametrize("source, target, says", PAIRS)
def test_named_by_their_files(photos, source, target, says):
    """The build, a build with nothing to do, and the verifier report them; the verifier passes."""
    copy(photos, source, target)
    out, done = build(photos)
    for said in (done, build(photos)[1], run("verify_lmdb.py", out)):
        assert said.returncode == 0, said.stderr
        assert says in said.stdout and source in said.stdout and target in said.stdout
    (group,) = json.loads((out / "manifest.json").read_text())["findings"]["same_image"]
    assert {image["image"] for image in group} == {source, target}


@pytest.mark.parametrize(
    "pair, gone",
    [(PAIRS[0], {0, 1}), (PAIRS[1], {0}), (PAIRS[2], {1})],
    ids="classes splits splits-and-classes".split(),
)
def test_left_out(photos, pair, gone):
    """Both are left out if their classes differ; otherwise the training copy."""
    copy(photos, *pair[:2])
    out, done = build(photos, "--skip-duplicates")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert {entry["image"] for entry in manifest["skipped"]} == {pair[number] for number in gone}
    assert manifest["findings"]["same_image"] == [] and "arning" not in done.stdout
    assert "no image is in two splits or classes" in run("verify_lmdb.py", out).stdout


def test_twice_in_one_class(photos):
    copy(photos, "train/crow/train0.png", "train/crow/copy.png")
    out, done = build(photos, "--skip-duplicates")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["skipped"] == [] and manifest["splits"]["train"]["images"] == 9
    assert "arning" not in done.stdout


def test_one_color(photos):
    gray = np.full((24, 24, 3), 90, np.uint8)
    cv2.imwrite(str(photos / "train/rook/gray.jpg"), gray)
    out, done = build(photos)
    for said in (done, run("verify_lmdb.py", out)):
        assert "1 of 17 stored images have one color only" in said.stdout
        assert "train/rook/gray.jpg" in said.stdout and said.returncode == 0


@pytest.mark.parametrize("box", ["0.1,0.2,0.5,0.9", "3,4,2,10", "23,0,9,9"])
def test_boxes_of_a_pixel_or_two(photos, box):
    """Refused, as broken files are; --skip-bad leaves them out."""
    table = photos.parent / "t.csv"
    rows = ["path,species,split,x,y,w,h"]
    for path in sorted(photos.rglob("*.png")):
        split, name, _ = path.relative_to(photos).parts
        whole = "train0" not in path.name
        rows.append(f"{path.relative_to(photos)},{name},{split},{'0,0,24,24' if whole else box}")
    table.write_text("\n".join(rows) + "\n")
    command = ("table", "--table", table, "--root", photos, "--out", photos.parent / "t", "--bbox")
    done = run("build_lmdb.py", *command, "--size", 16)
    refused(done, "2 of 16", "train/crow/train0.png", "in pixels")
    done = run("build_lmdb.py", *command, "--size", 16, "--skip-bad")
    assert done.returncode == 0, done.stderr


def test_groups():
    """Of one class in one split: not reported; groups in order of their first image."""
    train, test = findings.Images.none("train"), findings.Images.none("test")
    for number, label in enumerate([0, 1, 1, 0, 2]):
        train.add(f"a{number}", label, bytes([number % 2] * 15 + [0]))
    for number, label in enumerate([3, 4, 4]):
        test.add(f"b{number}", label, bytes([number + 1] * 16) if number else bytes(15) + b"\1")
    groups = findings.same_images([train, test])
    assert [[image.name for image in group] for group in groups] == [
        ["a0", "a2", "a4"],
        ["a1", "a3"],
    ]
    assert findings.same_images([]) == []
