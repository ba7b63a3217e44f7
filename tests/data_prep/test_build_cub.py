"""build_lmdb.py cub: from an archive in the official layout to a data set that Caffe reads."""

import fcntl
import json
import os
import shutil

import archive
import cv2
import numpy as np
import pytest
import real_data
from archive import CLASSES, refused, run

from data_prep import lmdb_io
from data_prep.label_tree import Hierarchy

SHARED = real_data.FOLDER / "CUB_200_2011"
HALF = len(CLASSES) * archive.PER_CLASS // 2


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    return archive.make(tmp_path_factory.mktemp("birds"))


def build(birds, out, *options, **more):
    return run(
        "build_lmdb.py",
        "cub",
        "--root",
        birds,
        "--partial",
        "--size",
        32,
        "--out",
        out,
        *options,
        **more,
    )


@pytest.fixture(scope="module")
def built(birds, tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "cub"
    done = build(birds, out)
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout
    return out


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_contents(built):
    manifest = json.loads((built / "manifest.json").read_text())
    assert manifest["levels"] == [
        {"name": "species", "classes": 200},
        {"name": "family", "classes": 40},
        {"name": "order", "classes": 13},
    ]
    for split in ("train", "test"):
        assert manifest["splits"][split]["images"] == HALF
        assert manifest["splits"][split]["classes_present"] == [6, 4, 3]
    tree = Hierarchy.read(built / "hierarchy.tsv")
    assert tree.sizes == (200, 40, 13)
    total = np.zeros((32, 32, 3))
    for _key, value in lmdb_io.items(built / "train_images"):
        image = cv2.imdecode(
            np.frombuffer(lmdb_io.parse_datum(value).data, np.uint8), cv2.IMREAD_COLOR
        )
        total += image
    mean = lmdb_io.read_mean(built / "mean.binaryproto")
    assert mean.shape == (3, 32, 32)
    assert np.abs(mean - (total / HALF).transpose(2, 0, 1)).mean() < 2
    assert np.allclose(mean.mean(axis=(1, 2)), manifest["mean_bgr"], atol=0.01)
    lines = (built / "train.tsv").read_text().splitlines()
    assert lines[0] == "key\timage\tspecies_id\tfamily_id\torder_id" and len(lines) == HALF + 1
    assert not any(
        path.name.startswith((".cub.partial", ".cub.old")) for path in built.parent.iterdir()
    )
    assert cv2.imread(str(built / "contact_sheet.png")) is not None
    done = run("verify_lmdb.py", built)
    assert done.returncode == 0 and "is intact" in done.stdout, done.stderr


def test_labels_and_pixels_belong_together(built):
    """The color painted on each image says its class; labels are the tree's row of that class."""
    tree = Hierarchy.read(built / "hierarchy.tsv")
    pairs = zip(lmdb_io.items(built / "train_images"), lmdb_io.items(built / "train_labels"))
    for (key, image), (same, labels) in pairs:
        assert key == same
        image, labels = lmdb_io.parse_datum(image), lmdb_io.parse_datum(labels)
        pixel = cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_COLOR)[16, 10]
        nearest = min(CLASSES, key=lambda c: np.abs(pixel - np.array(archive.color(c), int)).sum())
        assert image.label == labels.label == nearest - 1
        assert list(labels.float_data) == tree.labels[nearest - 1].tolist()


def test_caffe_reads_it(built, tmp_path):
    """Stock Data layers and a Slice bring image and labels of all levels into a net, in step."""
    import caffe

    net = tmp_path / "net.prototxt"
    net.write_text(f"""
        layer {{ name: "d" type: "Data" top: "data" data_param {{ source: "{built}/train_images"
                 batch_size: {HALF} backend: LMDB }}
                 transform_param {{ crop_size: 28 mean_file: "{built}/mean.binaryproto" }} }}
        layer {{ name: "l" type: "Data" top: "label" data_param {{ source: "{built}/train_labels"
                 batch_size: {HALF} backend: LMDB }} }}
        layer {{ name: "s" type: "Slice" bottom: "label" top: "l1" top: "l2" top: "l3"
                 slice_param {{ axis: 1 }} }}""")
    net = caffe.Net(str(net), caffe.TEST)
    net.forward()
    assert net.blobs["data"].data.shape == (HALF, 3, 28, 28)
    labels = np.stack([net.blobs[f"l{j}"].data.ravel() for j in (1, 2, 3)], axis=1)
    listed = np.loadtxt(built / "train.tsv", dtype=str, skiprows=1)[:, 2:].astype(float)
    assert np.array_equal(labels, listed)


def test_same_bytes_whatever_the_threads(birds, built, tmp_path):
    assert build(birds, tmp_path / "cub", "--jobs", 5, fresh=True).returncode == 0
    assert files(tmp_path / "cub") == {k: v for k, v in files(built).items() if "lock.mdb" not in k}


def test_seed_and_order(birds, built, tmp_path):
    orders = {}
    for name, *options in (("seed", "--seed", 1), ("listed", "--order", "listed")):
        assert build(birds, tmp_path / name, *options).returncode == 0
        orders[name] = (tmp_path / name / "train.tsv").read_text().splitlines()[1:]
        assert (tmp_path / name / "test.tsv").read_bytes() == (built / "test.tsv").read_bytes()
    orders["0"] = (built / "train.tsv").read_text().splitlines()[1:]
    images = {name: [line.split("\t")[1] for line in lines] for name, lines in orders.items()}
    assert images["listed"] == sorted(images["0"]) == sorted(images["seed"])
    assert images["0"] != images["listed"] and images["0"] != images["seed"]


def test_unchanged_is_left_alone(birds, tmp_path):
    out = tmp_path / "cub"
    birds = archive.make(tmp_path / "birds")
    assert build(birds, out).returncode == 0
    before = (out / "manifest.json").stat().st_ino
    assert "nothing to do" in build(birds, out).stdout
    assert (out / "manifest.json").stat().st_ino == before
    assert "wrote" in build(birds, out, "--force").stdout
    assert "wrote" in build(birds, out, "--encoded", "png").stdout
    first = next((birds / "images").rglob("*.jpg"))
    shutil.rmtree(out / "test_labels")
    assert "wrote" in build(birds, out, "--encoded", "png").stdout
    os.utime(first, ns=(1, 1))
    assert "wrote" in build(birds, out, "--encoded", "png").stdout
    assert run("verify_lmdb.py", out).returncode == 0


def test_bbox_and_names(birds, tmp_path):
    """--bbox stores what is inside the boxes, as data/cub_bbox below the current folder."""
    done = run(
        "build_lmdb.py", "cub", "--root", birds, "--partial", "--bbox", "--size", 32, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for _, value in lmdb_io.items(tmp_path / "data/cub_bbox/test_images"):
        datum = lmdb_io.parse_datum(value)
        image = cv2.imdecode(np.frombuffer(datum.data, np.uint8), cv2.IMREAD_COLOR).astype(int)
        assert np.abs(image - archive.color(datum.label + 1)).mean() < 12


def test_shorter(birds, tmp_path):
    assert build(birds, tmp_path / "cub", "--resize", "shorter").returncode == 0
    for _, value in lmdb_io.items(tmp_path / "cub/test_images"):
        data = np.frombuffer(lmdb_io.parse_datum(value).data, np.uint8)
        assert cv2.imdecode(data, cv2.IMREAD_COLOR).shape == (32, 48, 3)
    assert lmdb_io.read_mean(tmp_path / "cub/mean.binaryproto").shape == (3, 32, 32)
    assert run("verify_lmdb.py", tmp_path / "cub").returncode == 0


def test_not_the_whole_archive(birds, tmp_path):
    done = run("build_lmdb.py", "cub", "--root", birds, "--out", tmp_path / "cub")
    refused(done, "--partial", "5994", HALF)
    assert len(done.stderr.splitlines()) == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "file, old, new, says",
    [
        ("classes.txt", None, None, "classes.txt"),
        (
            "classes.txt",
            "1 001.Black",
            "1 001.White",
            "001.White_footed_Albatross is not species 1",
        ),
        ("classes.txt", "141 141.Artic_Tern\n", "", "the class 141"),
        ("classes.txt", "141 141.Artic_Tern", "999 x", "999"),
        ("images.txt", "1 001.", "1 ../001.", "leads out of"),
        ("images.txt", "1 001.Black_footed_Albatross/", "1 /etc/", "leads out of"),
        ("images.txt", "bird_0.jpg", "bird_1.jpg", "listed twice"),
        ("images.txt", "2 001.", "1 001.", "line 2: 1 occurs twice"),
        ("images.txt", "1 001.", "x 001.", "line 1"),
        ("image_class_labels.txt", "1 1\n", "", "image_class_labels.txt"),
        ("image_class_labels.txt", "1 1\n", "1 3\n", "the class 3"),
        ("image_class_labels.txt", "1 1\n", "1 \N{SUPERSCRIPT TWO}\n", "the class"),
        ("train_test_split.txt", "1 0\n", "1 2\n", "neither 0 nor 1"),
        ("bounding_boxes.txt", "1 10.0 5.0 20.0 30.0", "1 10.0 5.0 0.0 30.0", "image 1"),
        ("bounding_boxes.txt", "1 10.0 5.0 20.0 30.0", "1 10.0 5.0 nan 30.0", "image 1"),
        ("bounding_boxes.txt", "1 10.0 5.0 20.0 30.0", "1 10.0 5.0", "image 1"),
        ("bounding_boxes.txt", "1 10.0 5.0 20.0 30.0", "1 99.0 5.0 9.0 9.0", "outside the image"),
    ],
)
def test_faulty_lists(file, old, new, says, tmp_path):
    birds = archive.make(tmp_path / "birds")
    if old is None:
        (birds / file).unlink()
    else:
        text = (birds / file).read_text()
        assert old in text
        (birds / file).write_text(text.replace(old, new, 1))
    refused(build(birds, tmp_path / "data/cub", "--bbox"), says)
    assert not (tmp_path / "data/cub").exists() and not (tmp_path / "data/.cub.partial").exists()


def test_missing_images_are_left_out_and_counted(tmp_path):
    birds = archive.make(tmp_path / "birds")
    gone = sorted((birds / "images").rglob("*.jpg"))[:2]
    for path in gone:
        path.unlink()
    done = build(birds, tmp_path / "cub")
    assert done.returncode == 0, done.stderr
    assert "left out: 2 of 24 images listed in" in done.stdout
    assert all(f"{path.parent.name}/{path.name}" in done.stdout for path in gone)
    assert (tmp_path / "cub/train.tsv").read_text().count(".jpg") == HALF - 1


def test_a_link_out_of_the_archive(tmp_path):
    birds = archive.make(tmp_path / "birds")
    image = next((birds / "images").rglob("*.jpg"))
    image.rename(tmp_path / "elsewhere.jpg")
    image.symlink_to(tmp_path / "elsewhere.jpg")
    refused(build(birds, tmp_path / "cub"), image.name, "leads out of")


def test_unusable_images_are_all_named(tmp_path):
    birds = archive.make(tmp_path / "birds")
    paths = sorted((birds / "images").rglob("*.jpg"))
    whole = paths[5].read_bytes()
    for path, data in zip(paths, (b"", whole[:-100], b"GIF89a nonsense")):
        path.write_bytes(data)
    paths[9].unlink()
    paths[9].mkdir()
    done = build(birds, tmp_path / "cub")
    refused(done, "4 of 24", *paths[:3], paths[9], "empty", "cut short")
    assert {path.name for path in tmp_path.iterdir()} == {"birds"}


def test_somebody_elses_folder(birds, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.txt").write_text("x")
    refused(build(birds, tmp_path / "precious", "--force"), "not a built data set")
    assert (tmp_path / "precious/thesis.txt").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"precious"}


def test_a_file_where_a_folder_should_be(birds, tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    refused(build(birds, tmp_path / "thesis.txt/cub"), "thesis.txt")


def test_two_builds_at_once(birds, tmp_path):
    with open(tmp_path / ".cub.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(build(birds, tmp_path / "cub"), "another build")
    assert build(birds, tmp_path / "cub").returncode == 0


@pytest.mark.parametrize(
    "options", [["--size", "0"], ["--size", "x"], ["--jobs", "0"], ["--order", "random"]]
)
def test_usage(options):
    done = run("build_lmdb.py", "cub", "--root", ".", *options)
    assert done.returncode == 2 and "Traceback" not in done.stderr


@pytest.mark.skipif(not SHARED.exists(), reason=f"no photographs of real birds: {SHARED}")
def test_real_birds(tmp_path):
    done = run(
        "build_lmdb.py",
        "cub",
        "--root",
        SHARED,
        "--partial",
        "--size",
        64,
        "--out",
        tmp_path / "cub",
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "cub/manifest.json").read_text())
    assert [manifest["splits"][s]["images"] for s in ("train", "test")] == [1500, 1389]
    assert manifest["splits"]["train"]["classes_present"] == [50, 20, 9]
    assert run("verify_lmdb.py", tmp_path / "cub").returncode == 0
