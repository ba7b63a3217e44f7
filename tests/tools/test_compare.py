"""tools/compare.py on results whose figures are known."""

import json

import numpy as np
import pytest
from commands import assert_error, run

from tools import results

IMAGES = 40


def write(path, fine_right, head_right, from_fine_right, data="data/tiny"):
    """A result of two levels whose first images are right; head_right None: no coarse head."""
    answers = {
        "kind_predicted": fine_right,
        "group_predicted": head_right,
        "group_from_fine": from_fine_right,
    }
    zeros = np.zeros(IMAGES, int)
    columns = {"key": [f"{i:08d}" for i in range(IMAGES)], "kind": zeros, "group": zeros}
    columns |= {
        name: (np.arange(IMAGES) >= right).astype(int)
        for name, right in answers.items()
        if right is not None
    }
    columns |= {
        f"{level}_probability": np.ones(IMAGES)
        for level in ("kind", "group")
        if f"{level}_predicted" in columns
    }
    group = {"level": "group", "from_fine": {"top1": from_fine_right / IMAGES}}
    if head_right is not None:
        group["head"] = {"top1": head_right / IMAGES}
    kind = {"level": "kind", "head": {"top1": fine_right / IMAGES}}
    results.write(
        path,
        {
            "experiment": path.stem,
            "data": data,
            "split": "test",
            "images": IMAGES,
            "levels": [kind, group],
        },
        columns,
    )
    return path


@pytest.fixture
def pair(tmp_path):
    return write(tmp_path / "sm.json", 20, None, 24), write(tmp_path / "ours.json", 30, 34, 25)


def test_differences_and_their_p(pair):
    done = run("compare", *pair)
    assert done.returncode == 0, done.stderr
    title, *rows, _, _ = done.stdout.splitlines()
    assert "40 test images of data/tiny" in title
    assert rows[0].split("  ")[0] == "experiment" and "group from fine" in rows[0]
    assert [row.split() for row in rows[1:]] == [
        ["sm", "50.0%", "-", "60.0%"],
        ["ours", "75.0%", "85.0%", "62.5%"],
        ["difference", "+25.0", "+25.0", "+2.5"],
        ["p", "0.002*", "0.002*", "1"],
    ]  # ten images more right, none less: 2 / 2**10


def test_without_predictions_there_is_no_p(pair):
    results.table_of(pair[0]).unlink()
    assert run("compare", *pair).stdout.splitlines()[-3].split() == [
        "difference",
        "+25.0",
        "+25.0",
        "+2.5",
    ]


def test_markdown(pair):
    lines = run("compare", "--markdown", *pair).stdout.splitlines()
    assert lines[2:4] == ["| experiment | kind | group | group from fine |", "|---|---|---|---|"]
    assert all(line.count("|") == 5 for line in lines[2:-3])


def test_other_images_are_refused(pair, tmp_path):
    other = write(tmp_path / "other.json", 20, None, 24, data="data/else")
    assert_error(run("compare", pair[0], other), "same images")


def test_other_levels_are_refused(pair, tmp_path):
    other = json.loads(pair[1].read_text())
    other["levels"].pop()
    (tmp_path / "flat.json").write_text(json.dumps(other))
    assert_error(run("compare", pair[0], tmp_path / "flat.json"), "one label tree")


@pytest.mark.parametrize(
    "content",
    [
        None,
        "no json",
        "[]",
        json.dumps({"experiment": "x"}),
        *(
            json.dumps(dict(experiment="x", data="d", split="test", images=2, levels=levels))
            for levels in (3, [], [1], [{"level": "a"}], [{"level": "a", "head": {"top1": "1"}}])
        ),
    ],
)
def test_what_is_no_result(tmp_path, content):
    if content:
        (tmp_path / "r.json").write_text(content)
    assert_error(run("compare", tmp_path / "r.json"), "r.json")


def test_damaged_predictions(pair):
    table = results.table_of(pair[1])
    table.write_text(table.read_text().replace("\t1", "\tone", 1))
    assert_error(run("compare", *pair), "evaluate again")
