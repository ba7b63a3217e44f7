"""The tree of class labels: reading, checking and printing it.

A hierarchy is a table with one row per fine class and one column per level, fine to coarse. In a
built data set (`hierarchy.tsv`) every level has two columns, `<level>_id` and `<level>`; in the
tables of `data_prep/hierarchies/` the ids are left out and given by order of appearance. Lines
that start with `#` are remarks.
"""

import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np

from data_prep import names
from data_prep.common.errors import UserError
from data_prep.common.text import number_of, read_numbered

TABLES = Path(__file__).resolve().parent / "hierarchies"
MOST_ID = 10**9 - 1
EXPECTED = (
    "expected are a header with the names of the levels, fine to coarse, and a line per fine "
    "class, with tabs between the columns and no quotation marks"
)
PAIRS = "for a file of child and parent: data_prep/hierarchy.py convert"


class Hierarchy:
    """The label tree of a data set.

    levels  tuple of h level names, fine to coarse, e.g. ("species", "family", "order")
    labels  int64 array, classes x h: row c has the 0-based ids of fine class c and its ancestors
    names   per level a tuple of class names: names[j][i] is class i of level j
    sizes   tuple, the number of classes per level
    """

    def __init__(self, levels, labels, class_names):
        self.levels = tuple(levels)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.names = tuple(tuple(level) for level in class_names)
        self.sizes = tuple(len(level) for level in self.names)

    @classmethod
    def read(cls, path):
        """Read and check a table (UTF-8, tab-separated); raises UserError for an invalid tree."""
        levels, rows = read_rows(path)
        problems = find_problems(levels, rows)
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise UserError(f"{path} is not a label tree: {problems[0]}{more}")
        labels = sorted(tuple(number for number, _ in row) for row in rows)
        found = [dict(row[j] for row in rows) for j in range(len(levels))]
        return cls(levels, labels, [[level[i] for i in range(len(level))] for level in found])

    def check(self):
        """Raise UserError unless labels and names form a tree with ids 0, 1, 2 ... per level."""
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
    """Levels and rows of a table, each row a list of (id, name) per level.

    Only the format is checked. A table without ids gets them by order of appearance. Names are
    normalized by names.class_name. Raises UserError if the file is missing or not such a table.
    """
    header, lines = read_numbered(path, "the label tree", remarks=True)
    numbered = header[0].endswith(names.ID)
    levels = header[1::2] if numbered else header
    if numbered and header != [part for level in levels for part in (level + names.ID, level)]:
        raise UserError(
            f"{path}: the header must be <level>_id, <level> per level, not {' '.join(header)}"
        )
    if not lines:
        raise UserError(f"{path} has no classes: a line per fine class was expected")
    _check_format(path, levels, numbered, [cells for _, cells in lines])
    rows, seen = [], [{} for _ in levels]
    for number, cells in lines:
        found = [names.class_name(cell) for cell in (cells[1::2] if numbered else cells)]
        if not all(name and name.isprintable() for name in found):
            raise UserError(f"{path}, line {number}: a name is empty or has invisible characters")
        try:
            ids = [
                number_of(cells[2 * j], MOST_ID) if numbered else ids.setdefault(name, len(ids))
                for j, (ids, name) in enumerate(zip(seen, found))
            ]
        except ValueError as error:
            raise UserError(f"{path}, line {number}: an id: {error}") from None
        rows.append([*zip(ids, found)])
    return tuple(levels), rows


def _check_format(path, levels, numbered, rows):
    """Raises UserError if the file has another format, naming that and the expected format."""
    columns = [*zip(*rows)][1::2] if numbered else [*zip(*rows)]
    if len(levels) == 1 and not numbered:
        cells = [levels[0], *columns[0]]
        wrong = "it has one column only"
        if all("," in cell or ";" in cell for cell in cells):
            wrong = "it has commas or semicolons between its values"
        elif all(re.fullmatch(r"\S+ +\S+", cell) for cell in cells):
            wrong = f"it has two words per line ({PAIRS})"
    elif any(_quoted(cell) for cell in levels) or any(all(map(_quoted, c)) for c in columns):
        wrong = "its values are in quotation marks"
    elif all(cell.isdecimal() for cell in levels):
        wrong = f"its first line is not a header but {' '.join(levels)}"
        wrong += f" ({PAIRS})" if len(levels) == 2 else ""
    elif not numbered and any(level in cells for level, cells in zip(levels, columns)):
        wrong = f"its first line, {' '.join(levels)}, is a row, not a header"
    else:
        wrong = names.level_problem(levels)
    if wrong:
        raise UserError(f"{path} is not a table of a label tree: {wrong}; {EXPECTED}")


def _quoted(cell):
    return len(cell) > 1 and cell[0] == cell[-1] and cell[0] in "\"'"


def find_problems(levels, rows):
    """The reasons why rows of (id, name) per level are not a tree, one sentence each."""
    wrong = names.level_problem(levels)
    problems = [wrong] if wrong else []
    for j, level in enumerate(levels):
        names_of, ids_of, parents_of = {}, {}, {}
        for row in rows:
            number, name = row[j]
            names_of.setdefault(number, {})[name] = True
            ids_of.setdefault(name, {})[number] = True
            if j + 1 < len(levels):
                parents_of.setdefault(name, {}).setdefault(row[j + 1][1], row[0][1])
        for number, found in names_of.items():
            if len(found) > 1:
                problems.append(f"{level} {number} has the names {' and '.join(found)}")
        for name, numbers in ids_of.items():
            if len(numbers) > 1:
                problems.append(
                    f"the {level} name {name} has the ids {' and '.join(map(str, numbers))}"
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


def shuffled(hierarchy, seed, classes=None):
    """The Hierarchy in which some fine classes trade their places in the tree, by a seed.

    classes: ids of those fine classes, such as the ones that have images; default: all. Every
    parent keeps its number of children, of those classes and of the others, on every level. The
    names of the coarse classes get the seed: their members are random. The draw is a hash of the
    seed and the names of the fine classes, the same on every machine and version. Raises UserError
    for a tree of one level, and for one in which no trade changes which classes have a common
    ancestor.
    """
    if len(hierarchy.levels) == 1:
        raise UserError(f"a tree of one level, {hierarchy.levels[0]}, has no parents to shuffle")
    chosen = range(hierarchy.sizes[0]) if classes is None else sorted(set(classes))
    groups = [len(np.unique(ids)) for ids in hierarchy.labels[list(chosen), 1:].T]
    if not any(1 < count < len(chosen) for count in groups):
        raise UserError(
            f"shuffling parents would change nothing: on each level above {hierarchy.levels[0]}, "
            "the classes with images either are all in one class or have one each"
        )

    def drawn(i):
        return hashlib.sha256(f"{seed} {hierarchy.names[0][i]}".encode()).digest()

    labels = hierarchy.labels.copy()
    labels[list(chosen), 1:] = hierarchy.labels[sorted(chosen, key=drawn), 1:]
    coarse = [[shuffled_name(name, seed) for name in level] for level in hierarchy.names[1:]]
    found = Hierarchy(hierarchy.levels, labels, [hierarchy.names[0], *coarse])
    found.check()
    return found


def shuffled_name(name, seed):
    """The name of something whose members are random, by a seed."""
    return f"{name} (shuffled, seed {seed})"


def report(hierarchy):
    """Lines on the shape of the tree: groups per level, and classes with empty sets in the loss.

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


def look_alikes(hierarchy):
    """Sentences on classes whose names differ only in case or in look-alike characters."""
    return [
        f"{level}: {' and '.join(map(repr, group))} are different classes, though their names "
        "differ in case or in look-alike characters only"
        for level, found in zip(hierarchy.levels, hierarchy.names)
        for group in names.look_alikes(found)
    ]


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
