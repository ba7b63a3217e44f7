"""Splits in folder names, in tables, and the third split, val."""

import json
import shutil
from collections import Counter

import archive
import pytest
from test_folder import photos

from data_prep import build_lmdb, lmdb_io, verify_lmdb
from data_prep.common.errors import UserError
from data_prep.label_tree import Hierarchy
from data_prep.readers.splits import found, split_of, stated
from data_prep.records import Record, read_listing
from data_prep.validation import drawn


@pytest.mark.parametrize(
    "name, split, rest",
    [
        ("train", "train", ()),
        ("Training", "train", ()),
        ("TRAINVAL", "train", ()),
        ("train_val", "train", ()),
        ("valid", "val", ()),
        ("Validation", "val", ()),
        ("testing", "test", ()),
        ("seg_train", "train", ("seg",)),
        ("training_set", "train", ("set",)),
        ("TestSet", "test", ("set",)),
        ("testset", "test", ("set",)),
        ("val2017", "val", ("2017",)),
        ("cars-test", "test", ("cars",)),
    ],
)
def test_words(name, split, rest):
    assert split_of(name) == (split, rest)


@pytest.mark.parametrize("name", ["trainer", "contest", "valley", "Attestation", "train_test", ""])
def test_other_words(name):
    assert split_of(name) is None


def paths(*folders):
    return [tuple(folder.split("/")) for folder in folders]


ABC = ("A", "B", "C")


def under(*tops, classes=ABC):
    return paths(*(f"{top}/{name}" for top in tops for name in classes))


CERTAIN = [  # folders, {a path: (its split, its classes)}
    (under("train", "test"), {"train/A": ("train", "A")}),
    (under("Train", "Test", "Valid"), {"Valid/B": ("val", "B")}),
    (under("train", "val", "test"), {"val/A": ("val", "A")}),
    (under("training_set", "test_set"), {"test_set/C": ("test", "C")}),
    (under("car_data/train", "car_data/test"), {"car_data/test/A": ("test", "A")}),
    (under("d/d/train", "d/d/test"), {"d/d/test/A": ("test", "A")}),
    (under("seg_train/seg_train", "seg_test/seg_test"), {"seg_test/seg_test/A": ("test", "A")}),
    (
        paths(*(f"{a}/{b}/{s}" for a in "xy" for b in ABC for s in ("train", "test", "val"))),
        {"x/A/train": ("train", "x/A"), "y/C/val": ("val", "y/C")},
    ),
    # The class train of a data set of vehicles, below splits that are certain.
    (under("train", "test", classes=("car", "train")), {"test/train": ("test", "train")}),
    # Names that contain a word, and no second split.
    (paths("bullet_train", "tram", "bus"), {"bullet_train": (None, "bullet_train")}),
    (paths("x/contest", "x/valley"), {"x/valley": (None, "x/valley")}),
]


@pytest.mark.parametrize("folders, expected", CERTAIN)
def test_certain(folders, expected):
    seen = found("photos", folders)
    for path, (split, classes) in expected.items():
        assert seen.of(tuple(path.split("/"))) == (split, tuple(classes.split("/")))


REFUSED = [  # folders, words of the message
    (under("train"), ("train in photos/", "--root photos/train", "--splits none if it is a class")),
    (under("train", "test", "extra"), ("beside extra", "--splits test=test,train=train", "leaves")),
    (under("train", "val"), ("--splits train=train,val=test", "--splits none")),
    (under("seg_train", "seg_test", "seg_pred"), ("--splits seg_test=test,seg_train=train",)),
    (under("train", "test_images"), ("--splits test_images=test,train=train",)),
    (under("train", "training", "test"), ("train=train", "training=train")),
    (paths("car", "bus", "train"), ("train in photos/", "--splits none if it is a class")),
    (paths("x/car", "x/test", "y/bus"), ("test in photos/*/", "--splits none")),
    (under("train/test", "test/train"), ("photos/*/", "--splits none")),
    (paths("train/A", "train/B", "A", "B"), ("beside A, B",)),
    (paths("birds/A/train", "birds/B/train"), ("photos/*/*/", "--splits FOLDER=train")),
]


@pytest.mark.parametrize("folders, words", REFUSED)
def test_uncertain(folders, words):
    with pytest.raises(UserError) as error:
        found("photos", folders)
    for word in words:
        assert word in str(error.value)


def test_stated():
    seen = stated("photos", under("a/a", "b/b", "c/c"), {"a": "train", "b": "test"})
    assert seen.of(("a", "a", "A")) == ("train", ("A",))
    assert seen.of(("c", "c", "A"))[0] is None
    for wanted in ({"a": "train", "d": "test"}, {"a": "train", "A": "test"}):
        with pytest.raises(UserError, match="photos has"):
            stated("photos", under("a", "b"), wanted)


def build(root, out, *options):
    build_lmdb.main(
        ["folder", "--root", str(root), "--out", str(out), "--size", "16", "--jobs", "1", *options]
    )
    verify_lmdb.main([str(out)])
    return json.loads((out / "manifest.json").read_text())


def listed(out):
    tree = Hierarchy.read(out / "hierarchy.tsv")
    return {
        path.stem: read_listing(path, tree)
        for path in sorted(out.glob("*.tsv"))
        if path.stem != "hierarchy"
    }


def test_three_folders(tmp_path):
    """val has its own LMDBs and counts; the mean and the order are those of the training images."""
    counts = {"train/a": 2, "train/b": 3, "val/a": 1, "val/b": 2, "test/a": 1}
    root = photos(tmp_path / "photos", counts)
    both = build(root, tmp_path / "both")
    assert {split: entry["images"] for split, entry in both["splits"].items()} == dict(
        train=5, val=3, test=1
    )
    assert {image.split("/")[0] for image, _ in listed(tmp_path / "both")["val"]} == {"val"}
    assert len([*lmdb_io.items(tmp_path / "both/val_labels")]) == 3
    shutil.rmtree(root / "val")
    without = build(root, tmp_path / "without")
    assert "val" not in without["splits"] and not [*(tmp_path / "without").glob("val*")]
    for key in ("mean_bgr",):
        assert both[key] == without[key]
    assert both["splits"]["train"] == without["splits"]["train"]
    assert both["fingerprint"] != without["fingerprint"]


def test_a_third_folder_is_left_out_if_stated(tmp_path, capsys):
    root = photos(tmp_path / "photos", {"train/a": 2, "train/b": 2, "test/a": 1, "extra/a": 4})
    with pytest.raises(UserError, match="--splits test=test,train=train"):
        build(root, tmp_path / "mine")
    manifest = build(root, tmp_path / "mine", "--splits", "train=train,test=test")
    assert "left out 4 images" in capsys.readouterr().out
    assert manifest["splits"]["train"]["images"] == 4
    assert manifest["options"]["splits"] == {"train": "train", "test": "test"}


def test_a_class_named_train(tmp_path):
    root = photos(tmp_path / "photos", {"train": 2, "bus": 2, "car": 2})
    build(root, tmp_path / "mine", "--splits", "none")
    assert Hierarchy.read(tmp_path / "mine/hierarchy.tsv").names == (("bus", "car", "train"),)


@pytest.mark.parametrize(
    "splits, says",
    [
        ("train=train", "names no folder for test"),
        ("train=train,test=exam", "the split must be train, val, test"),
    ],
)
def test_splits_that_are_none(splits, says, tmp_path):
    root = photos(tmp_path / "photos", {"train/a": 2, "test/a": 2})
    with pytest.raises(UserError, match=says):
        build(root, tmp_path / "mine", "--splits", splits)


def records(*sizes):
    return [
        Record(f"{label}/{i}", None, label, "train")
        for label, size in enumerate(sizes)
        for i in range(size)
    ]


def test_drawn_by_class_and_seed():
    """Each class gives its share, rounded; one image stays; other images have no influence."""
    own = records(50, 30, 20, 1)
    for count, shares in ((10, [5, 3, 2, 0]), (11, [6, 3, 2, 0]), (97, [49, 29, 19, 0])):
        if sum(shares) == count:
            val = [r for r in drawn(own, count, 0) if r.split == "val"]
            assert [Counter(r.label for r in val)[label] for label in range(4)] == shares
    first = {r.name for r in drawn(own, 10, 0) if r.split == "val"}
    assert first == {r.name for r in drawn(own[::-1], 10, 0) if r.split == "val"}
    assert first != {r.name for r in drawn(own, 10, 1) if r.split == "val"}
    assert drawn(own, 0, 0) == own


@pytest.mark.parametrize("count", [98, 10**6])
def test_more_than_there_are(count):
    with pytest.raises(UserError, match="at most 97"):
        drawn(records(50, 30, 20, 1), count, 0)


def test_validation_of_an_archive(tmp_path, capsys):
    birds, out = archive.make(tmp_path / "birds"), tmp_path / "cub"
    command = ("cub", "--root", str(birds), "--partial", "--size", "32", "--out", str(out))

    def said(*options):
        build_lmdb.main([*command, *options])
        return capsys.readouterr().out

    for options in (("--dry-run",), ()):
        assert "6 train, 6 val and 12 test records" in said("--validation", "6", *options)
    found = listed(out)
    assert Counter(label for _, label in found["val"]) == Counter(
        label for _, label in found["train"]
    )
    assert not {name for name, _ in found["val"]} & {name for name, _ in found["train"]}
    verify_lmdb.main([str(out)])
    assert "val: 6 images" in capsys.readouterr().out
    assert "nothing to do" in said("--validation", "6")
    assert "wrote" in said("--validation", "5")
    assert "wrote" in said()
    assert not (out / "val.tsv").exists()
    with pytest.raises(UserError, match="at most 6 of the 12 training images"):
        said("--validation", "7")


def test_a_val_split_is_verified(tmp_path):
    root = photos(tmp_path / "photos", {"train/a": 2, "train/b": 2, "val/a": 1, "test/a": 1})
    out = tmp_path / "mine"
    build(root, out)
    with pytest.raises(UserError, match="has a val split of its own"):
        build(root, tmp_path / "other", "--validation", "1")
    shutil.rmtree(out / "val_labels")
    with pytest.raises(UserError, match="val_labels"):
        verify_lmdb.main([str(out)])
