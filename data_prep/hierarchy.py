#!/usr/bin/env python3
"""The tree of class labels: reading, checking and printing it.

A hierarchy is a table with one row per fine class and one column per level, fine to coarse. In a
built data set (`hierarchy.tsv`) every level has two columns, `<level>_id` and `<level>`; in the
tables of `data_prep/hierarchies/` the ids are left out and given by order of appearance. Lines
that start with `#` are remarks.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from data_prep.common.command import command
from data_prep.common.errors import UserError

TABLES = Path(__file__).resolve().parent / "hierarchies"


class Hierarchy:
    """The label tree of a data set.

    levels  tuple of h level names, fine to coarse, e.g. ("species", "family", "order")
    labels  int64 array, classes x h: row c has the 0-based ids of fine class c and its ancestors
    names   per level a tuple of class names: names[j][i] is class i of level j
    sizes   tuple, the number of classes per level
    """

    def __init__(self, levels, labels, names):
        self.levels = tuple(levels)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.names = tuple(tuple(level) for level in names)
        self.sizes = tuple(len(level) for level in self.names)

    @classmethod
    def read(cls, path):
        """Read and check a table (UTF-8, tab-separated); UserError if it is no label tree."""
        levels, rows = read_rows(path)
        problems = find_problems(levels, rows)
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise UserError(f"{path} is not a label tree: {problems[0]}{more}")
        labels = sorted(tuple(number for number, _ in row) for row in rows)
        found = [dict(row[j] for row in rows) for j in range(len(levels))]
        return cls(levels, labels, [[level[i] for i in range(len(level))] for level in found])

    def check(self):
        """Raise UserError if labels and names are no tree with ids 0, 1, 2 ... per level."""
        if (
            self.labels.ndim != 2
            or self.labels.shape[1] != len(self.levels)
            or len(self.names) != len(self.levels)
        ):
            raise UserError(
                f"a label tree of {len(self.levels)} levels needs labels of as many columns"
            )
        if (self.labels < 0).any() or (self.labels.max(axis=0) >= self.sizes).any():
            raise UserError("the label tree has labels without a name")
        rows = [[(int(i), self.names[j][i]) for j, i in enumerate(row)] for row in self.labels]
        for problem in find_problems(self.levels, rows):
            raise UserError(f"not a label tree: {problem}")

    def text(self):
        """The table as it is written to `hierarchy.tsv`."""
        lines = ["\t".join(f"{level}_id\t{level}" for level in self.levels)]
        for row in self.labels:
            lines.append("\t".join(f"{i}\t{self.names[j][i]}" for j, i in enumerate(row)))
        return "\n".join(lines) + "\n"

    def group_sizes(self, level):
        """int64 array: the number of fine classes in each class of the level."""
        return np.bincount(self.labels[:, level], minlength=self.sizes[level])


def read_rows(path):
    """Levels and rows of a table, each row a list of (id, name) per level; nothing is checked but
    the format.

    A table without ids gets them by order of appearance. Raises UserError where the file is
    missing or malformed.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # some editors write a mark in front
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UserError(f"there is no label tree {path}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None
    lines = [
        (n, line)
        for n, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.startswith("#")
    ]
    if not lines:
        raise UserError(f"{path} has no header line")
    header = lines[0][1].split("\t")
    numbered = header[0].endswith("_id")
    levels = header[1::2] if numbered else header
    if numbered and header != [part for level in levels for part in (f"{level}_id", level)]:
        raise UserError(
            f"{path}: the header must be <level>_id, <level> per level, and is {' '.join(header)}"
        )
    rows, seen = [], [{} for _ in levels]
    for number, line in lines[1:]:
        cells = line.split("\t")
        if len(cells) != len(header) or not all(cell.strip() for cell in cells):
            raise UserError(f"{path}, line {number}: {len(header)} tab-separated values expected")
        if not numbered:
            rows.append(
                [(seen[j].setdefault(name, len(seen[j])), name) for j, name in enumerate(cells)]
            )
            continue
        if not all(cell.isascii() and cell.isdigit() and len(cell) < 10 for cell in cells[::2]):
            raise UserError(f"{path}, line {number}: an id is not a whole number from 0")
        rows.append([(int(i), name) for i, name in zip(cells[::2], cells[1::2])])
    if not rows:
        raise UserError(f"{path} has no classes")
    return tuple(levels), rows


def find_problems(levels, rows):
    """What keeps rows of (id, name) per level from being a tree, one sentence each."""
    problems = []
    if len(set(levels)) < len(levels):
        problems.append("two levels have the same name")
    for j, level in enumerate(levels):
        names_of, ids_of, parents_of = {}, {}, {}
        for row in rows:
            number, name = row[j]
            names_of.setdefault(number, {})[name] = True
            ids_of.setdefault(name, {})[number] = True
            if j + 1 < len(levels):
                parents_of.setdefault(name, {}).setdefault(row[j + 1][1], row[0][1])
        for number, names in names_of.items():
            if len(names) > 1:
                problems.append(f"{level} {number} has the names {' and '.join(names)}")
        for name, numbers in ids_of.items():
            if len(numbers) > 1:
                problems.append(
                    f"the {level} name {name} stands for the ids {' and '.join(map(str, numbers))}"
                )
        for name, parents in parents_of.items():
            if len(parents) > 1:
                each = " and ".join(
                    f"{parent} (at {levels[0]} {fine})" for parent, fine in parents.items()
                )
                problems.append(f"{level} {name} has {len(parents)} parents: {each}")
        gaps = (
            sorted(set(range(max(names_of) + 1)) - set(names_of))
            if max(names_of) < 10 * len(rows)
            else ["many"]
        )
        if gaps:
            problems.append(f"gaps in the numbering of {level}: no {', '.join(map(str, gaps[:5]))}")
    for (number, name), count in Counter(row[0] for row in rows).items():
        if count > 1:
            problems.append(f"{levels[0]} {name} ({number}) has {count} rows")
    return problems


def report(hierarchy):
    """Lines on the shape of the tree: groups per level, and where the large-margin loss has
    nothing to compare.

    For a level, SP(c) is the set of other fine classes that share the fine class c's ancestor on
    that level.
    """
    lines = [
        " -> ".join(f"{size} {level}" for size, level in zip(hierarchy.sizes, hierarchy.levels))
    ]
    for j, level in enumerate(hierarchy.levels[1:], 1):
        sizes = hierarchy.group_sizes(j)
        children = np.array(
            [
                len(set(hierarchy.labels[hierarchy.labels[:, j] == i, j - 1]))
                for i in range(hierarchy.sizes[j])
            ]
        )
        lines.append(
            f"{level}: {len(sizes)} groups of {sizes.min()} to {sizes.max()} fine classes (median "
            f"{np.median(sizes):g}); {int((children == 1).sum())} have a single "
            f"{hierarchy.levels[j - 1]}; "
            f"{int((sizes == 1).sum())} of {len(hierarchy.labels)} fine classes have an empty SP"
        )
    return lines


def tree(hierarchy):
    """Lines of the tree, coarse to fine: class, id, number of fine classes below."""

    def branch(level, members, indent):
        for i in sorted(set(hierarchy.labels[members, level].tolist())):
            inside = members[hierarchy.labels[members, level] == i]
            below = f"  [{len(inside)}]" if level else ""
            yield f"{indent}{hierarchy.names[level][i]} ({hierarchy.levels[level]} {i}){below}"
            if level:
                yield from branch(level - 1, inside, indent + "    ")

    return branch(len(hierarchy.levels) - 1, np.arange(len(hierarchy.labels)), "")


def _parse(argv):
    parser = argparse.ArgumentParser(
        description="Print or check the label tree of a data set.",
        epilog="example: data_prep/hierarchy.py show data/cub --html cub.html",
    )
    parser.add_argument(
        "action",
        choices=("show", "check"),
        help="show: print the tree; check: look for classes with "
        "two parents, gaps in numbering and duplicate names, and report groups and empty SP sets",
    )
    parser.add_argument(
        "path",
        type=Path,
        help="a built data set (data/<name>) or a table such as data_prep/hierarchies/cub.tsv",
    )
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="with show: write the tree as a page to open in a browser instead, with the numbers "
        "of images of a built data set",
    )
    args = parser.parse_args(argv)
    if args.html and args.action != "show":
        parser.error("--html goes with show")
    return args


def main(argv=None):
    args = _parse(argv)
    built = args.path.is_dir()
    path = args.path / "hierarchy.tsv" if built else args.path
    if args.action == "show":
        hierarchy = Hierarchy.read(path)
        if args.html is None:
            print("\n".join(tree(hierarchy)))
            return 0
        from data_prep import tree_page  # which needs this module

        tree_page.write(args.html, hierarchy, args.path, tree_page.images(args.path, hierarchy))
        print(f"wrote {args.html}: open it in a browser")
        return 0
    problems = find_problems(*read_rows(path))
    if problems:
        print("\n".join(problems))
        raise UserError(f"{path} is not a label tree: {len(problems)} problem(s) listed above")
    print("\n".join(report(Hierarchy.read(path))))
    print(f"{path}: a tree, nothing to mend")
    return 0


if __name__ == "__main__":
    command(main)
