"""build_lmdb.py folder: a user's own photographs in folders become a verified data set."""

import json
import os

import cv2
import numpy as np
import pytest
from archive import refused, run

from data_prep import build_lmdb, lmdb_io
from data_prep.common.errors import UserError
from data_prep.label_tree import Hierarchy
from data_prep.verify_lmdb import verify

RNG = np.random.default_rng(3)
BIRDS = {  # order/family/species: images
    "Gulls/Terns/Little": 5,
    "Gulls/Terns/Common": 4,
    "Gulls/Gulls/Common": 8,
    "Owls/Owls/Barn": 1,
}


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), RNG.integers(0, 256, (20, 30, 3), np.uint8))


def photos(root, counts, suffix=".jpg"):
    for folder, count in counts.items():
        for i in range(count):
            photo(root / folder / f"{i}{suffix}")
    return root


def build(root, out, *options):
    """Build in this process; the manifest."""
    build_lmdb.main(
        ["folder", "--root", str(root), "--out", str(out), "--size", "16", "--jobs", "1", *options]
    )
    found, _ = verify(out)
    assert not found.problems
    return json.loads((out / "manifest.json").read_text())


def splits(out):
    """{image: (split, labels)} of a built data set."""
    rows = {}
    for split in ("train", "test"):
        for line in (out / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]:
            _, image, *labels = line.split("\t")
            rows[image] = split, tuple(map(int, labels))
    return rows


def test_tree_splits_and_what_is_left_out(tmp_path):
    root = photos(tmp_path / "My birds!", BIRDS)
    for file in ("notes.txt", "Gulls/Terns/Little/a.heic", ".hidden/x.jpg", "Owls/.DS_Store"):
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_text("no image")
    (root / "Owls/Owls/Snowy").mkdir()
    options = ("--root", root, "--size", 16, "--levels", "species,family,order")
    done = run("build_lmdb.py", "folder", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "data/My_birds"  # the default: data/<name of the folder, made safe>
    for said in (
        "left out 2 files that are not images: Gulls/Terns/Little/a.heic, notes.txt",
        "left out 1 folder without images: Owls/Owls/Snowy",
    ):
        assert said in done.stdout
    assert run("verify_lmdb.py", out).returncode == 0
    tree = Hierarchy.read(out / "hierarchy.tsv")
    assert tree.levels == ("species", "family", "order")
    # Sorted by name; two species of one name are distinguished by their families.
    assert tree.names == (
        ("Barn", "Gulls/Common", "Little", "Terns/Common"),
        ("Gulls", "Owls", "Terns"),
        ("Gulls", "Owls"),
    )
    assert tree.labels.tolist() == [[0, 1, 1], [1, 0, 0], [2, 2, 0], [3, 2, 0]]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["name"] == "My_birds" and manifest["options"]["test_share"] == 0.25
    rows = splits(out)
    assert len(rows) == 18
    for folder, label, share in (
        ("Gulls/Terns/Little", 2, 1),
        ("Gulls/Terns/Common", 3, 1),
        ("Gulls/Gulls/Common", 1, 2),
        ("Owls/Owls/Barn", 0, 0),
    ):
        own = [rows[image] for image in rows if image.startswith(folder)]
        assert {labels for _, labels in own} == {tuple(tree.labels[label])}
        assert [split for split, _ in own].count("test") == share
    done = run("build_lmdb.py", "folder", *options, cwd=tmp_path)
    assert "up to date" in done.stdout
    photo(root / "Owls/Owls/Barn/new.jpg")
    done = run("build_lmdb.py", "folder", *options, cwd=tmp_path)
    assert "wrote" in done.stdout and len(splits(out)) == 19


def test_split_by_seed_and_name(tmp_path):
    root = photos(tmp_path / "photos", {"a": 40, "b": 3})
    build(root, tmp_path / "one")
    first = splits(tmp_path / "one")
    build(root, tmp_path / "other", "--seed", "1")
    assert splits(tmp_path / "other") != first
    build(root, tmp_path / "half", "--test-share", "0.5")
    half = [split for split, _ in splits(tmp_path / "half").values()]
    assert half.count("test") == 22
    for number in range(5):  # of another class: nothing moves; of the same: one image at most
        photo(root / f"b/new{number}.jpg")
        build(root, tmp_path / "one")
        grown = splits(tmp_path / "one")
        moved = [image for image in first if grown[image] != first[image]]
        assert len(moved) <= 1 and all(image.startswith("b/") for image in moved)
        first = grown


def test_one_level_and_every_format(tmp_path):
    root = tmp_path / "photos"
    for suffix in (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"):
        photo(root / f"a/1{suffix}")
        (root / f"a/1{suffix}").rename(root / f"a/1{suffix.upper()}")
        photo(root / f"b/2{suffix}")
    manifest = build(root, tmp_path / "mine")
    assert manifest["name"] == "mine"
    assert manifest["levels"] == [{"name": "level_1", "classes": 2}]
    assert [entry["images"] for entry in manifest["splits"].values()] == [10, 4]
    datum = lmdb_io.parse_datum(next(lmdb_io.items(tmp_path / "mine/train_labels"))[1])
    assert (datum.channels, list(datum.float_data)) == (1, [datum.label])


def test_folders_train_and_test(tmp_path):
    root = photos(tmp_path / "photos", {"train/x/a": 2, "train/y/b": 3, "test/x/a": 1})
    manifest = build(root, tmp_path / "mine")
    assert manifest["levels"] == [
        {"name": "level_1", "classes": 2},
        {"name": "level_2", "classes": 2},
    ]
    assert [entry["classes_present"] for entry in manifest["splits"].values()] == [[2, 2], [1, 1]]
    for image, (split, labels) in splits(tmp_path / "mine").items():
        assert image.startswith(split) and labels == ((0, 0) if "/x/" in image else (1, 1))


def test_links_inside_the_root_are_images(tmp_path):
    root = photos(tmp_path / "photos", {"a": 2, "b": 2, ".store": 1})
    (root / "a/link.jpg").symlink_to(root / ".store/0.jpg")
    build(root, tmp_path / "mine")
    assert len(splits(tmp_path / "mine")) == 5


def _at_root(root):
    photo(root / "stray.jpg")


def _deeper(root):
    photo(root / "x/a/deep/0.jpg")


def _link_out(root):
    photo(root.parent / "elsewhere.jpg")
    (root / "x/a/link.jpg").symlink_to(root.parent / "elsewhere.jpg")


def _folder_link_out(root):
    photo(root.parent / "elsewhere/0.jpg")
    (root / "x/c").symlink_to(root.parent / "elsewhere")


def _folder_link_inside(root):
    (root / "x/c").symlink_to(root / "x/a")


def _broken_link(root):
    (root / "x/a/link.jpg").symlink_to(root / "gone.jpg")


def _pipe(root):
    os.mkfifo(root / "x/a/pipe.jpg")


def _control(root):
    photo(root / "x/tab\there/0.jpg")


def _no_utf8(root):
    os.rename(root / "x/a/0.jpg", os.fsencode(root / "x/a/") + b"\xff.jpg")


def _blank(root):
    photo(root / "x/ /0.jpg")


def _singles(root):
    for folder in ("x/a", "x/b"):
        (root / folder / "1.jpg").unlink()


def _one_class(root):
    for image in (root / "x/a").iterdir():
        image.unlink()


def _half_split(root):
    (root / "x").rename(root / "train")


def _untrained(root):
    photo(root / "test/c/0.jpg")
    (root / "x").rename(root / "train")


def _nothing(root):
    pass


@pytest.mark.parametrize(
    "change, options, words",
    [
        (_at_root, (), ("stray.jpg lies in 0 class folders", "in 2")),
        (_deeper, (), ("deep/0.jpg lies in 3 class folders", "x/a/0.jpg in 2")),
        (_link_out, (), ("x/a/link.jpg leads out",)),
        (_folder_link_out, (), ("x/c leads out",)),
        (_folder_link_inside, (), ("x/c is a link", "twice")),
        (_broken_link, (), ("x/a/link.jpg is a broken link",)),
        (_pipe, (), ("x/a/pipe.jpg is a broken link or not a plain file",)),
        (_control, (), ("tab\\there", "invisible characters")),
        (_no_utf8, (), ("\\udcff.jpg", "not UTF-8")),
        (_blank, (), ("' '", "blank")),
        (_singles, (), ("no class", "two images")),
        (_one_class, (), ("one class only, x/b", "--root")),
        (_half_split, (), ("train in", "--root", "photos/train if it is one", "--splits none")),
        (_untrained, (), ("1 of the classes", "no training images: c:")),
        (_untrained, ("--test-share", "0.5"), ("--test-share does not apply",)),
        (_nothing, ("--levels", "a,b,c"), ("names 3 levels", "2 class folders")),
        (_nothing, ("--root", "nowhere"), ("nowhere is not a folder",)),
        (_nothing, ("--out", "photos/mine"), ("is inside the photographs' folder",)),
        (_nothing, ("--out", "data/cub_bbox"), ("cub_bbox is the name of a published", "--out")),
    ],
)
def test_refused(tmp_path, monkeypatch, change, options, words):
    monkeypatch.chdir(tmp_path)
    root = photos(tmp_path / "photos", {"x/a": 2, "x/b": 2})
    change(root)
    with pytest.raises(UserError) as error:
        build(root, tmp_path / "mine", *options)
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "mine").exists()


def test_refused_without_images_as_a_command(tmp_path):
    (tmp_path / "photos/a").mkdir(parents=True)
    done = run("build_lmdb.py", "folder", "--root", tmp_path / "photos", "--out", tmp_path / "mine")
    refused(done, f"{tmp_path / 'photos'} has no images (JPEG")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    "option",
    [("--levels", "a,a"), ("--levels", "a,b c"), ("--test-share", "1"), ("--test-share", "x")],
)
def test_usage(option, capsys):
    with pytest.raises(SystemExit) as exit_:
        build_lmdb.main(["folder", "--root", "photos", *option])
    assert exit_.value.code == 2 and option[0] in capsys.readouterr().err
