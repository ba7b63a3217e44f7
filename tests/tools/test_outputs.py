"""Files that the tools did not write stay: beside a result, among prototxts, and earlier logs."""

import made_results
import numpy as np
import pytest

from data_prep.common.errors import UserError
from tools import demo, results
from tools.nets import files


@pytest.mark.parametrize(
    "name, text",
    [
        ("x.tsv", "name\tage\n"),
        ("x.tsv", ""),
        ("x.json", '{"name": "my-web-app"}'),
        ("x.json", "[1]"),
        ("x.json", "{"),
    ],
)
def test_evaluate_replaces_results_only(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"{name} exists, and no evaluation wrote it"):
        results.make_way(tmp_path / "x.json")
    assert (tmp_path / name).read_text() == text


def test_evaluate_replaces_its_own(tmp_path):
    results.make_way(tmp_path / "new/x.json")
    answers = results.Answers(np.zeros(3, int), np.zeros(3, int), np.ones(3))
    for _ in range(2):
        made_results.write(tmp_path / "new/x.json", {"a": answers})
        results.make_way(tmp_path / "new/x.json")
    assert results.read(tmp_path / "new/x.json").images == 3


@pytest.mark.parametrize(
    "text", ["net: mine", "# by hand\nname: 'x'", "", "\xff# Written by tools/"]
)
def test_prototxts_by_hand_stay(tmp_path, text):
    """Nothing is written then, not even the files that are new."""
    (tmp_path / "b.prototxt").write_text(text, encoding="latin-1")
    ours = "# x\n# Made by tools/make_prototxt.py --net alexnet\n"
    with pytest.raises(UserError, match="b.prototxt exists"):
        files.write({tmp_path / "a.prototxt": ours, tmp_path / "b.prototxt": ours})
    assert [path.name for path in tmp_path.iterdir()] == ["b.prototxt"]
    assert (tmp_path / "b.prototxt").read_text(encoding="latin-1") == text
    (tmp_path / "b.prototxt").write_text(ours)
    files.write({tmp_path / "b.prototxt": ours + "name: 'x'"})
    assert (tmp_path / "b.prototxt").read_text().endswith("'x'")


def test_logs_of_earlier_trainings_stay(tmp_path):
    for text in ("first", "second"):
        (tmp_path / "train.log").write_text(text)
        demo.keep_log(tmp_path / "train.log")
    demo.keep_log(tmp_path / "train.log")
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {"train.1.log": "first", "train.2.log": "second"}
