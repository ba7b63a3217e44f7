#!/usr/bin/env python3
"""Draw a sample of an evaluation's images with the net's answers: right in green, wrong in red.

Reads what tools/evaluate.py wrote, and the image LMDB that it names; nothing is computed again. A
level's answer is its own classifier's, with its probability, or where there is none the ancestor of
the predicted fine class. Under a wrong answer is the true name. The sample is random, the same for
the same --seed.

Example:
    tools/draw_predictions.py results/cards_squeezenet_ours.json --out results/predictions.png
"""

import argparse
import io
from pathlib import Path

import numpy as np

from data_prep import lmdb_io
from data_prep.common import files
from data_prep.common.command import command
from data_prep.common.errors import UserError
from data_prep.hierarchy import Hierarchy
from data_prep.images import ImageError
from tools import results

COLUMNS = 6  # images side by side, at most
TILE = 1.9  # inches, the side of an image
LINE = 0.155  # inches, the height of a line of text
HEAD = 0.4  # inches above the images, for the title
RIGHT, WRONG, GREY = "#1a7a2e", "#c0201c", "#555555"
LETTERS = 30  # of a class name under an image


def read_images(path, keys):
    """Images of an LMDB, uint8 height x width x 3, BGR, by their keys."""
    if not (path / "data.mdb").is_file():
        raise UserError(
            f"{path} is not there: run this where the data set is, in the repository root"
        )
    wanted = {key.encode() for key in keys}
    found = {key.decode(): value for key, value in lmdb_io.items(path) if key in wanted}
    return [_decode(path, key, found.get(key)) for key in keys]


def _decode(path, key, value):
    if value is None:
        raise UserError(f"{path} has no record {key}: it was built again since, so evaluate again")
    try:
        return lmdb_io.datum_image(lmdb_io.parse_datum(value))
    except ImageError as error:
        raise UserError(f"record {key} of {path}: {error}: build the data set again") from None


def _short(text):
    return text if len(text) <= LETTERS else text[: LETTERS - 3] + "..."


def _check_ids(hierarchy, result, predictions):
    """UserError unless the predictions are of the hierarchy's levels and classes."""
    fits = [level["level"] for level in result["levels"]] == list(hierarchy.levels)
    for name, size in zip(hierarchy.levels, hierarchy.sizes):
        ids = [
            predictions[column]
            for column in (name, f"{name}_predicted", f"{name}_from_fine")
            if column in predictions
        ]
        fits = fits and all(column.min() >= 0 and column.max() < size for column in ids)
    if not fits:
        raise UserError(f"the predictions are not of {result['data']} as it is now: evaluate again")


def captions(hierarchy, predictions, row):
    """Lines [(text, color)] under an image: per level the answer and, if wrong, the truth."""
    lines = []
    for level, name in enumerate(hierarchy.levels):
        own = f"{name}_predicted" in predictions
        answer = predictions[f"{name}_predicted" if own else f"{name}_from_fine"][row]
        true, names = predictions[name][row], hierarchy.names[level]
        sure = f"  {predictions[f'{name}_probability'][row]:.0%}" if own else ""
        lines.append((_short(names[answer]) + sure, RIGHT if answer == true else WRONG))
        if answer != true:
            lines.append((f"  true: {_short(names[true])}", GREY))
    return lines


def figure(title, images, texts):
    """Matplotlib figure of images with lines of text, framed in the color of the first line."""
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    below = LINE * max(map(len, texts)) + 0.2
    width, height = columns * (TILE + 0.25), rows * (TILE + below) + HEAD
    picture = Figure(figsize=(width, height))
    picture.text(
        0.01, 1 - 0.2 / height, title, fontsize=9, va="center", parse_math=False, wrap=True
    )
    for n, (image, lines) in enumerate(zip(images, texts)):
        left = (n % columns + 0.06) / columns
        bottom = height - HEAD - (n // columns) * (TILE + below) - TILE  # inches
        axis = picture.add_axes([left, bottom / height, 0.88 / columns, (TILE - 0.06) / height])
        axis.imshow(np.ascontiguousarray(image[..., ::-1]))
        axis.set(anchor="S", xticks=[], yticks=[])
        for side in axis.spines.values():
            side.set(color=lines[0][1], linewidth=2)
        for i, (text, color) in enumerate(lines, 1):
            picture.text(
                left,
                (bottom - LINE * i) / height,
                text,
                color=color,
                fontsize=7.5,
                parse_math=False,
            )
    return picture


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", type=Path, help="what tools/evaluate.py wrote, .json")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG")
    parser.add_argument("--images", type=int, default=18, help="how many (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the random sample (default: %(default)s)"
    )
    args = parser.parse_args()
    if args.out.suffix != ".png":
        parser.error(f"--out {args.out}: the name must end in .png")
    if not 1 <= args.images <= 200:
        parser.error("--images: 1 to 200")
    result = results.read(args.result)
    predictions = results.read_predictions(args.result)
    if predictions is None:
        raise UserError(
            f"{results.table_of(args.result)} is not there: keep it beside {args.result}"
        )
    hierarchy = Hierarchy.read(Path(result["data"]) / "hierarchy.tsv")
    _check_ids(hierarchy, result, predictions)
    rows = np.random.default_rng(args.seed).permutation(len(predictions["key"]))[: args.images]
    images = read_images(
        Path(result["data"]) / f"{result['split']}_images", predictions["key"][rows].tolist()
    )
    title = (
        f"{result['experiment']}: {len(images)} of {result['images']} {result['split']} "
        f"images; {', '.join(hierarchy.levels)} as predicted, green if right, red if wrong"
    )
    picture = io.BytesIO()
    figure(title, images, [captions(hierarchy, predictions, row) for row in rows]).savefig(
        picture, format="png", dpi=120
    )
    files.write_whole(args.out, picture.getvalue())
    print(
        f"wrote {args.out}: {len(images)} of {result['images']} {result['split']} images of "
        f"{result['data']}"
    )


if __name__ == "__main__":
    command(main)
