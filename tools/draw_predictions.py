#!/usr/bin/env python3
"""Draw a sample of evaluated images with the net's predictions: green if right, red if wrong.

Reads the results of tools/evaluate.py and the image LMDB that they name; nothing is computed again.
The prediction on a level is that of its own classifier, with its probability, or, without one, the
ancestor of the predicted fine class. The true class is shown below a wrong prediction. The sample
is random and determined by --seed.

Example:
    tools/draw_predictions.py results/cards_squeezenet_ours.json --out results/predictions.png
"""

import argparse
from pathlib import Path

import numpy as np

from data_prep import lmdb_io
from data_prep.common import files
from data_prep.common.arguments import within
from data_prep.common.command import command
from data_prep.common.errors import UserError
from data_prep.images import ImageError
from data_prep.label_tree import Hierarchy
from data_prep.pictures import Tile, grid, shortened
from tools import results

COLUMNS = 6  # images side by side, at most
TILE = 228  # pixels, the side of an image
RIGHT, WRONG, GRAY = "#1a7a2e", "#c0201c", "#555555"


def read_images(path, keys):
    """Images of an LMDB, uint8 height x width x 3, BGR, by their keys."""
    if not (path / "data.mdb").is_file():
        raise UserError(f"{path} not found: run this in the repository root, where the data set is")
    wanted = {key.encode() for key in keys}
    found = {
        lmdb_io.key_text(key, path): value for key, value in lmdb_io.items(path) if key in wanted
    }
    return [_decode(path, key, found.get(key)) for key in keys]


def _decode(path, key, value):
    if value is None:
        raise UserError(f"{path} has no record {key}: it was rebuilt since, so evaluate again")
    try:
        return lmdb_io.datum_image(lmdb_io.parse_datum(value))
    except ImageError as error:
        raise UserError(f"record {key} of {path}: {error}: build the data set again") from None


def _check_ids(hierarchy, result, predictions):
    """Raises UserError unless the predictions match the hierarchy's levels and classes."""
    fits = [level.level for level in result.levels] == list(hierarchy.levels)
    for answers, size in zip(predictions.levels, hierarchy.sizes):
        for ids in (answers.true, answers.predicted, answers.from_fine):
            fits = fits and (ids is None or (ids.min() >= 0 and ids.max() < size))
    if not fits:
        raise UserError(
            f"the predictions do not match {result.data}, which changed: evaluate again"
        )


def _named(name, sure):
    """A line with a class and its probability, shortened to the width of a tile."""
    return shortened(name, TILE - 40) + sure if sure else name


def captions(hierarchy, predictions, row):
    """Lines [(text, color)] below an image: per level the prediction and, if wrong, the truth."""
    lines = []
    for answers, names in zip(predictions.levels, hierarchy.names):
        own = answers.predicted is not None
        answer, true = (answers.predicted if own else answers.from_fine)[row], answers.true[row]
        sure = f"  {answers.probability[row]:.0%}" if own else ""
        lines.append((_named(names[answer], sure), RIGHT if answer == true else WRONG))
        if answer != true:
            lines.append((f"  true: {names[true]}", GRAY))
    return lines


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", type=Path, help="result of tools/evaluate.py, .json")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG")
    parser.add_argument(
        "--images",
        type=within(int, 1, 200),
        default=18,
        help="number of images (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=within(int, 0, 2**63 - 1),
        default=1,
        help="seed of the random sample, from 0 (default: %(default)s)",
    )
    args = parser.parse_args()
    if args.out.suffix != ".png":
        parser.error(f"--out {args.out}: the name must end in .png")
    result = results.read(args.result)
    predictions = results.read_predictions(args.result, result)
    if predictions is None:
        raise UserError(f"{results.table_of(args.result)} not found: keep it beside {args.result}")
    hierarchy = Hierarchy.read(Path(result.data) / "hierarchy.tsv")
    _check_ids(hierarchy, result, predictions)
    rows = np.random.default_rng(args.seed).permutation(len(predictions.keys))[: args.images]
    images = read_images(
        Path(result.data) / f"{result.split}_images", predictions.keys[rows].tolist()
    )
    title = (
        f"{result.experiment}: {len(images)} of {result.images} {result.split} "
        f"images; {', '.join(hierarchy.levels)} as predicted, green if right, red if wrong"
    )
    lines = [captions(hierarchy, predictions, row) for row in rows]
    tiles = [Tile(image, text, frame=text[0][1]) for image, text in zip(images, lines)]
    files.write_whole(args.out, grid(tiles, min(COLUMNS, len(tiles)), TILE, title))
    print(
        f"wrote {args.out}: {len(images)} of {result.images} {result.split} images of {result.data}"
    )


if __name__ == "__main__":
    command(main)
