"""tools/draw_predictions.py on a data set whose every answer is known."""

import cv2
import lmdb
import made_results
import numpy as np
import pytest
import tiny
from commands import assert_error, run

from tools import draw_predictions, results

TRUE, LIT = [0, 1, 2, 5], [0, 1, 3, 0]


@pytest.fixture
def result(tmp_path):
    """Images of the classes TRUE, answered with LIT; the middle level has no classifier."""
    tiny.data_set(tmp_path / "data", TRUE, LIT)
    true, said = tiny.LABELS[TRUE], tiny.LABELS[LIT]
    answers = {
        level: results.Answers(
            true[:, j],
            None if j == 1 else said[:, j],
            None if j == 1 else np.full(4, 0.75),
            said[:, j] if j else None,
        )
        for j, level in enumerate(tiny.TREE.levels)
    }
    return made_results.write(tmp_path / "tiny.json", answers, data=str(tmp_path / "data"))


def test_captions(result):
    predictions = results.read_predictions(result, results.read(result))
    right, wrong, gray = draw_predictions.RIGHT, draw_predictions.WRONG, draw_predictions.GRAY
    lines = [draw_predictions.captions(tiny.TREE, predictions, row) for row in range(4)]
    assert lines[0] == [("kind 0  75%", right), ("a", right), ("left  75%", right)]
    assert lines[2] == [
        ("kind 3  75%", wrong),
        ("  true: kind 2", gray),
        ("b", right),
        ("left  75%", right),
    ]
    assert [color for _, color in lines[3]] == [wrong, gray] * 3


def test_picture_is_repeatable(result):
    pictures = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        done = run(
            "draw_predictions", result, "--out", result.with_name(f"{name}.png"), "--seed", seed
        )
        assert done.returncode == 0 and "4 of 4 test images" in done.stdout, done.stderr
        pictures.append(cv2.imread(str(result.with_name(f"{name}.png"))))
    assert np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[0], pictures[2])


def lose_table(result):
    results.table_of(result).unlink()


def lose_images(result):
    (result.parent / "data" / "test_images" / "data.mdb").unlink()


def rename_records(result):
    folder = result.parent / "data" / "test_images"
    with lmdb.open(str(folder), map_size=1 << 24) as env, env.begin(write=True) as transaction:
        transaction.put(b"00000007", transaction.pop(b"00000003"))


def change_table(result):
    table = results.table_of(result)
    table.write_text(table.read_text().replace("00000003", "00000007"))


def shrink_tree(result):
    path = result.parent / "data" / "hierarchy.tsv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    "damage, says",
    [
        (lose_table, "keep it beside"),
        (lose_images, "not found"),
        (change_table, "is not the table that"),
        (shrink_tree, "evaluate again"),
        (rename_records, "no record 00000003"),
    ],
)
def test_missing_parts_are_said(result, damage, says):
    damage(result)
    done = run("draw_predictions", result, "--out", result.with_name("p.png"))
    assert_error(done, says)
    assert not result.with_name("p.png").exists()


@pytest.mark.parametrize("option", [("--seed", -1), ("--seed", "x"), ("--images", 0)])
def test_numbers_out_of_range(result, option):
    done = run("draw_predictions", result, "--out", result.with_name("p.png"), *option)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"argument {option[0]}: " in done.stderr
