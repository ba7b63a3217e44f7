"""tools/draw_predictions.py on a data set whose every answer is known."""

import cv2
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
    columns, levels = {"key": [f"{i:08d}" for i in range(4)]}, []
    for j, level in enumerate(tiny.TREE.levels):
        columns |= {level: true[:, j], f"{level}_from_fine": said[:, j]}
        levels.append({"level": level, "from_fine": {"top1": 0.5}})
        if j != 1:
            levels[-1]["head"] = {"top1": 0.5}
            columns |= {f"{level}_predicted": said[:, j], f"{level}_probability": np.full(4, 0.75)}
    path = tmp_path / "tiny.json"
    results.write(
        path,
        {
            "experiment": "tiny",
            "data": str(tmp_path / "data"),
            "split": "test",
            "images": 4,
            "levels": levels,
        },
        columns,
    )
    return path


def test_captions(result):
    predictions = results.read_predictions(result)
    right, wrong, grey = draw_predictions.RIGHT, draw_predictions.WRONG, draw_predictions.GREY
    lines = [draw_predictions.captions(tiny.TREE, predictions, row) for row in range(4)]
    assert lines[0] == [("kind 0  75%", right), ("a", right), ("left  75%", right)]
    assert lines[2] == [
        ("kind 3  75%", wrong),
        ("  true: kind 2", grey),
        ("b", right),
        ("left  75%", right),
    ]
    assert [color for _, color in lines[3]] == [wrong, grey] * 3


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
    table = results.table_of(result)
    table.write_text(table.read_text().replace("00000003", "00000007"))


def lose_column(result):
    table = results.table_of(result)
    table.write_text(table.read_text().replace("half_predicted", "half_guessed"))


def lose_row(result):
    table = results.table_of(result)
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))


def shrink_tree(result):
    path = result.parent / "data" / "hierarchy.tsv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    "damage, says",
    [
        (lose_table, "keep it beside"),
        (lose_images, "is not there"),
        (lose_column, "evaluate again"),
        (lose_row, "evaluate again"),
        (shrink_tree, "evaluate again"),
        (rename_records, "no record 00000007"),
    ],
)
def test_missing_parts_are_said(result, damage, says):
    damage(result)
    done = run("draw_predictions", result, "--out", result.with_name("p.png"))
    assert_error(done, says)
    assert not result.with_name("p.png").exists()
