"""build_lmdb.py cars: the official layout, Kaggle's, and what is refused, on a tiny archive."""

import json
import shutil

import cv2
import numpy as np
import pytest
import real_data
from archive import refused, run
from scipy.io import loadmat, savemat

from data_prep import build_lmdb, lmdb_io
from data_prep.common.errors import UserError
from data_prep.label_tree import TABLES, Hierarchy
from data_prep.verify_lmdb import verify

SHARED = real_data.FOLDER / "stanford_cars"
TREE = Hierarchy.read(TABLES / "cars.tsv")
TRAIN, TEST = "cars_train_annos.mat", "cars_test_annos_withlabels.mat"
CLASSES = {"train": (1, 2, 2, 196), "test": (2, 196)}  # of the images 00001.jpg, 00002.jpg, ...
BOX = (11, 6, 30, 35)  # x1, y1, x2, y2 from 1, inclusive: 20 x 30 pixels


def save_annotations(path, rows):
    """rows: (x1, y1, x2, y2, class, fname), as the archive's own file."""
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    table = np.zeros((1, len(rows)), [(field, object) for field in fields])
    for i, row in enumerate(rows):
        table[0, i] = row
    savemat(path, {"annotations": table})


def save_meta(path, names=TREE.names[0]):
    savemat(path, {"class_names": np.array([names], dtype=object)})


def make(root):
    """The official layout with the images of CLASSES: noise, white in the box, black around it."""
    rng = np.random.default_rng(4)
    (root / "devkit").mkdir(parents=True)
    save_meta(root / "devkit/cars_meta.mat")
    for split, labels in CLASSES.items():
        folder = root / f"cars_{split}"
        folder.mkdir()
        rows = []
        for i, label in enumerate(labels, 1):
            x1, y1, x2, y2 = BOX
            image = rng.integers(0, 256, (40, 60, 3), np.uint8)
            image[y1 - 2 : y2 + 1, x1 - 2 : x2 + 1] = 0
            image[y1 - 1 : y2, x1 - 1 : x2] = 255 - label % 7  # no two images alike
            cv2.imwrite(str(folder / f"{i:05d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
            rows.append((*BOX, label, f"{i:05d}.jpg"))
        save_annotations(root / ("devkit" if split == "train" else ".") / annotations(split), rows)
    return root


def annotations(split):
    return TRAIN if split == "train" else TEST


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    return make(tmp_path_factory.mktemp("cars") / "archive")


@pytest.fixture
def archive(official, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(official, tmp_path / "archive")


def build(root, out, *options):
    """Build in this process; the manifest."""
    build_lmdb.main(
        ["cars", "--root", str(root), "--out", str(out), "--size", "32", "--jobs", "1", *options]
    )
    found, _ = verify(out)
    assert not found.problems
    return json.loads((out / "manifest.json").read_text())


def listing(out):
    return (out / "train.tsv").read_text() + (out / "test.tsv").read_text()


def test_labels_and_levels(official, tmp_path):
    done = run("build_lmdb.py", "cars", "--root", official, "--partial", "--size", 32, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "data/cars"
    assert run("verify_lmdb.py", out).returncode == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["levels"] == [
        {"name": "model", "classes": 196},
        {"name": "body_type", "classes": 9},
    ]
    rows = [line.split("\t")[1:] for line in listing(out).splitlines() if "jpg" in line]
    expected = {
        (f"cars_{split}/{i:05d}.jpg", *map(str, TREE.labels[label - 1]))
        for split, labels in CLASSES.items()
        for i, label in enumerate(labels, 1)
    }
    assert set(map(tuple, rows)) == expected


def test_kaggle_layout_is_the_same_data_set(official, archive, tmp_path):
    build(official, tmp_path / "official", "--partial")
    (archive / "car_devkit").mkdir()
    (archive / "devkit").rename(archive / "car_devkit/devkit")
    (archive / TEST).rename(archive / "car_devkit/devkit" / TEST)
    for images in ("cars_train", "cars_test"):
        (archive / images).rename(archive / "moved")
        (archive / images).mkdir()
        (archive / "moved").rename(archive / images / images)
    build(archive, tmp_path / "kaggle", "--partial")
    assert listing(tmp_path / "kaggle") == listing(tmp_path / "official")


def test_other_mirrors_are_the_same_data_set(official, archive, tmp_path):
    """All .mat files beside the photographs, one name as downloads make it, a folder around all."""
    build(official, tmp_path / "official", "--partial")
    for path in (archive / "devkit").iterdir():
        path.rename(archive / path.name)
    (archive / TEST).rename(archive / TEST.replace(".mat", " (1).mat"))
    (tmp_path / "around").mkdir()
    archive.rename(tmp_path / "around/stanford_cars")
    build(tmp_path / "around", tmp_path / "mirror", "--partial")
    assert listing(tmp_path / "mirror") == listing(tmp_path / "official")


def later_edition(root):
    """The archive as car_ims/ and cars_annos.mat: other names, the same images in each split."""
    fields = ("relative_im_path", *(f"bbox_{c}" for c in ("x1", "y1", "x2", "y2")), "class", "test")
    rows, number = [], 0
    (root / "car_ims").mkdir()
    for split, labels in CLASSES.items():
        for i, label in enumerate(labels, 1):
            number += 1
            name = f"car_ims/{number:06d}.jpg"
            (root / f"cars_{split}/{i:05d}.jpg").rename(root / name)
            rows.append((name, *BOX, label, int(split == "test")))
    table = np.zeros((1, len(rows)), [(field, object) for field in fields])
    table[0] = rows
    names = np.array([TREE.names[0]], dtype=object)
    savemat(root / "cars_annos.mat", {"annotations": table, "class_names": names})
    for path in (root / "devkit", root / "cars_train", root / "cars_test"):
        shutil.rmtree(path)
    (root / TEST).unlink()


def test_the_later_edition(official, archive, tmp_path):
    later_edition(archive)
    build(official, tmp_path / "official", "--partial", "--bbox", "--order", "listed")
    build(archive, tmp_path / "later", "--partial", "--bbox", "--order", "listed")
    for part in ("train_images", "test_images", "train_labels", "test_labels"):
        one, other = ([*lmdb_io.items(tmp_path / f"{n}/{part}")] for n in ("official", "later"))
        assert one == other
    assert "car_ims/000005.jpg" in listing(tmp_path / "later")
    with pytest.raises(UserError, match="cars_annos.mat lists 4 train images.*8144.*--partial"):
        build(archive, tmp_path / "whole")


def test_boxes(official, tmp_path):
    """Cropped to the box exactly: neither noise nor the black frame is left."""
    manifest = build(official, tmp_path / "cars", "--partial", "--bbox", "--encoded", "png")
    assert manifest["name"] == "cars_bbox" and manifest["options"]["bbox"]
    for _, value in lmdb_io.items(tmp_path / "cars/train_images"):
        data = np.frombuffer(lmdb_io.parse_datum(value).data, np.uint8)
        assert cv2.imdecode(data, cv2.IMREAD_COLOR).min() > 200


def test_missing_images_are_left_out_and_counted(archive, tmp_path, capsys):
    (archive / "cars_train/00003.jpg").unlink()
    manifest = build(archive, tmp_path / "cars", "--partial")
    assert manifest["splits"]["train"]["images"] == 3
    said = capsys.readouterr().out
    assert "left out: 1 of 4 images listed in" in said and "00003.jpg" in said


def _unlink(name):
    return lambda root: next(root.rglob(name)).unlink()


def _garbage(root):
    (root / "devkit" / TRAIN).write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))


def _truncated(root):
    path = root / TEST
    path.write_bytes(path.read_bytes()[:-40])


def _other_variable(root):
    savemat(root / TEST, {"annos": np.arange(3)})


def _without_classes(root):
    row = np.zeros((1, 1), [(f"bbox_{c}", object) for c in ("x1", "y1", "x2", "y2")])
    savemat(root / TEST, {"annotations": row})


def _meta(names):
    return lambda root: save_meta(root / "devkit/cars_meta.mat", names)


def _row(*row):
    return lambda root: save_annotations(root / TEST, [(*BOX, 1, "00001.jpg"), row])


def _no_test_images(root):
    shutil.rmtree(root / "cars_test")


SWAPPED = (*TREE.names[0][1::-1], *TREE.names[0][2:])


@pytest.mark.parametrize(
    "change, options, words",
    [
        (_unlink("cars_meta.mat"), (), ("cars_meta.mat not found", "car_devkit/devkit", "--root")),
        (_unlink(TRAIN), (), (f"{TRAIN} not found",)),
        (_unlink(TEST), (), (f"{TEST} (a separate download", "cars_test_annos.mat has no classes")),
        (_garbage, (), (TRAIN, "damaged")),
        (_truncated, (), (TEST, "damaged")),
        (_other_variable, (), (TEST, "no variable annotations")),
        (_without_classes, (), ("have no class", TEST)),
        (_meta(SWAPPED), (), ("class 1 is 'Acura RL Sedan 2012'", "AM General")),
        (_meta(TREE.names[0][:5]), (), ("has 5 classes",)),
        (_row(*BOX, 197, "00002.jpg"), (), ("00002.jpg has the class 197",)),
        (_row(*BOX, 0, "00002.jpg"), (), ("00002.jpg has the class 0",)),
        (_row(*BOX, 1, "../../x.jpg"), (), ("../../x.jpg leads out",)),
        (_row(*BOX, 1, "a\n.jpg"), (), ("annotation 2 is not",)),
        (_row(*BOX, "coupe", "00002.jpg"), (), ("annotation 2 is not",)),
        (_row(*BOX, 1, "00001.jpg"), (), ("00001.jpg is listed twice",)),
        (_row(30, 6, 11, 35, 1, "00002.jpg"), ("--bbox",), ("00002.jpg has the box 30, 6, 11",)),
        (_row(0, 6, 11, 35, 1, "00002.jpg"), ("--bbox",), ("00002.jpg has the box 0, 6, 11",)),
        (_row(61, 6, 99, 35, 1, "00002.jpg"), ("--bbox",), ("00002.jpg", "outside the image")),
        (_no_test_images, (), ("2 of 2 images", "cars_test")),
    ],
)
def test_refused(archive, tmp_path, change, options, words):
    change(archive)
    with pytest.raises(UserError) as error:
        build(archive, tmp_path / "cars", "--partial", *options)
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "cars").exists()


def test_counts_and_the_command(official, tmp_path):
    done = run("build_lmdb.py", "cars", "--root", official, "--out", tmp_path / "cars")
    refused(done, f"{TRAIN} lists 4 train images", "8144", "--partial")


def test_real_annotations(tmp_path, capsys):
    """The real .mat files, whole: names, counts, classes and boxes are as the reader expects."""
    if not (SHARED / TEST).is_file():
        pytest.skip(f"no {SHARED}")
    shutil.copytree(SHARED / "devkit", tmp_path / "archive/devkit")
    shutil.copy(SHARED / TEST, tmp_path / "archive")
    with pytest.raises(UserError, match="8144 of 8144 images .* are not in .*--partial"):
        build(tmp_path / "archive", tmp_path / "cars")
    wanted, rng = {"cars_train": (1, 2, 8144), "cars_test": (1, 8041)}, np.random.default_rng(5)
    labels = {}
    for images, numbers in wanted.items():
        path = TRAIN if images == "cars_train" else TEST
        rows = loadmat(next((tmp_path / "archive").rglob(path)), squeeze_me=True)["annotations"]
        (tmp_path / "archive" / images).mkdir()
        for number in numbers:
            row = rows[number - 1]
            shape = int(row["bbox_y2"]), int(row["bbox_x2"]), 3  # the box just fits
            name = f"{images}/{number:05d}.jpg"
            cv2.imwrite(str(tmp_path / "archive" / name), rng.integers(0, 256, shape, np.uint8))
            labels[name] = int(row["class"]) - 1
    manifest = build(tmp_path / "archive", tmp_path / "cars", "--partial", "--bbox")
    assert "8141 of 8144" in capsys.readouterr().out
    assert [entry["images"] for entry in manifest["splits"].values()] == [3, 2]
    rows = [line.split("\t") for line in listing(tmp_path / "cars").splitlines() if "jpg" in line]
    assert {row[1]: int(row[2]) for row in rows} == labels
