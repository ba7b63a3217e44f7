"""build_lmdb.py --out: foreign files stay, links are followed, checks come first."""

import fcntl
import json
import os
import shutil

import cv2
import numpy as np
import pytest
from archive import refused, run

from data_prep import build_lmdb, builder
from data_prep.common.errors import UserError
from data_prep.place import Place
from data_prep.verify_lmdb import verify


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("place") / "photos", np.random.default_rng(0)
    for name in ("crow", "rook"):
        (root / name).mkdir(parents=True)
        for number in range(2):
            image = rng.integers(0, 256, (24, 24, 3), np.uint8)
            cv2.imwrite(str(root / name / f"{number}.png"), image)
    return root


@pytest.fixture(scope="module")
def built(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "birds"
    done = build(photos, out)
    assert done.returncode == 0, done.stderr
    return out


def command(photos, out, *options):
    return list(map(str, ("folder", "--root", photos, "--size", 16, "--out", out, *options)))


def build(photos, out, *options, **kind):
    return run("build_lmdb.py", *command(photos, out, *options), **kind)


def snapshot(folder):
    """{path: kind and content} of all below a folder."""
    return {
        str(path.relative_to(folder)): (path.is_symlink(), path.is_file() and path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if not path.is_fifo()
    }


def web_app(out):
    out.mkdir()
    (out / "manifest.json").write_text('{"name": "Photos", "start_url": "/"}')
    (out / "index.html").write_text("<p>")


def web_app_alone(out):
    out.mkdir()
    (out / "manifest.json").write_text('{"name": "Photos", "start_url": "/"}')


def lists(out):
    """Files of the same names, without a manifest."""
    out.mkdir()
    (out / "train.tsv").write_text("mine")


def a_file(out):
    out.write_text("x")


def a_loop(out):
    out.symlink_to(out.name)


def notes_inside(out):
    (out / "notes.txt").write_text("x")


def notes_deeper(out):
    (out / "train_images/notes.txt").write_text("x")


def a_link_inside(out):
    (out / "train.tsv").unlink()
    (out / "train.tsv").symlink_to("/etc/hostname")


def a_linked_lmdb(out):
    (out / "train_images").rename(out.parent / "elsewhere")
    (out / "train_images").symlink_to("../elsewhere")


def a_cut_manifest(out):
    (out / "manifest.json").write_text((out / "manifest.json").read_text()[:-20])


def another_manifest(out):
    manifest = json.loads((out / "manifest.json").read_text())
    manifest.pop("fingerprint")
    (out / "manifest.json").write_text(json.dumps(manifest))


def beside(what, make):
    def harm(out):
        make(out.parent / f".{out.name}.{what}")

    harm.__name__ = f"{what}_{make.__name__}"
    return harm


def folder_with_notes(path):
    path.mkdir()
    (path / "notes.txt").write_text("x")


def state_without_a_build(path):
    (path / "state").mkdir(parents=True)
    (path / "state/train.checkpoint").write_text("x")


def data_without_a_build(path):
    (path / "data").mkdir(parents=True)
    (path / "data/train.tsv").write_text("x")


def linked_folder(path):
    (path.parent / "precious").mkdir()
    (path.parent / "precious/data").mkdir()
    path.symlink_to("precious")


def linked_file(path):
    (path.parent / "precious").write_text("x")
    path.symlink_to("precious")


def dangling(path):
    path.symlink_to("precious")


def hard_link(path):
    (path.parent / "precious").write_text("")
    os.link(path.parent / "precious", path)


FOREIGN = [web_app, web_app_alone, lists, a_file, a_loop] + [
    beside(what, make)
    for what, makes in (
        ("partial", (folder_with_notes, state_without_a_build, data_without_a_build, linked_folder,
                     a_file)),
        ("old", (folder_with_notes, linked_folder, a_file)),
        ("lock", (a_file, folder_with_notes, linked_file, dangling, hard_link, os.mkfifo)),
    )
    for make in makes
]  # fmt: skip
OURS_AND_MORE = [notes_inside, notes_deeper, a_link_inside, a_linked_lmdb, a_cut_manifest,
                 another_manifest]  # fmt: skip


def named(function):
    return function.__name__


@pytest.mark.parametrize("make", FOREIGN, ids=named)
def test_what_no_build_made_stays(make, tmp_path):
    """Refused before the photographs are even looked for; also with --force."""
    make(tmp_path / "birds")
    before = snapshot(tmp_path)
    for force in ((), ("--force",)):
        with pytest.raises(UserError, match="choose another --out"):
            build_lmdb.main(command("/nowhere", tmp_path / "birds", *force))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("change", OURS_AND_MORE, ids=named)
def test_a_data_set_with_more_in_it_stays(change, built, photos, tmp_path):
    out = shutil.copytree(built, tmp_path / "birds")
    change(out)
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match="choose another --out"):
        build_lmdb.main(command(photos, out, "--force"))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("change", [None, *OURS_AND_MORE], ids=lambda change: str(change)[:20])
def test_what_is_added_while_a_build_runs(change, built, tmp_path):
    """The finished data set waits beside it, and the next build puts it in place."""
    out = shutil.copytree(built, tmp_path / "birds")
    place = Place.of(out)
    shutil.copytree(built, place.partial / "data")
    before = snapshot(out)
    if change is None:
        place.publish(place.partial / "data")
        assert snapshot(out) == before and not place.partial.exists() and not place.old.exists()
    else:
        change(out)
        with pytest.raises(UserError, match="not a built data set"):
            place.publish(place.partial / "data")
        assert snapshot(out) != before and snapshot(place.partial / "data") == before


def test_put_in_place_when_the_notes_are_gone(photos, tmp_path, monkeypatch):
    """A build whose target changed meanwhile keeps its work."""
    out = tmp_path / "birds"
    assert build(photos, out).returncode == 0
    other = command(photos, out, "--size", 32)
    publish = builder.publish

    def disturbed(place):
        notes_inside(out)
        publish(place)

    monkeypatch.setattr(builder, "publish", disturbed)
    with pytest.raises(UserError, match="it holds birds/notes.txt"):
        build_lmdb.main(other)
    monkeypatch.undo()
    (out / "notes.txt").unlink()
    monkeypatch.setattr("data_prep.pipeline._Plan.load", None)  # nothing is decoded again
    assert build_lmdb.main(other) == 0
    assert json.loads((out / "manifest.json").read_text())["options"]["size"] == 32
    assert {path.name for path in tmp_path.iterdir()} == {"birds"}


def to_a_data_set(tmp_path, built):
    shutil.copytree(built, tmp_path / "disk/birds")
    (tmp_path / "out").symlink_to("disk/birds")
    return tmp_path / "out", tmp_path / "disk/birds"


def to_an_empty_folder(tmp_path, built):
    (tmp_path / "disk/birds").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk/birds")
    return tmp_path / "out", tmp_path / "disk/birds"


def to_nothing(tmp_path, built):
    (tmp_path / "out").symlink_to("disk/new/birds")
    return tmp_path / "out", tmp_path / "disk/new/birds"


def by_two_links(tmp_path, built):
    (tmp_path / "disk").mkdir()
    (tmp_path / "second").symlink_to("disk/birds")
    (tmp_path / "out").symlink_to("second")
    return tmp_path / "out", tmp_path / "disk/birds"


def in_a_linked_folder(tmp_path, built):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    return tmp_path / "out/birds", tmp_path / "disk/birds"


LINKS = [to_a_data_set, to_an_empty_folder, to_nothing, by_two_links, in_a_linked_folder]


@pytest.mark.parametrize("make", LINKS, ids=named)
def test_links_are_followed(make, built, photos, tmp_path, capsys):
    """The link stays, the data set is where it points, and nothing is left beside either."""
    out, real = make(tmp_path, built)
    for _ in range(2):
        assert build_lmdb.main(command(photos, out, "--force")) == 0
        assert f"wrote {out}" in capsys.readouterr().out
    assert (tmp_path / "out").is_symlink() and not real.is_symlink()
    assert {path.name for path in real.parent.iterdir()} == {"birds"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert verify(out)[0].count == 0
    assert build_lmdb.main(command(photos, out)) == 0
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("out", [".", "train_images/.."])
def test_the_current_folder(out, built, photos, tmp_path):
    """Replacing the current folder would leave the shell in a deleted folder."""
    folder = shutil.copytree(built, tmp_path / "birds")
    refused(build(photos, out, cwd=folder), "is the current folder")


def test_an_old_lock(photos, tmp_path):
    """The working folder of a killed build is reused and removed; an empty one stays."""
    with Place.of(tmp_path / "birds").locked():
        shutil.copy(tmp_path / ".birds.lock", tmp_path / ".left.lock")
        with pytest.raises(UserError, match="another build"):
            with Place.of(tmp_path / "birds").locked():
                pass
    (tmp_path / ".empty.lock").touch()
    for name in ("left", "empty"):
        with Place.of(tmp_path / name).locked():
            with open(tmp_path / f".{name}.lock") as lock, pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert {path.name for path in tmp_path.iterdir()} == {".empty.lock"}
