"""labels.json of an exported model: classes of every level, their parents, the net's outputs."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.common import files, typed
from data_prep.common.errors import UserError
from data_prep.common.text import read_json
from data_prep.label_tree import Hierarchy

FILE = "labels.json"
VERSION = 1


@dataclass(frozen=True)
class Level:
    """A level of the label tree.

    classes  names; class i of the level is classes[i]
    output   name of the net's output with the level's probabilities, N x classes; None: the level
             has no classifier
    parents  per class, the number of its parent in the next level; None on the last level
    """

    name: str
    classes: tuple[str, ...]
    output: str | None = None
    parents: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Labels:
    """The content of labels.json. levels: fine to coarse. feature: blob of the net's feature."""

    levels: tuple[Level, ...]
    feature: str | None = None
    version: int = VERSION

    def __post_init__(self):
        if self.version != VERSION:
            raise ValueError(f"version is {self.version}, and this program reads {VERSION}")
        if not self.levels or not self.levels[0].classes:
            raise ValueError("it has no classes")
        if self.levels[0].output is None:
            raise ValueError("levels[0] has no output")
        for number, (level, above) in enumerate(zip(self.levels, [*self.levels[1:], None])):
            if (above is None) != (level.parents is None):
                raise ValueError(f"levels[{number}]: every level but the last needs parents")
            if above is not None and (
                len(level.parents) != len(level.classes)
                or not all(0 <= parent < len(above.classes) for parent in level.parents)
            ):
                raise ValueError(
                    f"levels[{number}].parents is not a number from 0 to {len(above.classes) - 1} "
                    "per class"
                )

    @classmethod
    def of(cls, hierarchy, outputs, feature=None):
        """Labels of a data_prep.label_tree.Hierarchy. outputs: {level, 0 = fine: name}."""
        levels = []
        for j, (name, classes) in enumerate(zip(hierarchy.levels, hierarchy.names)):
            parents = None
            if j + 1 < len(hierarchy.levels):
                above = np.zeros(len(classes), np.int64)
                above[hierarchy.labels[:, j]] = hierarchy.labels[:, j + 1]
                parents = tuple(above.tolist())
            levels.append(Level(name, tuple(classes), outputs.get(j), parents))
        return cls(tuple(levels), feature)

    @property
    def outputs(self):
        """{level, 0 = fine: name of the net's output}."""
        return {j: level.output for j, level in enumerate(self.levels) if level.output is not None}

    @property
    def hierarchy(self):
        """The Hierarchy; raises UserError if the levels are not a tree."""
        rows = [np.arange(len(self.levels[0].classes))]
        for level in self.levels[:-1]:
            rows.append(np.array(level.parents)[rows[-1]])
        tree = Hierarchy(
            [level.name for level in self.levels],
            np.stack(rows, axis=1),  # classes x h
            [level.classes for level in self.levels],
        )
        tree.check()
        return tree


def write(folder, labels):
    """Write labels.json."""
    content = typed.to_json(labels)
    content = {"version": content.pop("version")} | content
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    files.write_whole(Path(folder) / FILE, text)


def read(folder):
    """The Labels in a folder, whose levels form a tree; raises UserError."""
    path = Path(folder) / FILE
    found = typed.from_json(Labels, read_json(path, "the labels"), f"{path} is not of a model")
    try:
        found.hierarchy  # noqa: B018 (it checks the tree)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return found
