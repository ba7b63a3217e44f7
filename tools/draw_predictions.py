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

from data_prep.common import files
from data_prep.common.arguments import within
from data_prep.common.command import command
from data_prep.pictures import Tile, grid, shortened
from tools import evaluated

COLUMNS = 6  # images side by side, at most
TILE = 228  # pixels, the side of an image
RIGHT, WRONG, GRAY = "#1a7a2e", "#c0201c", "#555555"


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
    found = evaluated.read(args.result)
    result, predictions, hierarchy = found.result, found.predictions, found.hierarchy
    rows = np.random.default_rng(args.seed).permutation(len(predictions.keys))[: args.images]
    images = list(evaluated.read_images(found.images, predictions.keys[rows].tolist()))
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
