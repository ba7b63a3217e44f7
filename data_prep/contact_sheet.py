"""A picture of random records with labels: wrong labels or colours are seen at a glance."""

import random

import numpy as np

from data_prep import lmdb_io
from data_prep.opencv import cv2
from data_prep.records import SPLITS

COLUMNS, ROWS = 8, 3  # ROWS of each split
TILE, LINE = 160, 14  # pixels: width and height of an image, height of a line of text


def write(folder, hierarchy, seed):
    """Write folder/contact_sheet.png from the folder's LMDBs: train above, test below."""
    rows = []
    for split in SPLITS:
        tiles = [_tile(datum, hierarchy, split) for datum in _sample(folder, split, seed)]
        tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % COLUMNS)
        rows += [np.hstack(tiles[i : i + COLUMNS]) for i in range(0, len(tiles), COLUMNS)]
    png = cv2.imencode(".png", np.vstack(rows))[1]
    (folder / "contact_sheet.png").write_bytes(
        png.tobytes()
    )  # unlike cv2.imwrite, says why it fails


def _sample(folder, split, seed):
    """Datums of random images, in order of their keys; each image once, however many records."""
    first = {}
    with open(folder / f"{split}.tsv", encoding="utf-8") as listing:
        next(listing)  # the header
        for line in listing:
            key, name, _ = line.split("\t", 2)
            first.setdefault(name, key.encode())
    chosen = random.Random(seed).sample(list(first.values()), min(len(first), COLUMNS * ROWS))
    for _, value in lmdb_io.items(folder / f"{split}_images", sorted(chosen)):
        yield lmdb_io.parse_datum(value)


def _tile(datum, hierarchy, split):
    image = lmdb_io.datum_image(datum)
    tile = np.full((TILE + LINE * (len(hierarchy.levels) + 1) + 4, TILE, 3), 255, np.uint8)
    scale = TILE / max(image.shape[:2])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    tile[: image.shape[0], : image.shape[1]] = image
    lines = [hierarchy.names[j][i] for j, i in enumerate(hierarchy.labels[datum.label])] + [split]
    for number, text in enumerate(lines):
        # The font has ASCII only, and some 25 characters fit.
        text = text.encode("ascii", "replace").decode()[:26]
        cv2.putText(
            tile,
            text,
            (2, TILE + LINE * (number + 1)),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.36,
            (0, 0, 0) if number == 0 else (110, 110, 110),
            1,
            cv2.LINE_AA,
        )
    return tile
