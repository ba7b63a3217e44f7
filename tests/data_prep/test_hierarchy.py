"""Label trees: the reviewed tables, and what the checker finds."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from archive import ROOT, refused, run

from data_prep.common.errors import UserError
from data_prep.hierarchy import TABLES, Hierarchy, find_problems, read_rows

SHARED = ROOT.parent / "shared/data/hierarchies/cub.tsv"


@pytest.mark.parametrize(
    "name, levels, sizes",
    [
        ("cub", ("species", "family", "order"), (200, 40, 13)),
        ("cards", ("card", "suit", "colour"), (52, 4, 2)),
    ],
)
def test_tables(name, levels, sizes, tmp_path):
    tree = Hierarchy.read(TABLES / f"{name}.tsv")
    assert (tree.levels, tree.sizes) == (levels, sizes)
    assert tree.labels.shape == (sizes[0], 3)
    assert tree.labels[:, 0].tolist() == list(range(sizes[0]))
    tree.check()
    (tmp_path / "hierarchy.tsv").write_text(tree.text(), encoding="utf-8")
    again = Hierarchy.read(tmp_path / "hierarchy.tsv")
    assert again.names == tree.names and np.array_equal(again.labels, tree.labels)
    done = run("hierarchy.py", "check", tmp_path)
    assert done.returncode == 0 and f"{sizes[0]} {levels[0]} -> {sizes[1]}" in done.stdout


def test_cub_species_are_the_archives():
    names = Hierarchy.read(TABLES / "cub.tsv").names[0]
    assert [int(name[:3]) for name in names] == list(range(1, 201))


@pytest.mark.skipif(not SHARED.exists(), reason=f"no second table to compare with: {SHARED}")
def test_cub_against_a_second_table(tmp_path):
    """A table of other origin names the same parents for every species."""
    table = tmp_path / "cub.tsv"  # without the class numbers in front
    table.write_text(
        "".join(f"{line.partition(chr(9))[2]}\n" for line in SHARED.read_text().splitlines())
    )
    levels, rows = read_rows(table)
    ours = Hierarchy.read(TABLES / "cub.tsv")
    assert len(rows) == 200
    for c, row in enumerate(rows):
        assert [name for _, name in row] == [ours.names[j][i] for j, i in enumerate(ours.labels[c])]
    assert find_problems(levels, rows) == []


GOOD = "a_id\ta\tb_id\tb\n0\tx\t0\tp\n1\ty\t0\tp\n2\tz\t1\tq\n"


@pytest.mark.parametrize(
    "old, new, says",
    [
        ("1\ty\t0\tp", "1\ty\t1\tq\n3\tw\t0\tp\n4\tu\t0\tr", "b 0 has the names p and r"),
        ("2\tz", "3\tz", "gaps in the numbering of a: no 2"),
        ("1\ty", "1\tx", "the a name x stands for the ids 0 and 1"),
        ("1\ty", "0\ty", "a 0 has the names x and y"),
        ("2\tz\t1\tq", "2\tz\t1\tp", "the b name p stands for the ids 0 and 1"),
        ("2\tz\t1\tq", "1\ty\t1\tq", "a y has 2 parents"),
        ("2\tz\t1\tq\n", "2\tz\t1\tq\n2\tz\t1\tq\n", "a z (2) has 2 rows"),
        ("2\tz\t1\tq", "2\tz\t1", "line 4"),
        ("2\tz\t1\tq", "two\tz\t1\tq", "whole number"),
        ("2\tz\t1\tq", "-1\tz\t1\tq", "whole number"),
        ("a_id\ta\tb_id\tb", "a_id\ta\tb\tb_id", "header"),
        (GOOD, "", "no header"),
        (GOOD, "a\tb\n", "no classes"),
    ],
)
def test_faults(old, new, says, tmp_path):
    path = tmp_path / "hierarchy.tsv"
    path.write_text(GOOD)
    Hierarchy.read(path)
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(UserError):
        Hierarchy.read(path)
    refused(run("hierarchy.py", "check", path), says)


def test_two_parents_in_three_levels(tmp_path):
    """One family under two orders, as it happens when one species of many is mistyped."""
    path = tmp_path / "birds.tsv"
    path.write_text("species\tfamily\torder\ngull\tL\tC\nkittiwake\tL\tX\nhawk\tA\tX\n")
    refused(
        run("hierarchy.py", "check", path),
        "family L has 2 parents: C (at species gull) and X (at species kittiwake)",
    )


def test_report_counts_empty_sp(tmp_path):
    path = tmp_path / "tree.tsv"
    path.write_text("a\tb\tc\n1\tp\tt\n2\tp\tt\n3\tq\tt\n4\tr\tu\n")
    done = run("hierarchy.py", "check", path)
    assert "b: 3 groups of 1 to 2 fine classes" in done.stdout
    assert "2 have a single a; 2 of 4 fine classes have an empty SP" in done.stdout
    assert "1 have a single b; 1 of 4 fine classes have an empty SP" in done.stdout
    assert run("hierarchy.py", "show", path).stdout.splitlines()[:3] == [
        "t (c 0)  [3]",
        "    p (b 0)  [2]",
        "        1 (a 0)",
    ]


def test_not_there(tmp_path):
    refused(run("hierarchy.py", "show", tmp_path), Path(tmp_path) / "hierarchy.tsv")


class Page(HTMLParser):
    """The text of a page, and the depth of every class; fails on tags left open, and on scripts."""

    def __init__(self, text):
        super().__init__()
        self.open, self.depths, self.words, self.tags = [], {}, "", set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not {"src", "href", "onclick"} & {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words += text
        if self.open and self.open[-1] in ("summary", "li") and text.strip():
            self.depths[text.strip()] = self.open.count("details")


def test_page_of_a_table(tmp_path):
    table = tmp_path / "tree.tsv"
    table.write_text('a\tb\tc\n<script>x</script>\tp & q\tt\n2\tp & q\tt\n3\t"r"\tu\n')
    done = run("hierarchy.py", "show", table, "--html", tmp_path / "tree.html")
    assert done.returncode == 0 and "tree.html" in done.stdout, done.stderr
    page = Page((tmp_path / "tree.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags and "empty SP" in page.words and "train" not in page.words
    assert page.depths == {
        "t": 1,
        "p & q": 2,
        "<script>x</script>": 2,
        "2": 2,
        "u": 1,
        '"r"': 2,
        "3": 2,
    }
    assert {path.name for path in tmp_path.iterdir()} == {"tree.tsv", "tree.html"}
    assert run("hierarchy.py", "check", table, "--html", "x.html").returncode == 2
    refused(run("hierarchy.py", "show", table, "--html", table / "x.html"), table)


def test_page_of_a_data_set(tmp_path):
    """Images per class and split; one that the order repeats counts once."""
    (tmp_path / "hierarchy.tsv").write_text(GOOD)
    header = "key\timage\ta_id\tb_id\n"
    rows = ["0\tone\t0\t0\n", "1\ttwo\t1\t0\n", "2\tone\t0\t0\n", "3\tmore\t1\t0\n"]
    (tmp_path / "train.tsv").write_text(header + "".join(rows))
    (tmp_path / "test.tsv").write_text(header + "0\tthree\t2\t1\n")
    done = run("hierarchy.py", "show", tmp_path, "--html", tmp_path / "tree.html")
    assert done.returncode == 0, done.stderr
    words = Page((tmp_path / "tree.html").read_text(encoding="utf-8")).words
    for line in ("p b 0, 2 a classes, 3 train, 0 test", "x a 0, 1 train, 0 test", "z a 2, 0"):
        assert line in words
    (tmp_path / "test.tsv").write_text(header + "0\tthree\n")
    done = run("hierarchy.py", "show", tmp_path, "--html", tmp_path / "t.html")
    refused(done, "test.tsv is missing or damaged")
