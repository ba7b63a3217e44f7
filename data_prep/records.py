"""The output of a reader: images with their labels, before anything is decoded."""

import errno
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.common.errors import UserError
from data_prep.common.text import number_of, read_numbered
from data_prep.label_tree import Hierarchy
from data_prep.names import ID

SPLITS = ("train", "val", "test")
NEEDED = ("train", "test")  # val may be absent


@dataclass(frozen=True)
class Record:
    """One image. Its labels on all levels are row `label` of the data set's Hierarchy.labels."""

    name: str  # unique in the data set, e.g. the path inside the archive
    path: Path  # the file to decode
    label: int  # fine class, 0-based
    split: str  # one of SPLITS
    box: tuple | None = None  # (x, y, width, height) in the upright image, to crop to
    footer: int = 0  # rows at the bottom that are not part of the photograph; always removed
    relative: bool = False  # the box is in fractions of the image's width and height, not pixels
    size: int | None = None  # side of the stored image, pixels; None: the build's
    row: str = ""  # where a user's table lists it, e.g. "birds.csv, line 7"


@dataclass(frozen=True)
class Source:
    """A data set as found by its reader.

    prepare(folder, jobs) creates the files that the records need in an empty folder and returns the
    list of Records; it is called only if a build is needed.
    """

    hierarchy: Hierarchy
    fingerprint: str  # changes with anything that the records are made from
    prepare: Callable
    options: dict = field(default_factory=dict)  # the reader's options, for the manifest
    versions: dict = field(default_factory=dict)  # of programs that affect the images


def inside(folder, name):
    """folder/name; raises UserError if it leads out of the folder, by `..` or by a link."""
    path = folder / name
    place, last = os.path.split(name)
    try:
        if last in ("", ".", "..") or os.path.islink(path):
            within = path.name != ".." and _real(path).is_relative_to(_real(folder))
        else:
            within = _leads_inside(folder, place)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(f"{name} in {folder} is a link that leads to itself: remove it") from None
    if os.path.isabs(name) or not within:
        raise UserError(f"{name} leads out of {folder}: such a path is not followed")
    return path


@functools.lru_cache(maxsize=1 << 14)
def _leads_inside(folder, place):
    """Whether folder/place is inside the folder.

    Cached for all images in a place, because the check makes a system call per path component.
    """
    return _real(folder / place).is_relative_to(_real(folder))


def _real(path):
    """The path with links resolved; components after a missing one stay as they are.

    Raises OSError (ELOOP) if a link leads to itself, which pathlib's resolve() ignores since Python
    3.13.
    """
    try:
        return Path(os.path.realpath(path, strict=True))
    except OSError as error:  # a part is missing, not a folder, or can't be looked into
        if error.errno == errno.ELOOP:
            raise
        return Path(os.path.realpath(path))


def by_split(records):
    """{split: its records}, in the order of SPLITS; an empty val split is left out."""
    parts = {split: [record for record in records if record.split == split] for split in SPLITS}
    return {split: part for split, part in parts.items() if part or split in NEEDED}


def read_listing(path, hierarchy):
    """[(image's name, fine label)] of a split's table in a built data set, for each record.

    Raises UserError, with the line number, if the table is damaged or does not match the hierarchy.
    """
    columns = ["key", "image", *(f"{level}{ID}" for level in hierarchy.levels)]
    try:
        header, rows = read_numbered(path, "the list of records")
    except UserError as error:
        raise UserError(f"{error}: build the data set again") from None
    if header != columns:
        raise UserError(
            f"{path} is damaged: its columns are not {', '.join(columns)}: build the data set again"
        )
    tree, found = hierarchy.labels.tolist(), []
    for number, (_, image, *labels) in rows:
        try:
            ids = [number_of(label, size - 1) for label, size in zip(labels, hierarchy.sizes)]
            if ids != tree[ids[0]]:
                raise ValueError(f"the labels {ids} are not a row of hierarchy.tsv")
        except ValueError as error:
            raise UserError(
                f"{path}, line {number} is damaged: {error}: build the data set again"
            ) from None
        found.append((image, ids[0]))
    return found


def check_records(records, hierarchy):
    """Raises UserError for duplicate or unusable names, unknown labels, or an empty split."""
    names = set()
    for record in records:
        if record.name in names:
            raise UserError(f"the image {record.name} is listed twice")
        if not record.name.isprintable():
            raise UserError(f"the image name {record.name!r} has invisible characters: rename it")
        if not 0 <= record.label < hierarchy.sizes[0] or record.split not in SPLITS:
            raise UserError(f"the image {record.name} has no valid label or split")
        names.add(record.name)
    for split in NEEDED:
        if not any(record.split == split for record in records):
            raise UserError(f"there are no {split} images")
