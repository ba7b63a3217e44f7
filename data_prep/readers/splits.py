"""Decides which folders of a user's photographs are splits and which are classes.

A folder with a word such as train, test or val in its name is a split if this is unambiguous: every
folder of its level has such a word, the names differ in that word only, and both training and test
exist. Anything else that looks like splits is refused with the options to choose from, because
official test images used for training would silently invalidate every result.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from data_prep.common.errors import UserError
from data_prep.readers.files import some
from data_prep.records import NEEDED, SPLITS

WORDS = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
TOKEN = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[^\W\d_]+|\d+")
JOINED = re.compile(rf"({'|'.join(sorted(WORDS, key=len, reverse=True))})(sets?|data|images|imgs)")


def split_of(name):
    """(split, other words) of a folder's name; None unless it has exactly one such word."""
    tokens = [token.lower() for token in TOKEN.findall(name)]
    tokens = [part for token in tokens for part in _apart(token)]
    words = [token for token in tokens if token in WORDS]
    if words == ["train", "val"]:
        words = ["trainval"]
    if len(words) != 1:
        return None
    return WORDS[words[0]], tuple(token for token in tokens if token not in WORDS)


def _apart(token):
    joined = JOINED.fullmatch(token)
    return joined.groups() if joined else (token,)


@dataclass(frozen=True)
class Found:
    """The folders that are splits; both fields are empty if none are.

    levels: indices of the folders in a path that name its split; the others are classes.
    splits: {name of a folder of the first of these levels: split}.
    """

    levels: tuple = ()
    splits: dict | None = None

    def of(self, parts):
        """(split, folders that are classes) of an image's folders, the top one first.

        The split is None if --splits does not name the folder.
        """
        if not self.levels:
            return None, parts
        first = self.levels[0]
        split = self.splits.get(parts[first]) if len(parts) > first else None
        return split, tuple(part for i, part in enumerate(parts) if i not in self.levels)


def found(root, paths):
    """Found for the folders of all images (tuples, top folder first), by their names alone.

    Raises UserError, with the options that resolve it, if the names are ambiguous.
    """
    columns = _columns(paths)
    looks = [d for d, names in enumerate(columns) if _looks_like_splits(names)]
    if not looks:
        return Found()
    certain = [d for d in looks if _certain(columns[d])]
    if not certain:
        _refuse(root, columns[looks[0]], looks[0])
    first = certain[0]
    result = Found((first,), {name: split_of(name)[0] for name in columns[first]})
    for other in looks:
        if other == first:
            continue
        if _repeats(paths, result, other):
            result = Found((*result.levels, other), result.splits)
        elif len({split_of(name)[0] for name in columns[other] if split_of(name)}) > 1:
            _refuse(root, columns[other], other)
    return _with_wrappers(paths, result)


def stated(root, paths, wanted):
    """Found for --splits FOLDER=SPLIT,... as {folder: split}."""
    columns = _columns(paths)
    levels = [d for d, names in enumerate(columns) if set(wanted) <= names]
    if not levels:
        unknown = next((name for name in wanted if not any(name in c for c in columns)), None)
        what = f"no folder {unknown}" if unknown else "these folders on different levels"
        raise UserError(f"--splits {_stated(wanted)}: {root} has {what}")
    result = Found((levels[0],), dict(wanted))
    inside = [path for path in paths if result.of(path)[0]]
    for other in levels[1:]:
        if _repeats(inside, result, other, wanted.get):
            result = Found((*result.levels, other), result.splits)
    return _with_wrappers(inside, result)


def check_stated(wanted):
    """Raises UserError unless --splits names valid splits, including all required ones."""
    for name, split in wanted.items():
        if split not in SPLITS:
            raise UserError(f"--splits {name}={split}: the split must be {', '.join(SPLITS)}")
    lacking = [split for split in NEEDED if split not in wanted.values()]
    if lacking:
        raise UserError(f"--splits {_stated(wanted)} names no folder for {lacking[0]}")


def _columns(paths):
    """The set of folder names of each level."""
    depth = max(map(len, paths))
    return [{path[d] for path in paths if len(path) > d} for d in range(depth)]


def _looks_like_splits(names):
    marks = {name: split_of(name) for name in names}
    marked = [mark for mark in marks.values() if mark]
    return bool(marked) and (
        any(not rest for _, rest in marked)
        or len({split for split, _ in marked}) > 1
        or len(marked) == len(names)
    )


def _certain(names):
    marks = [split_of(name) for name in names]
    if not all(marks):
        return False
    splits, rests = zip(*marks)
    alike = len(set(rests)) == 1 and len(set(splits)) == len(splits)
    return alike and set(NEEDED) <= set(splits)


def _repeats(paths, result, level, split=lambda name: (split_of(name) or (None,))[0]):
    """Whether the folders of a level give every image the same split as result.levels."""
    return all(len(path) > level and split(path[level]) == result.of(path)[0] for path in paths)


def _with_wrappers(paths, result):
    """The result, extended by the folders above the splits that all images share."""
    first = result.levels[0]
    above = {path[:first] for path in paths if len(path) > first}
    return Found((*result.levels, *range(first)), result.splits) if len(above) == 1 else result


def _stated(wanted):
    return ",".join(f"{name}={split}" for name, split in wanted.items())


def _refuse(root, names, level):
    marks = {name: split_of(name)[0] for name in sorted(names) if split_of(name)}
    splits = set(marks.values())
    others = sorted(names - set(marks))
    where = f"{root}/{'*/' * level}"
    one = len(marks) == 1
    what = f"{some(sorted(marks))} in {where} look{'s like a split' if one else ' like splits'}"
    beside = f", beside {some(others)}" if others else ""
    options = []
    if "train" in splits and len(splits) > 1:
        wanted = (
            marks if "test" in splits else {n: s.replace("val", "test") for n, s in marks.items()}
        )
        left = ", which leaves the others out" if others else ""
        options.append(f"--splits {_stated(wanted)} if they are splits{left}")
    elif one and level == 0:
        name, split = next(iter(marks.items()))
        options.append(f"--root {Path(root) / name} if it is one ({split}), to draw others from it")
    else:
        options.append("--splits FOLDER=train,FOLDER=test if they are splits")
    options.append(f"--splits none if {'it is a class' if one else 'they are classes'}")
    raise UserError(f"{what}{beside}: add {', or '.join(options)}")
