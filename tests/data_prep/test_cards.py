"""build_lmdb.py cards: decks of two Debian packages, rendered, cut, and split by deck."""

import json
import os
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from archive import refused, run

from data_prep import lmdb_io
from data_prep.common.errors import UserError
from data_prep.label_tree import Hierarchy
from data_prep.near_duplicates import ink, ink_distances
from data_prep.readers import cards

DECKS = cards.read_decks()
# a release of Debian has some of them: 12 all, 13 most
HERE = [deck for deck in DECKS if os.path.exists(deck["file"]) and deck["split"] != "none"]
rendered = pytest.mark.skipif(
    {deck["package"] for deck in HERE} != {deck["package"] for deck in DECKS}
    or shutil.which("rsvg-convert") is None,
    reason=f"packages missing: {cards.INSTALL}",
)


@pytest.fixture
def some_decks(monkeypatch, tmp_path):
    """open_source() where only some decks are installed; the renderer is a stand-in."""
    (tmp_path / "rsvg-convert").write_text("#!/bin/sh\necho rsvg-convert version 0\n")
    (tmp_path / "rsvg-convert").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "deck.svgz").write_bytes(b"drawn")

    def open_source(installed, named=None):
        table = [
            deck | {"file": str(tmp_path / ("deck.svgz" if deck["deck"] in installed else "gone"))}
            for deck in DECKS
        ]
        monkeypatch.setattr(cards, "read_decks", lambda: table)
        return cards.open_source(SimpleNamespace(decks=named, size=64, scales=()))

    return open_source


def test_fewer_decks_are_enough(some_decks, capsys):
    package = {deck["deck"] for deck in DECKS if deck["package"] == "gnome-cards-data"}
    everything = some_decks({deck["deck"] for deck in DECKS})
    assert capsys.readouterr().out == ""
    fewer = some_decks(package)
    assert "using 29 of 41 decks" in capsys.readouterr().out
    assert fewer.fingerprint != everything.fingerprint


@pytest.mark.parametrize(
    "installed, named, says",
    [
        ({"anglo", "paris"}, None, "39 of 41 decks"),  # none to test with
        ({"plastic"}, None, "40 of 41 decks"),  # none to train with
        ({"anglo", "plastic"}, "anglo,plastic,tango", "1 of 3 decks"),
    ],
)
def test_missing_decks_that_matter(some_decks, installed, named, says):
    with pytest.raises(UserError, match=f"{says} are not on this machine .*{cards.INSTALL}"):
        some_decks(installed, named)


def test_table():
    used = [deck for deck in DECKS if deck["split"] != "none"]
    test = sum(deck["split"] == "test" for deck in used)
    assert len(DECKS) == 46 and 0.25 <= test / len(used) <= 0.3
    assert all(deck["remark"] != "-" for deck in DECKS if deck["split"] == "none")
    for deck in used:
        kind, _, rows = deck["layout"].partition(" ")
        assert kind in ("cells", "gaps", "elements")
        if rows:
            assert sum(card is not None for row in cards.parse_rows(rows) for card in row) == 52


@pytest.mark.parametrize(
    "old, new, says",
    [
        ("\tanglo\ttrain\t", "\tanglo\ttest\t", "family anglo"),
        ("\tplastic\ttest\t", "\tplastic\tdev\t", "split dev"),
        ("\nplastic\t", "\ntango\t", "the same name"),
        ("\tplastic\ttest\t-", "\tplastic\ttest", "every row needs"),
    ],
)
def test_faulty_table(old, new, says, tmp_path):
    text = cards.DECKS.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "decks.tsv").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError, match=says):
        cards.read_decks(tmp_path / "decks.tsv")


@pytest.mark.parametrize("rows", ["A23456789TJQKc", "A23456789TJQKx", "A23456789TJQKc " * 4])
def test_faulty_layout(rows):
    with pytest.raises(UserError, match="layout"):
        cards.parse_rows(rows)


def test_ink_distance():
    """The same drawing on another paper is near, a moved one too, another one far, whatever is
    white.
    """
    rng = np.random.default_rng(0)
    drawing = np.full((160, 160, 3), 255, np.uint8)
    cv2.circle(drawing, (60, 60), 20, (0, 0, 200), -1)
    other = np.full_like(drawing, 255)
    cv2.circle(other, (110, 110), 20, (0, 0, 200), -1)
    noisy = np.clip(drawing + rng.normal(0, 4, drawing.shape), 0, 255).astype(np.uint8)
    paper = np.clip(drawing.astype(int) - 20, 0, 255).astype(np.uint8)
    near = [noisy, paper, np.roll(drawing, 4, axis=1)]
    distances = ink_distances(ink(drawing), np.stack([ink(image) for image in near + [other]]))
    assert (distances[:3] < 0.1).all() and distances[3] > 0.8


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """All decks, small: the renderer's work is the same at any size, 10 to 20 seconds."""
    out = tmp_path_factory.mktemp("data") / "cards"
    done = run("build_lmdb.py", "cards", "--size", 64, "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done


@rendered
def test_all_decks(built):
    out, done = built
    manifest = json.loads((out / "manifest.json").read_text())
    test = sum(deck["split"] == "test" for deck in HERE)
    assert manifest["splits"]["test"]["images"] == 52 * test
    train = sum(deck["split"] == "train" for deck in HERE)
    copies = 52 * train - manifest["splits"]["train"]["images"]
    used = sum(deck["split"] != "none" for deck in DECKS)
    if len(HERE) == used:
        assert 50 < copies < 150  # small drawings come out equal more often than large ones
        assert f"{copies} cards are exact copies" in done.stdout
    else:
        assert len(HERE) > used / 2
        assert f"using {len(HERE)} of {used} decks" in done.stdout
    assert all(entry["classes_present"] == [52, 4, 2] for entry in manifest["splits"].values())
    listed = {
        split: {
            line.split("\t")[1].split("/")[0]
            for line in (out / f"{split}.tsv").read_text().splitlines()[1:]
        }
        for split in manifest["splits"]
    }
    for split, decks in listed.items():
        assert decks == {deck["deck"] for deck in HERE if deck["split"] == split}


@rendered
def test_no_test_card_resembles_a_training_card(built):
    """No ink distance below 0.1 within a class; the same artwork in two decks comes out below
    that.
    """
    out, _ = built
    done = run("verify_lmdb.py", out, "--nearest", "0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for split in ("train", "test"):
        names = [
            line.split("\t")[1] for line in (out / f"{split}.tsv").read_text().splitlines()[1:]
        ]
        for name, (_, value) in zip(names, lmdb_io.items(out / f"{split}_images")):
            data = np.frombuffer(lmdb_io.parse_datum(value).data, np.uint8)
            found[name] = ink(cv2.imdecode(data, cv2.IMREAD_COLOR))
    decks = {deck["deck"] for deck in HERE}
    for one, other in (("dondorf", "kde-dondorf"), ("anglo", "gnomangelo"), ("berlin", "lattmann")):
        if not {one, other} <= decks:
            continue
        near = [
            float(ink_distances(ink_, found[f"{other}/{name.split('/')[1]}"][None])[0])
            for name, ink_ in found.items()
            if name.startswith(one + "/")
        ]
        assert len(near) == 52 and np.median(near) < 0.1, (one, other, np.median(near))


@rendered
def test_suits_have_their_colors(built):
    """Pip cards of two-color decks: colored ink is red on diamonds and hearts, and on no black
    suit.
    """
    out, _ = built
    tree = Hierarchy.read(out / "hierarchy.tsv")
    odd = ("4_color", "skat", "konqi", "oxygen", "ancient")
    right = total = 0
    for split in ("train", "test"):
        names = [
            line.split("\t")[1] for line in (out / f"{split}.tsv").read_text().splitlines()[1:]
        ]
        for name, (_, value) in zip(names, lmdb_io.items(out / f"{split}_images")):
            datum = lmdb_io.parse_datum(value)
            deck, card = name.split("/")
            assert card == tree.names[0][datum.label] + ".png"
            if any(word in deck for word in odd) or card.split("_")[0] in (
                "ace",
                "jack",
                "queen",
                "king",
            ):
                continue
            image = cv2.imdecode(np.frombuffer(datum.data, np.uint8), cv2.IMREAD_COLOR).astype(int)
            red = ((image[:, :, 2] - image[:, :, :2].max(axis=2)) > 60).mean() > 0.01
            right += red == (tree.names[2][tree.labels[datum.label, 2]] == "red")
            total += 1
    assert total > 20 * len(HERE) and right == total, (right, total)


@rendered
def test_subset_is_deterministic(tmp_path):
    options = ["--decks", "plastic,simplistic", "--size", "48"]
    for name in "ab":
        done = run(
            "build_lmdb.py",
            "cards",
            *options,
            "--out",
            tmp_path / name,
            "--jobs",
            1 + (name == "b"),
        )
        assert done.returncode == 0, done.stderr
    for file in (
        "train_images/data.mdb",
        "test_labels/data.mdb",
        "manifest.json",
        "contact_sheet.png",
    ):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert (
        "nothing to do" in run("build_lmdb.py", "cards", *options, "--out", tmp_path / "a").stdout
    )


@rendered
@pytest.mark.parametrize(
    "options, says",
    [
        (["--decks", "tarot"], "deck tarot not found"),
        (["--decks", "swiss-xvii"], "deck swiss-xvii not found"),
        (["--decks", "plastic"], "no train images"),
        (["--decks", ""], "deck  not found"),
    ],
)
def test_refused_decks(options, says, tmp_path):
    refused(
        run("build_lmdb.py", "cards", *options, "--size", 32, "--out", tmp_path / "cards"), says
    )
    assert not (tmp_path / "cards").exists()


def test_without_the_renderer(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run("build_lmdb.py", "cards", "--out", tmp_path / "cards")
    refused(done, "rsvg-convert", "docker/packages.sh demo")
    assert len(done.stderr.splitlines()) == 1
