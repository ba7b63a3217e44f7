"""What a reader hands over: images with their labels, before anything is decoded."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.common.errors import UserError
from data_prep.hierarchy import Hierarchy

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Record:
    """One image. Its labels on all levels are row `label` of the data set's Hierarchy.labels."""

    name: str  # unique in the data set, e.g. the path inside the archive
    path: Path  # the file to decode
    label: int  # fine class, 0-based
    split: str  # one of SPLITS
    box: tuple | None = None  # (x, y, width, height) in pixels of the upright image, to crop to
    footer: int = 0  # rows at the bottom that are no part of the photograph: cut off, box or not


@dataclass(frozen=True)
class Source:
    """A data set as its reader found it.

    prepare(folder, jobs) makes whatever files the records need in an empty folder and returns the
    list of Records; it is called only if a build is needed.
    """

    hierarchy: Hierarchy
    fingerprint: str  # changes when anything changes that the records are made from
    prepare: Callable
    options: dict = field(default_factory=dict)  # the reader's own, for the manifest
    versions: dict = field(default_factory=dict)  # of programs the images depend on


def inside(folder, name):
    """folder/name, refused (UserError) where it leads out of the folder, by `..` or by a link."""
    path = folder / name
    place, last = os.path.split(name)
    try:
        if last in ("", ".", "..") or os.path.islink(path):
            within = path.name != ".." and path.resolve().is_relative_to(folder.resolve())
        else:
            within = _leads_inside(folder, place)
    except RuntimeError:  # pathlib's word for it
        raise UserError(
            f"{name} in {folder} is a link that leads to itself: take it away"
        ) from None
    if os.path.isabs(name) or not within:
        raise UserError(f"{name} leads out of {folder}: such a path is not followed")
    return path


@functools.lru_cache(maxsize=1 << 14)
def _leads_inside(folder, place):
    """Whether folder/place is in the folder: found once for all images in it, because it asks the
    system about every part.
    """
    return (folder / place).resolve().is_relative_to(folder.resolve())


def read_listing(path):
    """[(image's name, fine label)] of a built data set's train.tsv or test.tsv, each record's."""
    try:
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
        return [(row[1], int(row[2])) for row in rows]
    except (OSError, ValueError, IndexError):
        raise UserError(f"{path} is missing or damaged: build the data set again") from None


def check_records(records, hierarchy):
    """UserError unless names are unique and plain, labels known, and no split empty."""
    names = set()
    for record in records:
        if record.name in names:
            raise UserError(f"the image {record.name} is listed twice")
        if not record.name.isprintable():
            raise UserError(f"the image name {record.name!r} has control characters: rename it")
        if not 0 <= record.label < hierarchy.sizes[0] or record.split not in SPLITS:
            raise UserError(f"the image {record.name} has no valid label or split")
        names.add(record.name)
    for split in SPLITS:
        if not any(record.split == split for record in records):
            raise UserError(f"there are no {split} images")
