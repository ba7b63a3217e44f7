"""build_lmdb.py aircraft: the official layout, the copyright strip, and what is refused."""

import json
import shutil

import cv2
import numpy as np
import pytest
import real_data
from archive import refused, run

from data_prep import build_lmdb, lmdb_io
from data_prep.common.errors import UserError
from data_prep.label_tree import TABLES, Hierarchy
from data_prep.verify_lmdb import verify

SHARED = real_data.FOLDER / "fgvc_aircraft/data"
TREE = Hierarchy.read(TABLES / "aircraft.tsv")
LEVELS = {"variant": "variants", "family": "families", "manufacturer": "manufacturers"}
VARIANTS = {  # split: {image: variant}
    "trainval": {
        "1025794": "707-320",
        "0034309": "F/A-18",
        "1340192": "737-200",
        "0056978": "737-300",
    },
    "test": {"0062765": "F/A-18", "1514522": "737-200"},
}
HEIGHT, WIDTH = 80, 60  # of the images, copyright strip included
BOX = (11, 6, 30, 75)  # xmin, ymin, xmax, ymax from 1, inclusive; reaches 15 rows into the strip


def names(variant):
    label = TREE.names[0].index(variant)
    return [TREE.names[j][i] for j, i in enumerate(TREE.labels[label])]


def photo(path, number):
    """Noise with a bright box and a black copyright strip."""
    rng = np.random.default_rng(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = rng.integers(60, 100, (HEIGHT, WIDTH, 3), np.uint8)
    x1, y1, x2, y2 = BOX
    image[y1 - 1 : y2, x1 - 1 : x2] = 240 - number % 7  # no two images alike
    image[-20:] = 0
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 100])


def make(root):
    """The official layout with the images of VARIANTS."""
    data = root / "data"
    data.mkdir(parents=True)
    for j, (level, plural) in enumerate(LEVELS.items()):
        (data / f"{plural}.txt").write_text("".join(f"{x}\n" for x in sorted(TREE.names[j])))
        for split, variants in VARIANTS.items():
            lines = [f"{image} {names(variant)[j]}\n" for image, variant in variants.items()]
            (data / f"images_{level}_{split}.txt").write_text("".join(lines))
    images = [image for variants in VARIANTS.values() for image in variants]
    for number, image in enumerate(images):
        photo(data / f"images/{image}.jpg", number)
    lines = [f"{image} {' '.join(map(str, BOX))}\n" for image in [*images, "9999999"]]
    (data / "images_box.txt").write_text("".join(lines))  # boxes of other images do no harm
    return root


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    return make(tmp_path_factory.mktemp("aircraft") / "fgvc-aircraft-2013b")


@pytest.fixture
def data(official, tmp_path):
    """A copy of the archive's folder data, to spoil."""
    return shutil.copytree(official / "data", tmp_path / "archive/data")


def build(root, out, *options):
    """Build in this process; the manifest."""
    common = ("--out", str(out), "--size", "32", "--jobs", "1", "--encoded", "png")
    build_lmdb.main(["aircraft", "--root", str(root), *common, *options])
    found, _ = verify(out)
    assert not found.problems
    return json.loads((out / "manifest.json").read_text())


def listing(out):
    return (out / "train.tsv").read_text() + (out / "test.tsv").read_text()


def stored(out):
    for split in ("train", "test"):
        for _, value in lmdb_io.items(out / f"{split}_images"):
            data = np.frombuffer(lmdb_io.parse_datum(value).data, np.uint8)
            yield cv2.imdecode(data, cv2.IMREAD_COLOR)


def test_the_reviewed_table():
    assert TREE.levels == tuple(LEVELS) and TREE.sizes == (100, 70, 30)
    assert list(TREE.names[0]) == sorted(TREE.names[0])  # as in the archive's variants.txt
    assert (TREE.group_sizes(1) == 1).sum() == 54 and (TREE.group_sizes(2) == 1).sum() == 13


def test_labels_and_levels(official, tmp_path):
    options = ("--root", official, "--partial", "--size", 32)
    done = run("build_lmdb.py", "aircraft", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "data/aircraft"
    assert run("verify_lmdb.py", out).returncode == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["levels"] == [
        {"name": level, "classes": size} for level, size in zip(LEVELS, (100, 70, 30))
    ]
    assert manifest["options"]["copyright_strip"] == 20
    rows = {tuple(line.split("\t")[1:]) for line in listing(out).splitlines() if "jpg" in line}
    assert rows == {
        (f"{image}.jpg", *map(str, TREE.labels[TREE.names[0].index(variant)]))
        for variants in VARIANTS.values()
        for image, variant in variants.items()
    }


def test_the_copyright_strip_is_removed(official, tmp_path):
    """Also where --root is the folder data itself."""
    build(official / "data", tmp_path / "aircraft", "--partial", "--resize", "shorter")
    for image in stored(tmp_path / "aircraft"):
        assert image.shape == (32, 32, 3) and image.min() > 50  # 60 x 60 of 60 x 80 pixels


def test_boxes_end_above_the_strip(official, tmp_path):
    options = ("--partial", "--bbox", "--resize", "shorter")
    manifest = build(official, tmp_path / "aircraft", *options)
    assert manifest["name"] == "aircraft_bbox" and manifest["options"]["bbox"]
    for image in stored(tmp_path / "aircraft"):
        assert image.min() > 200 and image.shape[:2] == (88, 32)  # of 20 x 55 pixels


def test_missing_images_are_left_out_and_counted(data, tmp_path, capsys):
    (data / "images/0034309.jpg").unlink()
    manifest = build(data, tmp_path / "aircraft", "--partial")
    assert [entry["images"] for entry in manifest["splits"].values()] == [3, 2]
    said = capsys.readouterr().out
    assert "left out: 1 of 4 images listed in" in said and "0034309.jpg" in said


def _unlink(name):
    return lambda data: (data / name).unlink()


def _put(name, old, new):
    def change(data):
        text = (data / name).read_text()
        assert old in text
        (data / name).write_text(text.replace(old, new, 1))

    return change


def _no_text(data):
    (data / "variants.txt").write_bytes(b"\xff\xfe7")


def _no_test_images(data):
    for image in VARIANTS["test"]:
        (data / f"images/{image}.jpg").unlink()


def _in_both(data):
    for level, name in zip(LEVELS, names("F/A-18")):
        with open(data / f"images_{level}_test.txt", "a") as file:
            file.write(f"0034309 {name}\n")


def _low(data):
    photo(data / "images/1025794.jpg", 0)
    image = cv2.imread(str(data / "images/1025794.jpg"))
    cv2.imwrite(str(data / "images/1025794.jpg"), image[:20])


def _linked_out(data):
    (data / "images/1025794.jpg").rename(data.parent / "elsewhere.jpg")
    (data / "images/1025794.jpg").symlink_to(data.parent / "elsewhere.jpg")


VARIANT, FAMILY, MAKER = (f"images_{level}_trainval.txt" for level in LEVELS)


@pytest.mark.parametrize(
    "change, options, words",
    [
        (_unlink("variants.txt"), (), ("variants.txt not found", "--root")),
        (_unlink(MAKER), (), (f"{MAKER} not found",)),
        (_unlink("images_box.txt"), ("--bbox",), ("images_box.txt not found",)),
        (_no_text, (), ("variants.txt is not UTF-8",)),
        (_put("variants.txt", "F/A-18\n", ""), (), ("variants.txt lacks F/A-18;",)),
        (_put("families.txt", "A300", "A301"), (), ("families.txt lacks A300;",)),
        (_put("families.txt", "A300", "A300\nA301"), (), ("families.txt has the unknown A301",)),
        (_put("manufacturers.txt", "ATR", "ATR\nATR"), (), ("has twice ATR",)),
        (_put(VARIANT, "1025794 ", "102579 "), (), (VARIANT, "line 1", "seven digits")),
        (_put(VARIANT, "0034309", "../4309"), (), (VARIANT, "line 2", "../4309")),
        (_put(VARIANT, "0034309", "1025794"), (), ("line 2", "1025794 is listed twice")),
        (_put(VARIANT, "F/A-18", "F/A-19"), (), ("0034309 has the variant 'F/A-19'",)),
        (_put(FAMILY, "0034309", "0034310"), (), (FAMILY, "2 are in one only, e.g. 0034309")),
        (_put(FAMILY, "F/A-18", "F-16"), (), ("0034309 has 'F-16'", "is 'F/A-18'")),
        (_put(MAKER, "McDonnell Douglas", "Boeing"), (), (MAKER, "0034309 has 'Boeing'")),
        (_in_both, (), ("images_variant_test.txt", "0034309 is listed for training too")),
        (_put("images_box.txt", "1025794 11", "1025795 11"), ("--bbox",), ("no box of", "1025794")),
        (_put("images_box.txt", "11 6 30", "31 6 30"), ("--bbox",), ("'31 6 30 75'",)),
        (_put("images_box.txt", "11 6 30", "0 6 30"), ("--bbox",), ("1025794", "'0 6 30 75'")),
        (_put("images_box.txt", "11 6 30", "11 6.5 30"), ("--bbox",), ("'11 6.5 30 75'",)),
        (_put("images_box.txt", "11 6 30", "11 61 30"), ("--bbox",), ("1025794.jpg", "outside")),
        (_low, (), ("1025794.jpg", "only 20 pixels high")),
        (_linked_out, (), ("1025794.jpg leads out",)),
        (_no_test_images, (), ("2 of 2 images", "images_variant_test.txt", "unpack")),
    ],
)
def test_refused(data, tmp_path, change, options, words):
    change(data)
    with pytest.raises(UserError) as error:
        build(data.parent, tmp_path / "aircraft", "--partial", *options)
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "aircraft").exists()


def test_counts_and_the_command(official, tmp_path):
    done = run("build_lmdb.py", "aircraft", "--root", official, "--out", tmp_path / "aircraft")
    refused(done, "images_variant_trainval.txt lists 4 images", "6667", "--partial")


def test_real_lists(tmp_path, capsys):
    """The real lists, whole: counts, classes and tree are as the reader expects."""
    if not (SHARED / "variants.txt").is_file():
        pytest.skip(f"no {SHARED}")
    data = shutil.copytree(SHARED, tmp_path / "data")
    with pytest.raises(UserError, match="6667 of 6667 images .* are not in .*--partial"):
        build(tmp_path, tmp_path / "aircraft")
    assert (data / "variants.txt").read_text().split("\n")[:-1] == list(TREE.names[0])
    wanted = {}
    for split, step in (("trainval", 1500), ("test", 1500)):
        lines = (data / f"images_variant_{split}.txt").read_text().splitlines()[::step]
        wanted.update(line.split(" ", 1) for line in lines)
    for number, image in enumerate(wanted):
        photo(data / f"images/{image}.jpg", number)
    manifest = build(tmp_path, tmp_path / "aircraft", "--partial")
    assert "6662 of 6667" in capsys.readouterr().out
    assert [entry["images"] for entry in manifest["splits"].values()] == [5, 3]
    rows = [line.split("\t") for line in listing(tmp_path / "aircraft").splitlines()]
    found = {row[1][:7]: TREE.names[0][int(row[2])] for row in rows if row[0] != "key"}
    assert found == wanted
