"""tools/compare.py on results whose figures are known."""

import json

import made_results
import numpy as np
import pytest
from commands import assert_error, run

from data_prep.common import files
from tools import results

IMAGES = 40


def write(path, fine_right, head_right, from_fine_right, **changes):
    """A result of two levels whose first images are right; head_right None: no coarse head."""
    true = np.zeros(IMAGES, int)

    def first(right):
        return (np.arange(IMAGES) >= right).astype(int)

    sure = np.ones(IMAGES)
    own = None if head_right is None else first(head_right)
    answers = {
        "kind": results.Answers(true, first(fine_right), sure),
        "group": results.Answers(true, own, None if own is None else sure, first(from_fine_right)),
    }
    return made_results.write(path, answers, **changes)


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


def changed(result, value, *place):
    """Text of a result in which one place, such as ("levels", 0, "head"), has another value."""
    content = json.loads(result.read_text())
    part = content
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    "value, place, says",
    [
        (3, ("levels",), "levels is not a list"),
        ([], ("levels",), "levels is empty"),
        ([1], ("levels",), "levels[0] is not an object"),
        ([{"level": "a"}], ("levels",), "levels[0].classes is missing"),
        (None, ("levels", 0, "head"), "levels[0]: it has neither head nor from_fine"),
        ("1", ("levels", 0, "head", "top1"), "levels[0].head.top1 is not a number"),
        (True, ("levels", 0, "head", "right"), "levels[0].head.right is not a whole number"),
        (10**400, ("levels", 0, "head", "top1"), "levels[0].head.top1 is not a number"),
        (1.5, ("levels", 0, "head", "top1"), "levels[0].head: a share is above 1"),
        (-1, ("levels", 1, "from_fine", "right"), "levels[1].from_fine: a share has"),
        ([0.5], ("levels", 0, "head", "interval"), "an interval of two numbers"),
        ("group", ("levels", 0, "level"), "two levels of one name"),
        (0, ("images",), "images is not above 0"),
        (2.5, ("images",), "images is not a whole number"),
        ({"a": "b"}, ("fine", "recall"), "fine.recall['a'] is not a number"),
    ],
)
def test_wrong_values_are_named(pair, value, place, says):
    pair[0].write_text(changed(pair[0], value, *place))
    done = run("compare", *pair)
    assert_error(done, f"{pair[0]} is not a result of tools/evaluate.py: ")
    assert says in done.stderr


@pytest.mark.parametrize(
    "text, says",
    [
        (None, "not found (current folder: "),
        ("no json", "is not valid JSON"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"images": ' + "1" * 5000 + "}", "is not valid JSON"),
        ('{"images": 1, "images": 2}', "duplicate key 'images'"),
        ('{"images": NaN}', "NaN is not a JSON number"),
        ("[]", "the value is not an object"),
        ("{}", "experiment is missing"),
    ],
)
def test_other_files_are_refused(tmp_path, text, says):
    if text is not None:
        (tmp_path / "r.json").write_text(text)
    assert_error(run("compare", tmp_path / "r.json"), says)


def test_a_result_of_a_later_version_is_read(pair):
    pair[0].write_text(changed(pair[0], "new", "remark"))
    assert run("compare", *pair).returncode == 0


def test_an_interrupted_evaluation_is_recognized(pair, tmp_path):
    """The table is written before the figures: a kill in between leaves a pair of two runs."""
    write(tmp_path / "new.json", 40, 40, 40)
    results.table_of(tmp_path / "new.json").replace(results.table_of(pair[0]))
    done = run("compare", *pair)
    assert_error(done, f"is not the table that {pair[0]} was written with")
    assert "evaluate again" in done.stderr and not done.stdout


def test_a_result_without_the_digest_of_its_table(pair):
    content = json.loads(pair[0].read_text())
    del content["predictions_sha256"]
    pair[0].write_text(json.dumps(content))
    assert_error(run("compare", *pair), f"{pair[0]} was written by an earlier version")
    results.table_of(pair[0]).unlink()
    assert run("compare", *pair).returncode == 0  # the figures alone need no table


def test_levels_whose_columns_have_like_names(tmp_path):
    """Levels such as key, or sp beside sp_predicted, have columns of their own in the table."""
    columns = [np.full(3, i) for i in range(9)]
    answers = {
        name: results.Answers(columns[i], columns[i + 1], np.full(3, 0.5), columns[i + 2])
        for i, name in ((0, "sp"), (3, "sp_predicted"), (6, "key"))
    }
    path = made_results.write(tmp_path / "r.json", answers)
    read = results.read_predictions(path, results.read(path))
    assert list(read.keys) == ["00000000", "00000001", "00000002"]
    for i, level in enumerate(read.levels):
        found = (level.true, level.predicted, level.from_fine)
        assert [values.tolist() for values in found] == [[3 * i + j] * 3 for j in range(3)]


@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda text: text.replace("\t1", "\tone", 1), "is not what tools/evaluate.py writes"),
        (lambda text: text.replace("kind_true", "kind"), "has no column 'kind_true'"),
        (lambda text: text.rpartition("\n0")[0] + "\n", "39 rows instead of 40"),
        (lambda text: text.replace("\t0", "", 1), "line 2: 7 cells, but the header has 8"),
        (lambda text: text.replace("\t0", "\t" + "9" * 30, 1), "is not what"),
        (lambda text: "", "is empty"),
    ],
)
def test_tables_that_cannot_be_read(pair, damage, says):
    """Also where the digest is that of the table."""
    table = results.table_of(pair[1])
    table.write_text(damage(table.read_text()))
    assert_error(run("compare", *pair), "evaluate again")
    pair[1].write_text(changed(pair[1], files.sha256(table), "predictions_sha256"))
    assert_error(run("compare", *pair), says)
