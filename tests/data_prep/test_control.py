"""build_lmdb.py --shuffle-parents: the same images and fine labels below random parents."""

import contextlib
import io
import json
import shutil
import signal
from dataclasses import replace

import archive
import cv2
import numpy as np
import pytest
from archive import refused, run
from test_build_resume import CHECKPOINT, contents, stopped

from data_prep import build_lmdb, lmdb_io, manifest
from data_prep.common.errors import UserError
from data_prep.label_tree import Hierarchy, shuffled
from data_prep.verify_lmdb import verify
from tools.nets import datasets, tables

SEED = 3
FOLDERS = ("Gulls/Terns/Little", "Gulls/Terns/Common", "Gulls/Gulls/Herring", "Gulls/Gulls/Ivory")
FOLDERS += ("Owls/Barn owls/Barn", "Owls/True owls/Snowy", "Owls/True owls/Tawny")
LEVELS = ("species", "family", "order")
ORDERED = ("--order", "hierarchical", "--groups", 2, "--classes", 4, "--images", 2)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """{reader: the arguments that name its source}; the same photographs for folder and table."""
    top = tmp_path_factory.mktemp("sources")
    rng, lines = np.random.default_rng(4), ["path,species,family,order"]
    for number in range(8 * len(FOLDERS)):
        place = FOLDERS[number % len(FOLDERS)]
        path = top / "photos" / place / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (20, 24, 3), np.uint8))
        order, family, species = place.split("/")
        lines.append(f"{place}/{number}.png,{species},{family},{order}")
    (top / "birds.csv").write_text("\n".join(lines) + "\n")
    photos = top / "photos"
    return {
        "cub": ("cub", "--partial", "--root", archive.make(top / "cub")),
        "folder": ("folder", "--root", photos, "--levels", ",".join(LEVELS), "--test-share", 0.5),
        "table": ("table", "--table", top / "birds.csv", "--root", photos, "--test-share", 0.25),
    }


def arguments(source, out, *options):
    return ["build_lmdb.py", *source, "--out", out, "--size", 24, "--jobs", 1, *options]


def build(source, out, *options):
    """Build in this process, as it is faster; what it prints."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert build_lmdb.main([*map(str, arguments(source, out, *options)[1:])]) == 0
    return said.getvalue()


def rows(folder, split):
    """[(key, image, fine id)] of a split's table."""
    lines = (folder / f"{split}.tsv").read_text().splitlines()[1:]
    return [tuple(line.split("\t")[:3]) for line in lines]


@pytest.mark.parametrize(
    "reader, options",
    [
        ("cub", ("--bbox", "--context", 0.1)),
        ("folder", ("--validation", 7, "--seed", 5, "--scales", "24,32")),
        ("table", ("--order", "listed", "--encoded", "raw")),
    ],
)
def test_only_the_parents_differ(sources, tmp_path, reader, options):
    real, out = tmp_path / "real", tmp_path / "control" / "real"  # folders give their names
    build(sources[reader], real, *options)
    said = build(sources[reader], out, *options, "--shuffle-parents", SEED)
    before, facts = manifest.read(real), manifest.read(out)
    assert (before.options.shuffled_parents, facts.options.shuffled_parents) == (None, SEED)
    assert verify(out)[0].count == 0
    tree, made = (Hierarchy.read(folder / "hierarchy.tsv") for folder in (real, out))
    there = {int(row[2]) for split in facts.present_splits for row in rows(out, split)}
    assert made.text() == shuffled(tree, SEED, there).text() != tree.text()
    assert made.names[0] == tree.names[0]
    for level in (1, 2):
        assert made.names[level] == tuple(f"{n} (shuffled, seed {SEED})" for n in tree.names[level])
        counts = [np.bincount(one.labels[sorted(there), level]).tolist() for one in (tree, made)]
        assert counts[0] == counts[1]
    kept = sum(tree.labels[label, 1] == made.labels[label, 1] for label in there)
    line = f"its parents are shuffled, by the seed {SEED}: {kept} of {len(there)} species keep"
    assert f"{line} their family" in said.splitlines()
    assert kept < len(there)
    for split in facts.present_splits:
        one, other = (data.splits[split] for data in (before, facts))
        assert one.sha256["images"] == other.sha256["images"]
        assert one.sha256["labels"] != other.sha256["labels"]
        assert rows(real, split) == rows(out, split)
        for (_, _, fine), (_, value) in zip(
            rows(out, split), lmdb_io.items(out / f"{split}_labels"), strict=True
        ):
            labels = lmdb_io.parse_datum(value).float_data
            assert [*labels] == made.labels[int(fine)].tolist()
    assert (real / "mean.binaryproto").read_bytes() == (out / "mean.binaryproto").read_bytes()
    assert facts.fingerprint == before.fingerprint and facts.name == before.name


@pytest.mark.parametrize("options", [(), ORDERED, ("--validation", 7)])
def test_it_is_the_data_set_of_these_parents(sources, tmp_path, options):
    """A table with the random parents written out gives the same records, in the same order.

    So the batches of the hierarchical order, and what is reported on them, follow the random tree.
    """
    out, written = tmp_path / "control", tmp_path / "table"
    said = build(sources["table"], out, *options, "--shuffle-parents", SEED)
    tree = Hierarchy.read(out / "hierarchy.tsv")
    parents = {tree.names[0][row[0]]: row[1:] for row in tree.labels}
    table = tmp_path / "random.csv"
    lines = ["path,species,family,order"]
    for line in sources["table"][2].read_text().splitlines()[1:]:
        path, species, *_ = line.split(",")
        names = [tree.names[j][i] for j, i in enumerate(parents[species], 1)]
        lines.append(",".join((path, species, *(f'"{name}"' for name in names))))
    table.write_text("\n".join(lines) + "\n")
    told = build(("table", "--table", table, *sources["table"][3:]), written, *options)
    one, other = contents(out), contents(written)
    for found in (one, other):
        found.pop("manifest.json")  # with other names, options and fingerprints
    assert one == other
    (line,) = [line for line in said.splitlines() if line.startswith("batches of ")]
    assert line in told.splitlines()


def test_the_seed_alone_decides(sources, tmp_path):
    """Same bytes for the same seed, whatever stood there and however it is built; else another."""
    first, second = tmp_path / "a" / "birds", tmp_path / "b" / "birds"
    build(sources["folder"], first, "--shuffle-parents", SEED)
    build(sources["folder"], second)
    assert "up to date" not in build(sources["folder"], second, "--shuffle-parents", SEED)
    assert contents(first) == contents(second)
    said = build(sources["folder"], second, "--shuffle-parents", SEED, "--jobs", 2)
    assert "up to date" in said and f"shuffled, by the seed {SEED}: " in said
    assert "up to date" not in build(sources["folder"], second, "--shuffle-parents", -1)
    one, other = contents(first), contents(second)
    differ = {name for name in one if one[name] != other[name]}
    assert {"hierarchy.tsv", "manifest.json", "train_labels"} < differ
    assert not differ & {"train_images", "test_images", "mean.binaryproto"}
    assert "up to date" not in build(sources["folder"], second)
    assert "shuffled" not in (second / "hierarchy.tsv").read_text()
    (second / "hierarchy.tsv").write_text("species\tfamily\n")
    with pytest.raises(UserError, match="hierarchy.tsv has no classes.* again with --force"):
        build(sources["folder"], second)


@pytest.mark.parametrize("seed", [SEED, SEED + 1, None])
def test_a_killed_build_resumes_with_the_same_seed_only(sources, tmp_path, seed):
    out, calm = tmp_path / "birds", tmp_path / "calm" / "birds"
    killed = arguments(sources["folder"], out, "--shuffle-parents", SEED)
    assert stopped(killed, *CHECKPOINT) == -signal.SIGKILL
    words = () if seed is None else ("--shuffle-parents", seed)
    said = build(sources["folder"], out, *words)
    assert ("resuming at " in said) == (seed == SEED)
    build(sources["folder"], calm, *words)
    assert contents(out) == contents(calm)


def test_images_left_out_have_no_part(sources, tmp_path):
    """The classes that trade places are those that have images in the end."""
    photos = shutil.copytree(sources["folder"][2], tmp_path / "photos")
    lost = photos / FOLDERS[0]
    for path in lost.iterdir():
        path.write_bytes(b"")
    out = tmp_path / "birds"
    source = ("folder", "--root", photos, *sources["folder"][3:])
    said = build(source, out, "--skip-bad", "--shuffle-parents", SEED)
    tree = Hierarchy.read(out / "hierarchy.tsv")
    label = tree.names[0].index("Little")
    assert tree.names[1][tree.labels[label, 1]].startswith("Terns ")
    assert f" of {len(FOLDERS) - 1} species keep their family" in said
    assert verify(out)[0].count == 0


def test_dry_run(sources, tmp_path):
    """It says what the build says, and writes nothing."""
    options = (*ORDERED, "--shuffle-parents", SEED)
    dry = build(sources["folder"], tmp_path / "birds", *options, "--dry-run")
    assert not any(tmp_path.iterdir())
    said = build(sources["folder"], tmp_path / "birds", *options)
    marks = ("batches of ", "its parents ")
    lines = [[line for line in one.splitlines() if line.startswith(marks)] for one in (dry, said)]
    assert lines[0] == lines[1] and len(lines[0]) == 2


def test_the_default_folder_is_not_that_of_the_real_tree(sources, tmp_path):
    """As a command, whose folder and names tell the control from the data set that is there."""
    words = ("build_lmdb.py", *sources["cub"], "--size", 64)
    assert run(*words, cwd=tmp_path).returncode == 0
    before = contents(tmp_path / "data/cub")
    done = run(*words, "--shuffle-parents", SEED, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / f"data/cub_shuffled_{SEED}"
    assert contents(tmp_path / "data/cub") == before
    done = run("verify_lmdb.py", out)
    assert done.returncode == 0 and "is intact" in done.stdout, done.stderr
    done = run("hierarchy.py", "show", out)
    assert f"(shuffled, seed {SEED}) (family " in done.stdout
    assert json.loads((out / "manifest.json").read_text())["options"]["shuffled_parents"] == SEED
    net = replace(tables.NETS["squeezenet"], crop=48)
    one, other = (datasets.built_dataset(folder, net) for folder in (tmp_path / "data/cub", out))
    assert (one.name, one.title) == ("cub", "CUB-200-2011")
    named = {"name": f"cub_shuffled_{SEED}", "title": f"{one.title} (shuffled, seed {SEED})"}
    assert other == replace(one, **named, folder=out.as_posix())  # the net reads the same images


@pytest.mark.parametrize(
    "folders, sentence",
    [
        (("a", "b", "c"), "a tree of one level, level_1, has no parents to shuffle"),
        (("x/a", "x/b", "x/c"), "shuffling parents would change nothing"),
        (("x/a", "y/b", "z/c"), "shuffling parents would change nothing"),
    ],
)
def test_a_tree_that_cannot_be_shuffled(tmp_path, folders, sentence):
    for folder in folders:
        for i in range(2):
            path = tmp_path / "photos" / folder / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((20, 20, 3), 50 * i, np.uint8))
    source = ("folder", "--root", tmp_path / "photos")
    for more in ((), ("--dry-run",)):
        done = run(*arguments(source, tmp_path / "out", "--shuffle-parents", 1, *more))
        refused(done, sentence)
        assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
