"""The label tree of a data set (hierarchy.tsv, as data_prep writes it); graphs between labels."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from python_layers.parameters import Parameter

LARGEST_FILE = 1 << 26  # bytes


def path_parameter():
    """A required path of a file in param_str, relative to the current folder as all of Caffe's."""
    return Parameter(
        None,
        "the path of a file, a string",
        lambda v: isinstance(v, str) and 0 < len(v) < 4096 and v.isprintable(),
    )


def levels_parameter():
    """Names of the levels in param_str that the score bottoms are of, from the fine level up."""
    return Parameter(
        None,
        "a list of names of levels",
        lambda v: isinstance(v, list) and v and all(isinstance(name, str) for name in v),
    )


@dataclass(frozen=True)
class LabelTree:
    """A tree of h levels over C fine classes.

    path:      the file it was read from.
    levels:    h names, from the fine level up.
    ancestors: C x h int64, the class of each fine class at each level; column 0 is 0..C-1.
    """

    path: str
    levels: tuple
    ancestors: np.ndarray

    @property
    def sizes(self):
        """h numbers of classes, from the fine level up."""
        return tuple(int(column.max()) + 1 for column in self.ancestors.T)

    def only(self, levels):
        """The tree with these levels, given by their names, only. Raises ValueError unless they are
        levels of this tree in its order, and the first is the finest."""
        places = [self.levels.index(name) for name in levels if name in self.levels]
        if len(places) < len(levels) or places[:1] != [0] or places != sorted(set(places)):
            raise ValueError(
                f"{', '.join(levels)} are not levels of {self.path} from the finest up: it has "
                f"{', '.join(self.levels)}"
            )
        return LabelTree(self.path, tuple(levels), self.ancestors[:, places])

    def check_sizes(self, sizes):
        """Raises ValueError unless the first levels have these numbers of classes."""
        for level, size, given in zip(self.levels, self.sizes, sizes):
            if size != given:
                raise ValueError(
                    f"the net has {given} scores for the level {level}, and {self.path} has {size} "
                    "classes: name the hierarchy.tsv of the data set that the net was made for"
                )

    def graph(self, level):
        """C x C_level booleans: True where the fine class belongs to the class of the level."""
        return self.ancestors[:, level][:, None] == np.arange(self.sizes[level])

    def parents(self):
        """h vectors, the parent of each class of a level; 0 for all of the coarsest."""
        found = [np.zeros(size, np.int64) for size in self.sizes]
        for level in range(len(self.levels) - 1):
            found[level][self.ancestors[:, level]] = self.ancestors[:, level + 1]
        return found

    def children(self):
        """h arrays, P x K: the classes of a level by their parents, in order, padded with -1."""
        found = []
        for parents in self.parents():
            sizes = np.bincount(parents)
            table = np.full((len(sizes), sizes.max()), -1)
            order = np.argsort(parents, kind="stable")
            place = np.arange(len(order)) - (np.cumsum(sizes) - sizes)[parents[order]]
            table[parents[order], place] = order
            found.append(table)
        return found

    def distances(self):
        """C x C float64 in [0, 1]: height of the lowest common ancestor, by that of the root, h."""
        shared = self.ancestors[:, None] == self.ancestors  # C x C x h
        heights = np.where(shared.any(axis=2), shared.argmax(axis=2), len(self.levels))
        return heights / len(self.levels)


@functools.lru_cache(maxsize=8)
def _parsed(path, _changed):
    text = Path(path).read_bytes().decode("utf-8-sig")
    lines = [
        (number, line.split("\t"))
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.startswith("#")
    ]
    header = lines[0][1] if lines else []
    levels = tuple(header[1::2])
    if not levels or header != [part for level in levels for part in (f"{level}_id", level)]:
        raise ValueError(
            f"{path} is not a hierarchy.tsv, whose header has <level>_id and <level> per level; "
            "data_prep/build_lmdb.py writes one"
        )
    rows = {}
    for number, cells in lines[1:]:
        ids = cells[::2]
        if len(cells) != len(header) or not all(
            cell.isascii() and cell.isdigit() and len(cell) < 9 for cell in ids
        ):
            raise ValueError(f"{path}, line {number}: {len(levels)} numbers and names expected")
        if int(ids[0]) in rows:
            raise ValueError(f"{path}, line {number}: class {ids[0]} occurs twice")
        rows[int(ids[0])] = [int(cell) for cell in ids]
    ancestors = np.array([rows[key] for key in sorted(rows)], np.int64).reshape(-1, len(levels))
    for level, column in zip(levels, ancestors.T):
        if len(np.unique(column)) != column.max(initial=-1) + 1 or not len(column):
            raise ValueError(f"{path}: the ids of the level {level} are not 0, 1, 2 ...")
    for j in range(1, len(levels)):
        pairs = np.unique(ancestors[:, j - 1 : j + 1], axis=0)
        if len(pairs) > len(np.unique(pairs[:, 0])):
            raise ValueError(f"{path}: a class of the level {levels[j - 1]} has two parents")
    return LabelTree(path, levels, ancestors)


def read(path):
    """The LabelTree of a hierarchy.tsv. Raises ValueError, in one sentence, if it is not one."""
    try:
        status = Path(path).stat()
        if status.st_size > LARGEST_FILE:
            raise ValueError(f"{path} is too large for a label tree")
        return _parsed(path, (status.st_mtime_ns, status.st_size))
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(
            f"{path} can't be read ({error.strerror}; current folder: {Path.cwd()})"
        ) from None


def read_graph(path, classes):
    """C x A booleans of a class x attribute table, a graph between fine classes and attributes.

    The file is tab-separated: a header with a name for the classes and A names of attributes, and
    per fine class, in the order of their numbers, its name and A values 0 or 1. Raises ValueError,
    in one sentence, if it is not one, has another number of classes, or leaves a class without an
    attribute or an attribute without a class.
    """
    try:
        if Path(path).stat().st_size > LARGEST_FILE:
            raise ValueError(f"{path} is too large for a table of attributes")
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(
            f"{path} can't be read ({error.strerror}; current folder: {Path.cwd()})"
        ) from None
    lines = [line.split("\t") for line in text.splitlines() if line.strip()]
    width = len(lines[0]) if lines else 0
    for number, cells in enumerate(lines[1:], 2):
        if len(cells) != width or not set(cells[1:]) <= {"0", "1"} or width < 2:
            raise ValueError(
                f"{path}, line {number}: a name and {width - 1} values 0 or 1 expected"
            )
    if len(lines) - 1 != classes:
        raise ValueError(f"{path} has {max(len(lines) - 1, 0)} classes, and the tree has {classes}")
    graph = np.array([cells[1:] for cells in lines[1:]]) == "1"
    for axis, what in ((1, "class"), (0, "attribute")):
        lonely = np.flatnonzero(~graph.any(axis=axis))
        if len(lonely):
            raise ValueError(f"{path}: {what} {lonely[0]} (from 0) has no 1 in its table")
    return graph
