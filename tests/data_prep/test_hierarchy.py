"""Label trees: the reviewed tables, and what the checker finds."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import real_data
from archive import refused, run

from data_prep import hierarchy
from data_prep.common.errors import UserError
from data_prep.label_tree import TABLES, Hierarchy, find_problems, read_rows, shuffled

SHARED = real_data.FOLDER / "hierarchies/cub.tsv"


@pytest.mark.parametrize(
    "name, levels, sizes",
    [
        ("cub", ("species", "family", "order"), (200, 40, 13)),
        ("cards", ("card", "suit", "color"), (52, 4, 2)),
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
    """A table from another source names the same parents for every species."""
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
        ("1\ty", "1\tx", "the a name x has the ids 0 and 1"),
        ("1\ty", "0\ty", "a 0 has the names x and y"),
        ("2\tz\t1\tq", "2\tz\t1\tp", "the b name p has the ids 0 and 1"),
        ("2\tz\t1\tq", "1\ty\t1\tq", "a y has 2 parents"),
        ("2\tz\t1\tq\n", "2\tz\t1\tq\n2\tz\t1\tq\n", "a z (2) has 2 rows"),
        ("2\tz\t1\tq", "2\tz\t1", "line 4"),
        ("2\tz\t1\tq", "two\tz\t1\tq", "whole number"),
        ("2\tz\t1\tq", "-1\tz\t1\tq", "whole number"),
        ("a_id\ta\tb_id\tb", "a_id\ta\tb\tb_id", "header"),
        (GOOD, "", "is empty: a header line"),
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


@pytest.mark.parametrize("name", ["cub", "cars", "aircraft"])
def test_shuffled_parents_keep_the_shape_of_the_tree(name):
    real = Hierarchy.read(TABLES / f"{name}.tsv")
    made = shuffled(real, 1)
    assert made.names[0] == real.names[0] and made.sizes == real.sizes
    for level in range(1, len(real.levels)):
        edges = [np.unique(tree.labels[:, level - 1 : level + 1], axis=0) for tree in (made, real)]
        counts = [np.bincount(edge[:, 1]) for edge in edges]
        assert counts[0].tolist() == counts[1].tolist()
        assert made.group_sizes(level).tolist() == real.group_sizes(level).tolist()
        if level > 1:  # above the leaves, the tree is the same
            assert edges[0].tolist() == edges[1].tolist()
    # As many fine classes keep their parent as by chance.
    kept = np.mean(made.labels[:, 1] == real.labels[:, 1])
    chance = np.sum((real.group_sizes(1) / len(real.labels)) ** 2)
    assert abs(kept - chance) < 4 * np.sqrt(chance / len(real.labels))
    assert made.text() == shuffled(real, 1).text() != shuffled(real, 2).text()
    some = range(0, len(real.labels), 3)  # those that have images, say
    part = shuffled(real, 1, some)
    rest = np.setdiff1d(np.arange(len(real.labels)), some)
    assert np.array_equal(part.labels[rest], real.labels[rest])
    for level in range(1, len(real.levels)):
        here = [np.bincount(tree.labels[some, level]).tolist() for tree in (part, real)]
        assert here[0] == here[1]


def test_a_single_level_has_no_parents_to_shuffle():
    flat = Hierarchy(("kind",), [[0], [1]], [["a", "b"]])
    with pytest.raises(UserError, match="one level, kind, has no parents"):
        shuffled(flat, 1)


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
    refused(done, "test.tsv, line 2: 2 cells, but the header has 4", "build the data set again")


OTHER_KINDS = [  # text, what is said of it
    ("gull,Laridae\nhawk,Accipitridae\n", "commas or semicolons"),
    ("gull;Laridae\nhawk;Accipitridae\n", "commas or semicolons"),
    ("species\ngull\nhawk\n", "one column only"),
    ("1 0\n2 0\n3 1\n", "hierarchy.py convert"),
    ("1\t0\n2\t0\n3\t1\n", "hierarchy.py convert"),
    ("gull\tLaridae\ntern\tLaridae\nhawk\tAccipitridae\n", "is a row, not a header"),
    ("1\tx\n2\tx\n", "is a row, not a header"),
    ("ivory gull\tLaridae\nhawk\tAccipitridae\n", "level name 'ivory gull'"),
    ('"species"\t"family"\n"gull"\t"L"\n', "quotation marks"),
    ("species\tfamily\n'gull'\tL\n'hawk'\tA\n", "quotation marks"),
    ("key\tfamily\ngull\tL\nhawk\tA\n", "'key' is reserved"),
    ("sp\tsp_predicted\ngull\tL\nhawk\tA\n", "'sp_predicted' is reserved"),
    ("species\tfamily\ngull\tL\x07\n", "line 2: a name is empty or has invisible characters"),
    ("a_id\ta\n" + "9" * 5000 + "\tx\n", "line 2: an id: '99"),
]


@pytest.mark.parametrize("text, says", OTHER_KINDS, ids=lambda text: ascii(text)[:30])
def test_files_of_other_kinds(text, says, tmp_path):
    path = tmp_path / "other.tsv"
    path.write_text(text)
    for action in ("check", "show"):
        with pytest.raises(UserError) as error:
            hierarchy.main([action, str(path)])
        assert says in str(error.value)


def test_check_names_the_levels_and_look_alikes(tmp_path, capsys):
    path = tmp_path / "birds.tsv"
    path.write_text("species\tfamily\ngull\tL\nGull\tL\nhawk\tA\n")
    hierarchy.main(["check", str(path)])
    said = capsys.readouterr().out
    assert f"{path} is a label tree of the levels species, family" in said
    assert "warning: species: 'gull' and 'Gull' are different classes" in said


NABIRDS = "1 0\n2 0\n10 1\n11 1\n12 2\n20 10\n21 10\n22 11\n23 12\n"  # hierarchy.txt
NAMES = "\n".join(
    ("0 Birds", "1 Ducks and  Geese", "2 Hawks", "10 Duck", "11 Goose", "12 Hawk")
    + ("20 Wood Duck (male)", "21 Wood Duck (female)", "22 Snow Goose", "23 Snow Goose")
)


def convert(tmp_path, text, *options, names=None):
    (tmp_path / "hierarchy.txt").write_text(text)
    if names is not None:
        (tmp_path / "classes.txt").write_text(names)
        options += ("--names", tmp_path / "classes.txt")
    out = tmp_path / "out.tsv"
    command = ("convert", tmp_path / "hierarchy.txt", "--out", out, *options)
    hierarchy.main([*map(str, command)])
    return Hierarchy.read(out)


def not_converted(tmp_path, text, *words, names=None):
    with pytest.raises(UserError) as error:
        convert(tmp_path, text, names=names)
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "out.tsv").exists()


@pytest.mark.parametrize("separator", [" ", "\t", ","])
def test_convert(tmp_path, separator, capsys):
    """Leaves are the fine classes, in the order of their numbers; the root is not a level."""
    text = NABIRDS.replace(" ", separator)
    tree = convert(tmp_path, text, "--levels", "species,group,order", names=NAMES)
    assert "4 species -> 3 group -> 2 order" in capsys.readouterr().out
    assert tree.names == (
        ("Wood Duck (male)", "Wood Duck (female)", "Snow Goose (22)", "Snow Goose (23)"),
        ("Duck", "Goose", "Hawk"),
        ("Ducks and Geese", "Hawks"),
    )
    assert tree.labels.tolist() == [[0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 2, 1]]


def test_convert_leaves_of_different_depth(tmp_path):
    text = NABIRDS + "3 0\n"
    not_converted(tmp_path, text, "1 of 5 leaves", "smaller depth than 3", "3 at 1", "--pad")
    tree = convert(tmp_path, text, "--pad")
    assert [tree.names[j][i] for j, i in enumerate(tree.labels[0])] == ["3", "3", "3"]


def test_convert_parents_first_and_several_roots(tmp_path):
    text = "birds gull\nbirds hawk\nfish cod\nfish eel\n"
    not_converted(tmp_path, text, "line 2: birds has a second parent, hawk", "--parent-first")
    assert convert(tmp_path, text, "--parent-first").names == (
        ("gull", "hawk", "cod", "eel"),
        ("birds", "fish"),
    )


@pytest.mark.parametrize(
    "text, names, says",
    [
        ("", None, "has no lines of a child and its parent"),
        ("1 1\n", None, "has no lines of a child and its parent"),
        ("1 2\n2 3\n3 1\n", None, "is a circle"),
        ("1 2\n2 3\n3 2\n", None, "is its own ancestor"),
        ("1\n", None, "line 1: expected two values"),
        ("1,2,3\n", None, "line 1: more than two values"),
        ("1 0\n2 0\n", "1 a\n", "lack 1 classes, e.g. 2"),
        ("1 0\n2 0\n", "1 a\n1 b\n", "line 2: 1 has two names"),
    ],
)
def test_convert_refuses(text, names, says, tmp_path):
    not_converted(tmp_path, text, says, names=names)
