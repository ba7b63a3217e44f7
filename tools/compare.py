#!/usr/bin/env python3
"""Put evaluations of one data set side by side: top-1 per level, and how it differs from the first.

Each coarse level has a column for its own classifier and one for `from fine`, the ancestor of the
predicted fine class. A classifier that the first experiment lacks is compared with the first's
`from fine`. Differences are in percentage points. Where the predictions of both lie beside the
results, p is McNemar's: the chance of a difference as large or larger between two classifiers that
err equally often, on these same images. `*` marks p < 0.05.

Example:
    tools/compare.py results/cards_squeezenet_sm.json results/cards_squeezenet_ours.json
"""

import sys
from pathlib import Path
if __package__ in (None, ""):  # run as a file: import the repository's packages, not this folder's
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from data_prep.cli import UserError, command

import argparse

import numpy as np

from tools import results, scores

HEAD, FROM_FINE = "head", "from_fine"
COLUMN_OF = {HEAD: "predicted", FROM_FINE: "from_fine"}  # of the table of predictions


def columns_of(all_results):
    """(level, answer) of every column of the table: those that some experiment has."""
    return [(i, answer) for i in range(len(all_results[0]["levels"])) for answer in COLUMN_OF
            if any(answer in result["levels"][i] for result in all_results)]


def right(predictions, level, answer):
    """bool per image: is the answer on the level the true class?"""
    return predictions[level] == predictions[f"{level}_{COLUMN_OF[answer]}"]


def cell(result, predictions, first, first_predictions, i, answer):
    """Text of one cell: top-1, and how it differs from the first experiment (None: it is first)."""
    level = result["levels"][i]
    if answer not in level:
        return "-"
    text = f"{level[answer]['top1']:.1%}"
    if first is None:
        return text
    other = answer if answer in first["levels"][i] else FROM_FINE
    if other not in first["levels"][i]:
        return text
    text += f" ({100 * (level[answer]['top1'] - first['levels'][i][other]['top1']):+.1f}"
    if predictions and first_predictions and np.array_equal(predictions["key"],
                                                            first_predictions["key"]):
        p = scores.mcnemar(right(predictions, level["level"], answer),
                           right(first_predictions, level["level"], other))
        text += f", p={p:.2g}{'*' if p < 0.05 else ''}"
    return text + ")"


def rows_of(all_results, all_predictions):
    """Header and rows of the table, as lists of strings."""
    columns = columns_of(all_results)
    names = [level["level"] for level in all_results[0]["levels"]]
    yield ["experiment"] + [names[i] if answer == HEAD else f"{names[i]} from fine"
                            for i, answer in columns]
    for n, (result, predictions) in enumerate(zip(all_results, all_predictions)):
        first = (all_results[0], all_predictions[0]) if n else (None, None)
        yield [result["experiment"]] + [cell(result, predictions, *first, *column)
                                        for column in columns]


def as_text(rows):
    """Rows as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip()
            for row in rows]


def as_markdown(rows):
    """Rows as the lines of a Markdown table."""
    lines = ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", metavar="JSON",
                        help="what tools/evaluate.py wrote; the first is the baseline")
    parser.add_argument("--markdown", action="store_true", help="a Markdown table")
    args = parser.parse_args()
    all_results = [results.read(path) for path in args.results]
    first = all_results[0]
    for path, result in zip(args.results, all_results):
        for name in ("data", "split", "images"):
            if result[name] != first[name]:
                raise UserError(f"{path} has {name} {result[name]}, {args.results[0]} has "
                                f"{first[name]}: only evaluations on the same images can be "
                                "compared")
    all_predictions = [results.read_predictions(path) for path in args.results]
    rows = list(rows_of(all_results, all_predictions))
    print(f"top-1 on {first['images']} {first['split']} images of {first['data']}")
    print("\n".join([""] * args.markdown + (as_markdown if args.markdown else as_text)(rows)))


if __name__ == "__main__":
    command(main)
