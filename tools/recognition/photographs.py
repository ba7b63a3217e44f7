"""Photographs on disk: which there are, and their pixels, decoded in threads ahead of the net."""

import os
import re
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep import pipeline
from data_prep.common.errors import UserError
from data_prep.common.text import read_text
from data_prep.image_files import FORMATS, looks_like_image

BOX = "x,y,width,height in pixels of the upright photograph"
SHOWN = 5  # names in a sentence


@dataclass(frozen=True)
class Photograph:
    """One file to look at.

    name      as the user gave it, or found below a folder that the user gave
    path      Path of the file, or its bytes
    box       (x, y, width, height) to cut to, pixels of the upright image; None: all of it
    footer    rows at the bottom that are no part of the photograph
    relative  False; data_prep.pipeline reads it of records
    """

    name: str
    path: Path | bytes
    box: tuple | None = None
    footer: int = 0
    relative: bool = False


@dataclass(frozen=True)
class Batch:
    """Photographs and their input: float32, (N * crops) x 3 x height x width."""

    photographs: list
    blob: np.ndarray


def parse_box(text):
    """(x, y, width, height), floats, of a text such as 10,20,300,200; raises ValueError."""
    numbers = [float(part) for part in text.split(",")]
    if len(numbers) != 4 or not all(abs(number) < 1e9 for number in numbers):
        raise ValueError(f"{text!r} is not {BOX}")
    if min(numbers[2:]) <= 0:
        raise ValueError(f"{text!r} has a side that is not above 0")
    return tuple(numbers)


def find(paths, listing=None, box=None, footer=0):
    """[Photograph] of files and folders, and of the lines of a list file, in that order.

    paths     files, in any format, and folders, of which every image at any depth counts, in
              natural order (2.jpg before 10.jpg); hidden files and folders, and links to folders,
              are left out
    listing   text file with a path per line, relative to the current folder, and, after a tab, an
              optional box; - reads the list from standard input
    box       for photographs whose line has none

    Prints to stderr how many files of the folders are not images. Raises UserError for a path that
    does not exist, a folder without images and an invalid line.
    """
    found, others = [], []
    for path in map(Path, paths):
        if not os.path.lexists(path):
            raise UserError(f"{path} not found (current folder: {Path.cwd()})")
        if not path.is_dir():
            found.append(Photograph(str(path), path, box, footer))
            continue
        inside = list(_images(path, others))
        if not inside:
            raise UserError(f"{path} has no images ({', '.join(FORMATS)})")
        found += [Photograph(str(each), each, box, footer) for each in inside]
    if listing is not None:
        found += _listed(listing, box, footer)
    if others:
        some = ", ".join(map(str, others[:SHOWN])) + (", ..." if others[SHOWN:] else "")
        what = "file that is not an image" if len(others) == 1 else "files that are not images"
        print(f"left out {len(others)} {what}: {some}", file=sys.stderr)
    return found


def natural(name):
    """Sorting key in which numbers count by their value: photo 2 is before photo 10."""
    parts = re.split(r"([0-9]+)", name)  # every second one is a number, of any length
    numbers = [part.lstrip("0") for part in parts[1::2]]
    parts[1::2] = [(len(number), number) for number in numbers]
    return parts, name


def _images(folder, others):
    """Yield the paths of the images below a folder; adds other files to `others`."""

    def stop(error):
        raise UserError(f"{error.filename} can't be read: {error.strerror}")

    for place, folders, names in os.walk(folder, onerror=stop):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural)
        for name in sorted(names, key=natural):
            path = Path(place, name)
            if name.startswith("."):
                continue
            if looks_like_image(path):
                yield path
            else:
                others.append(path)


def _listed(listing, box, footer):
    what = "the list of photographs"
    text = sys.stdin.read() if str(listing) == "-" else read_text(listing, what)
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        name, tab, rest = line.partition("\t")
        try:
            own = parse_box(rest) if tab else box
        except ValueError as error:
            raise UserError(f"{what} {listing}, line {number}: {error}") from None
        yield Photograph(name, Path(name), own, footer)


def decoded(photographs, preprocessing, crops, jobs):
    """Yield (Photograph, float32 crops x 3 x h x w, None) or (Photograph, None, reason), in order.

    preprocessing: Preprocessing. jobs: threads that decode in advance, in bounded memory. reason:
    why the file can't be used.
    """
    return pipeline.each(
        photographs,
        preprocessing.options,
        jobs,
        lambda image: preprocessing.blob(image, crops),
    )


def blob_of(data, preprocessing, box=None, crops=1):
    """float32 crops x 3 x h x w of the bytes of an image file; raises images.ImageError."""
    photograph = Photograph("", data, box)
    return preprocessing.blob(pipeline.image(photograph, preprocessing.options), crops)


def batches(photographs, preprocessing, crops, jobs, size):
    """Yield (Batch or None, [(Photograph, reason)]): at most `size` photographs, in order.

    The second part lists the unusable files that came before the end of the batch.
    """
    waiting, blobs, bad = [], [], []
    with closing(decoded(photographs, preprocessing, crops, jobs)) as all_of_them:
        for photograph, blob, reason in all_of_them:
            if reason is not None:
                bad.append((photograph, reason))
                continue
            waiting.append(photograph)
            blobs.append(blob)
            if len(waiting) == size:
                yield Batch(waiting, np.concatenate(blobs)), bad
                waiting, blobs, bad = [], [], []
    if waiting or bad:
        yield Batch(waiting, np.concatenate(blobs)) if waiting else None, bad
