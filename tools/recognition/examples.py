"""examples.jpg: a small training image of every fine class, in one sheet for a page to show.

The tile of class i is in row i // COLUMNS and column i % COLUMNS of the sheet. It has the first
training image of the class, in the order of the records' keys, fitted into a square.
"""

import io
from pathlib import Path

import numpy as np

from data_prep import image_files, lmdb_io, pictures
from data_prep.common.errors import UserError
from data_prep.common.text import number_of
from data_prep.images import BACKGROUND, ImageError
from data_prep.opencv import cv2

FILE = "examples.jpg"
COLUMNS = 16
SIDES = ((1024, 128), (4096, 64))  # (most classes, side of a tile in pixels)
QUALITY = 85  # of the JPEG


def tile_side(classes):
    """Side of a tile in pixels; None: so many classes get no sheet."""
    return next((side for most, side in SIDES if classes <= most), None)


def shape(classes):
    """(width, height) of the sheet in pixels; None: so many classes get no sheet."""
    side = tile_side(classes)
    return side and (COLUMNS * side, -(-classes // COLUMNS) * side)


def place(number, side):
    """(x, y) of the tile of class `number`, in pixels of the sheet."""
    return number % COLUMNS * side, number // COLUMNS * side


def unavailable(data, classes):
    """Why no sheet can be made of a data set, in a few words; None if it can.

    data: folder of the data set. classes: number of its fine classes.
    """
    if tile_side(classes) is None:
        return f"there are more than {SIDES[-1][0]} classes"
    for path in (Path(data, "train.tsv"), Path(data, "train_images", "data.mdb")):
        if not path.is_file():
            return f"{path} is not there"
    return None


def sheet(data, classes):
    """The JPEG file of the sheet, bytes, of a data set that has one; raises UserError."""
    side = tile_side(classes)
    width, height = shape(classes)
    canvas = np.full((height, width, 3), BACKGROUND, np.uint8)
    first = _first_keys(Path(data, "train.tsv"), classes)
    path = Path(data, "train_images")
    for key, value in lmdb_io.items(path, sorted(first)):
        number, name = first[key], f"record {lmdb_io.key_text(key, path)} of {path}"
        datum = lmdb_io.parse_datum(value, name)
        if datum.label != number:
            raise UserError(
                f"{name} has the class {datum.label}, but train.tsv lists {number}: build the data "
                "set again"
            )
        try:
            tile = pictures.fitted(lmdb_io.datum_image(datum), side)
        except ImageError as error:
            raise UserError(f"{name}: {error}: build the data set again") from None
        x, y = place(number, side)
        x, y = x + (side - tile.shape[1]) // 2, y + (side - tile.shape[0]) // 2
        canvas[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def _first_keys(path, classes):
    """{key, bytes: fine class} of the first record of each class in a split's table."""
    first = {}
    with open(path, encoding="utf-8", errors="replace") as listing:
        next(listing, None)  # the header: key, image, fine class, ...
        for number, line in enumerate(listing, 2):
            cells = line.rstrip("\n").split("\t")
            try:
                label = number_of(cells[2], classes - 1)
            except (IndexError, ValueError):
                raise UserError(
                    f"{path}, line {number}: no class from 0 to {classes - 1} in its third cell: "
                    "build the data set again"
                ) from None
            if label not in first or cells[0] < first[label]:
                first[label] = cells[0]
    return {key.encode(): label for label, key in first.items()}


def read(folder, classes):
    """The bytes of the sheet in an exported folder, or None; raises UserError if it doesn't fit."""
    path = Path(folder, FILE)
    if not path.is_file():
        return None
    data = path.read_bytes()
    try:
        header = image_files.header(io.BytesIO(data))
        found = header.format, (header.width, header.height)
    except ImageError as error:
        raise UserError(f"{path}: {error}: export the model again") from None
    if found != ("JPEG", shape(classes)):
        raise UserError(
            f"{path} is not the sheet of {classes} classes: export the model again, or remove it"
        )
    return data
