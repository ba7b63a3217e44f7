"""verify_lmdb.py finds each kind of fault in a data set."""

import json
import shutil

import archive
import cv2
import lmdb
import numpy as np
import pytest
from archive import refused, run

from data_prep import lmdb_io


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    birds = archive.make(folder / "birds")
    done = run(
        "build_lmdb.py", "cub", "--root", birds, "--partial", "--size", 32, "--out", folder / "cub"
    )
    assert done.returncode == 0, done.stderr
    return folder / "cub"


def change(path, number, how):
    """Replace record `number` of an LMDB by how(datum bytes); None removes it."""
    key = lmdb_io.KEY.format(number).encode()
    with lmdb.open(str(path), map_size=1 << 24) as env, env.begin(write=True) as transaction:
        value = how(transaction.get(key))
        transaction.put(key, value) if value is not None else transaction.delete(key)


def first(folder, kind):
    return next(lmdb_io.items(folder / kind))[1]


def relabel(value):
    datum = lmdb_io.parse_datum(value)
    datum.label = (datum.label + 1) % 200
    return datum.SerializeToString()


def wrong_parent(value):
    datum = lmdb_io.parse_datum(value)
    datum.float_data[1] += 1
    return datum.SerializeToString()


def with_pixels(picture):
    def replace(value):
        datum = lmdb_io.parse_datum(value)
        datum.data = picture
        return datum.SerializeToString()

    return replace


PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
NOISE = cv2.imencode(".jpg", PICTURE)[1].tobytes()
SMALL = cv2.imencode(".jpg", np.zeros((16, 32, 3), np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    "kind, number, how, says",
    [
        ("train_images", 3, relabel, "train 00000003: the image's label"),
        ("test_labels", 0, relabel, "test 00000000: the image's label"),
        ("train_labels", 11, wrong_parent, "train 00000011: the labels"),
        ("train_labels", 5, lambda _: None, "the labels have the key 00000006 instead"),
        ("train_labels", 11, lambda _: None, "images and labels differ in number"),
        ("test_images", 0, lambda _: b"\xff\xff", "not a Datum"),
        (
            "test_images",
            2,
            with_pixels(b"junk"),
            "test 00000002: not an image",
        ),
        ("test_images", 2, with_pixels(SMALL), "32 x 16 pixels"),
        ("test_images", 2, with_pixels(NOISE), "test_images: the records differ from those built"),
    ],
)
def test_tampered(built, tmp_path, kind, number, how, says):
    copy = shutil.copytree(built, tmp_path / "cub")
    change(copy / kind, number, how)
    refused(run("verify_lmdb.py", copy), says)


def test_one_image_in_both_splits(built, tmp_path):
    copy = shutil.copytree(built, tmp_path / "cub")
    picture = lmdb_io.parse_datum(first(copy, "train_images")).data
    change(copy / "test_images", 4, with_pixels(picture))
    refused(run("verify_lmdb.py", copy), "1 image in more than one split")


def test_nearly_the_same_image_in_both_splits(built, tmp_path):
    """A test image that is a training image of its class in another encoding."""
    copy = shutil.copytree(built, tmp_path / "cub")
    train = lmdb_io.parse_datum(first(copy, "train_images"))
    image = cv2.imdecode(np.frombuffer(train.data, np.uint8), cv2.IMREAD_COLOR)
    again = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes()
    number = next(
        n
        for n, (_, value) in enumerate(lmdb_io.items(copy / "test_images"))
        if lmdb_io.parse_datum(value).label == train.label
    )
    change(copy / "test_images", number, with_pixels(again))
    assert "nearly the same" not in run("verify_lmdb.py", copy).stdout
    refused(run("verify_lmdb.py", copy, "--nearest", "0.1"), f"test {number:08d}: nearly the same")


@pytest.mark.parametrize(
    "file, how, says",
    [
        ("manifest.json", lambda text: "{", "not valid JSON"),
        (
            "manifest.json",
            lambda text: text.replace('"images": 12', '"images": 13'),
            "13 by manifest.json",
        ),
        ("manifest.json", lambda text: text.replace('"images": 12', '"images": "12"'), "damaged"),
        ("manifest.json", lambda text: text.replace("classes_present", "present"), "damaged"),
        ("manifest.json", lambda text: text.replace('"train.tsv"', '"../train.tsv"'), "damaged"),
        ("manifest.json", None, "has no manifest.json"),
        (
            "hierarchy.tsv",
            lambda text: text.replace("Diomedeidae", "Albatrosses"),
            "hierarchy.tsv differs",
        ),
        (
            "hierarchy.tsv",
            lambda text: text.replace("\t0\tDiomedeidae", "\t1\tDiomedeidae", 1),
            "label tree",
        ),
        ("mean.binaryproto", None, "mean.binaryproto"),
        ("train_images", None, "train_images"),
    ],
)
def test_files(built, tmp_path, file, how, says):
    copy = shutil.copytree(built, tmp_path / "cub")
    path = copy / file
    if how:
        text = path.read_text()
        assert how(text) != text
        path.write_text(how(text))
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    refused(run("verify_lmdb.py", copy), says)


def test_cut_short(built, tmp_path):
    """A truncated LMDB must not kill the process that maps it into memory."""
    copy = shutil.copytree(built, tmp_path / "cub")
    data = copy / "train_images/data.mdb"
    with open(data, "r+b") as file:
        file.truncate(data.stat().st_size // 2)
    refused(run("verify_lmdb.py", copy), "train_images", "cut short")


@pytest.mark.parametrize("records", [0, 1, 2, 255, 256, 257, 1500])
@pytest.mark.parametrize("size", [10, 5000])
def test_whole_lmdbs_are_read(tmp_path, records, size):
    writer = lmdb_io.Writer(tmp_path / "lmdb")
    for _ in range(records):
        writer.add(bytes(size))
    writer.commit()
    writer.close()
    assert sum(1 for _ in lmdb_io.items(tmp_path / "lmdb")) == records


def test_levels_of_the_manifest(built, tmp_path):
    copy = shutil.copytree(built, tmp_path / "cub")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["levels"][1]["classes"] = 41
    (copy / "manifest.json").write_text(json.dumps(manifest))
    refused(run("verify_lmdb.py", copy), "levels")
