"""build_lmdb.py when killed, interrupted or out of disk space: no broken output, and it resumes."""

import contextlib
import io
import json
import random
import resource
import shutil
import signal

import cv2
import lmdb
import numpy as np
import pytest
import stopped as commands
from archive import refused, run
from test_cards import rendered

from data_prep import build_lmdb, lmdb_io
from data_prep.verify_lmdb import verify

CLASSES = ("herons/egret", "herons/bittern", "owls/barn", "owls/tawny")
IMAGES = 400  # of which three quarters are for training: more than one transaction


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("resume") / "photos"
    rng = np.random.default_rng(3)
    for number in range(IMAGES):
        folder = root / CLASSES[number % len(CLASSES)]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number}.png"), rng.integers(0, 256, (30, 40, 3), np.uint8))
    return root


def arguments(photos, out, *options):
    """Of a build that takes some seconds with one thread."""
    size = ("--size", 128, "--encoded", "png", "--jobs", 1)
    return ["build_lmdb.py", "folder", "--root", photos, "--out", out, *size, *options]


def build(command):
    """Run a build in this process, as it is faster; what it prints."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert build_lmdb.main([*map(str, command[1:])]) == 0
    return said.getvalue()


def contents(folder):
    """All that a data set holds: files as bytes, LMDBs as records."""
    return {
        path.name: [*lmdb_io.items(path)] if path.is_dir() else path.read_bytes()
        for path in folder.iterdir()
    }


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """What a build makes that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole") / "birds"
    assert "resuming" not in build(arguments(photos, out))
    return contents(out)


CHECKPOINT = ("data_prep.checkpoint:Keeper._keep", 1)  # the moment when the first is on the disk


def stopped(command, after, number, how=signal.SIGKILL):
    """The exit status of a build that gets a signal at a moment of its own (stopped.py)."""
    return commands.stopped(in_folder(command), after, number, how).returncode


def in_folder(command):
    """The command as a path in the repository."""
    return [f"data_prep/{command[0]}", *command[1:]]


def partial_of(out):
    return out.parent / f".{out.name}.partial"


@pytest.fixture(scope="module")
def remains(photos, tmp_path_factory):
    """A folder with the remains of a build that was killed after its first checkpoint."""
    out = tmp_path_factory.mktemp("killed") / "birds"
    assert stopped(arguments(photos, out), *CHECKPOINT) == -signal.SIGKILL
    refused(run("verify_lmdb.py", partial_of(out) / "data"), "not a finished data set")
    return out.parent


@pytest.fixture
def left(remains, tmp_path):
    """A copy of these remains; the path of the data set they are of."""
    shutil.copytree(remains, tmp_path, dirs_exist_ok=True)
    return tmp_path / "birds"


def resumed(said):
    """How many images the resumed build found done."""
    (line,) = [line for line in said.splitlines() if line.startswith("resuming at ")]
    assert line.endswith(f" of {IMAGES} images"), line
    return int(line.split()[2])


def test_killed_at_random_moments(photos, whole, tmp_path):
    """Killed several times, then left to finish: the data set is that of an undisturbed build."""
    out, generator = tmp_path / "birds", random.Random(5)
    total = commands.events(in_folder(arguments(photos, tmp_path / "calm/birds")))
    shutil.rmtree(tmp_path / "calm")
    for _ in range(5):
        moment = generator.randint(total // 2, total)  # imports are among the first half
        if stopped(arguments(photos, out), "audit", moment) == 0:
            break
        assert not out.exists() or contents(out) == whole
    build(arguments(photos, out))
    assert contents(out) == whole
    assert {path.name for path in tmp_path.iterdir()} <= {"birds"}


def test_goes_on(photos, whole, left):
    """At the checkpoint's record, with records beyond it, and with other threads."""
    state = json.loads((partial_of(left) / "state/train.checkpoint").read_bytes().split(b"\n")[0])
    for kind in ("images", "labels"):
        path = str(partial_of(left) / f"data/train_{kind}")
        with lmdb.open(path, map_size=1 << 26) as env, env.begin(write=True) as transaction:
            for number in range(state["count"], 300, 7):
                transaction.put(lmdb_io.KEY.format(number).encode(), b"of another moment")
    assert resumed(build(arguments(photos, left, "--jobs", 3))) == state["count"] >= 128
    assert contents(left) == whole
    assert [path.name for path in left.parent.iterdir()] == ["birds"]


def test_other_options_start_over(photos, left):
    assert "resuming" not in build(arguments(photos, left, "--seed", 1))
    assert json.loads((left / "manifest.json").read_text())["options"]["seed"] == 1
    assert verify(left)[0].count == 0


def test_other_images_start_over(photos, whole, left):
    copy = shutil.copytree(photos, left.parent / "photos")
    path = next(copy.rglob("*.png"))
    path.write_bytes(path.read_bytes() + b" ")
    assert "resuming" not in build(arguments(copy, left))
    assert contents(left)["train_images"] == whole["train_images"]


def test_force_starts_over(photos, whole, left):
    assert "resuming" not in build(arguments(photos, left, "--force"))
    assert contents(left) == whole


def change_a_record(partial):
    with lmdb.open(str(partial / "data/train_images"), map_size=1 << 26) as env:
        with env.begin(write=True) as transaction:
            transaction.put(b"00000007", b"another")


def cut_an_lmdb(partial):
    with open(partial / "data/train_labels/data.mdb", "r+b") as file:
        file.truncate(8192)


def cut_the_checkpoint(partial):
    path = partial / "state/train.checkpoint"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [change_a_record, cut_an_lmdb, cut_the_checkpoint])
def test_damaged_remains_are_not_used(photos, whole, left, harm):
    """The state after a power failure on a disk that reports writes too early."""
    harm(partial_of(left))
    assert "damaged: starting over" in build(arguments(photos, left))
    assert contents(left) == whole


def test_interrupted_by_hand(photos, whole, tmp_path):
    out = tmp_path / "birds"
    assert stopped(arguments(photos, out), *CHECKPOINT, signal.SIGINT) == 130
    assert resumed(build(arguments(photos, out))) >= 128 and contents(out) == whole


@pytest.mark.parametrize("share", [0.01, 0.7])
def test_no_room(photos, whole, tmp_path, share):
    """A limit on the size of files stands in for a full disk; it is a share of what is needed."""
    out, needed = tmp_path / "birds", sum(len(value) for _, value in whole["train_images"])
    limit = int(share * needed)
    done = run(
        *arguments(photos, out),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    refused(done, "free disk space", partial_of(out))
    assert not out.exists()
    if share > 0.5:
        assert resumed(build(arguments(photos, out))) >= 128 and contents(out) == whole


def test_the_old_data_set_stays(photos, tmp_path):
    """It is whole after a kill, and in use until the new one is complete."""
    out = tmp_path / "birds"
    build(arguments(photos, out, "--size", 32))
    before = contents(out)
    assert stopped(arguments(photos, out), *CHECKPOINT) == -signal.SIGKILL
    assert contents(out) == before
    assert "nothing to do" in build(arguments(photos, out, "--size", 32))
    assert resumed(build(arguments(photos, out))) >= 128
    assert verify(out)[0].count == 0


@pytest.mark.parametrize("renamed", [False, True])
def test_killed_while_it_is_put_in_place(photos, whole, left, renamed):
    """Between the renames the old data set is put back; after them, only what is left goes."""
    build(arguments(photos, left))
    old, partial = left.with_name(".birds.old"), partial_of(left)
    (partial / "state").mkdir(parents=True)
    if renamed:
        shutil.copytree(left, old)
    else:
        left.rename(old)
    assert "nothing to do" in build(arguments(photos, left))
    assert contents(left) == whole
    assert [path.name for path in left.parent.iterdir()] == ["birds"]


def test_epochs(photos, whole, tmp_path):
    """Repeated images are copies, also after a resumption; the mean counts each once."""
    order = ("--order", "hierarchical", "--groups", 2, "--classes", 4, "--images", 2, "--epochs", 3)
    calm, out = tmp_path / "calm", tmp_path / "birds"
    build(arguments(photos, calm, *order))
    assert stopped(arguments(photos, out, *order), *CHECKPOINT) == -signal.SIGKILL
    assert "resuming at" in build(arguments(photos, out, *order))
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (calm, out)]
    for manifest in manifests:
        manifest.pop("name")
    assert manifests[0] == manifests[1]
    both = contents(calm), contents(out)
    for name in ("train_images", "train_labels", "train.tsv", "test_images", "mean.binaryproto"):
        assert both[0][name] == both[1][name], name
    train = manifests[0]["splits"]["train"]
    assert train["distinct"] == 300 and train["images"] > 2 * 300
    assert both[0]["mean.binaryproto"] == whole["mean.binaryproto"]
    seen = {}
    listed = (out / "train.tsv").read_text().splitlines()[1:]
    for line, (_, value) in zip(listed, both[1]["train_images"], strict=True):
        assert seen.setdefault(line.split("\t")[1], value) == value
    assert verify(out)[0].count == 0


@rendered
def test_what_readers_make_is_made_again(tmp_path):
    """Killed while cards are rendered: an incomplete deck is not used."""
    command = ["build_lmdb.py", "cards", "--decks", "paris,plastic", "--size", 32, "--out"]
    calm, out = tmp_path / "calm/cards", tmp_path / "cards"
    build([*command, calm])
    assert stopped([*command, out], "pathlib:Path.write_bytes", 30) == -signal.SIGKILL
    assert 0 < len([*(partial_of(out) / "state/prepared").rglob("*.png")]) < 52
    build([*command, out])
    assert contents(out) == contents(calm)
