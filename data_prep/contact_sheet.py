"""Draws random records with their labels, to make wrong labels or colors easy to spot."""

import random

from data_prep import lmdb_io, pictures
from data_prep.records import SPLITS

COLUMNS, ROWS = 8, 3  # ROWS per split
TILE = 160  # pixels: the longer side of an image


def write(folder, hierarchy, seed):
    """Write folder/contact_sheet.png from the folder's LMDBs, split by split."""
    tiles = []
    for split in SPLITS:
        if not (folder / f"{split}.tsv").exists():
            continue
        tiles += [_tile(datum, hierarchy, split) for datum in _sample(folder, split, seed)]
        tiles += [None] * (-len(tiles) % COLUMNS)
    (folder / "contact_sheet.png").write_bytes(pictures.grid(tiles, COLUMNS, TILE))


def _sample(folder, split, seed):
    """Datums of random distinct images, in order of their keys."""
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
    names = [hierarchy.names[j][i] for j, i in enumerate(hierarchy.labels[datum.label])]
    colors = [pictures.BLACK] + [pictures.GRAY] * len(names)
    lines = list(zip([*names, split], colors))
    # Scaled here, because 48 images of any --size take much more memory than their tiles.
    return pictures.Tile(pictures.fitted(lmdb_io.datum_image(datum), TILE), lines)
