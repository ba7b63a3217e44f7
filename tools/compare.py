#!/usr/bin/env python3
"""Put evaluations of one data set side by side: top-1 per level, and how it differs from the first.

Each coarse level has a column for its own classifier and one for `from fine`, the ancestor of the
predicted fine class. A classifier that the first experiment lacks is compared with the first's
`from fine`. Where the predictions of both lie beside the results, p is McNemar's: the chance of a
difference as large or larger between two classifiers that err equally often, on these same images.

Example:
    tools/compare.py results/cards_squeezenet_sm.json results/cards_squeezenet_ours.json
"""

import argparse
from pathlib import Path

import numpy as np

from data_prep.common.command import command
from data_prep.common.errors import UserError
from tools import results, scores

HEAD, FROM_FINE = "head", "from_fine"
COLUMN_OF = {HEAD: "predicted", FROM_FINE: "from_fine"}  # of the table of predictions


def columns_of(all_results):
    """(level, answer) of every column of the table: those that some experiment has."""
    return [
        (i, answer)
        for i in range(len(all_results[0]["levels"]))
        for answer in COLUMN_OF
        if any(answer in result["levels"][i] for result in all_results)
    ]


def right(predictions, level, answer):
    """bool per image: is the answer on the level the true class?"""
    return predictions[level] == predictions[f"{level}_{COLUMN_OF[answer]}"]


def against(first, i, answer):
    """The answer of the first experiment that this one is compared with, or None."""
    level = first["levels"][i]
    return answer if answer in level else FROM_FINE if FROM_FINE in level else None


def p_value(predictions, first_predictions, level, answer, other):
    """McNemar's p of an answer and the first experiment's other one, None without predictions."""
    if (
        predictions is None
        or first_predictions is None
        or not np.array_equal(predictions["key"], first_predictions["key"])
    ):
        return None
    return scores.mcnemar(right(predictions, level, answer), right(first_predictions, level, other))


def rows_of(all_results, all_predictions):
    """Header and rows of the table, as lists of strings; below each experiment how it differs."""
    columns = columns_of(all_results)
    first, first_predictions = all_results[0], all_predictions[0]
    names = _names(first)
    yield ["experiment"] + [
        names[i] if answer == HEAD else f"{names[i]} from fine" for i, answer in columns
    ]
    for result, predictions in zip(all_results, all_predictions):
        row, differences, chances = [result["experiment"]], ["  difference"], ["  p"]
        for i, answer in columns:
            level, other = result["levels"][i], against(first, i, answer)
            row.append(f"{level[answer]['top1']:.1%}" if answer in level else "-")
            difference = p = None
            if answer in level and other:
                difference = 100 * (level[answer]["top1"] - first["levels"][i][other]["top1"])
                p = p_value(predictions, first_predictions, names[i], answer, other)
            differences.append("-" if difference is None else f"{difference:+.1f}")
            chances.append(
                "-"
                if p is None
                else "<0.0001*"
                if p < 0.0001
                else f"{p:.2g}{'*' if p < 0.05 else ''}"
            )
        yield row
        if result is not first:
            yield differences
            if set(chances[1:]) != {"-"}:
                yield chances


def as_text(rows):
    """Rows as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows
    ]


def as_markdown(rows):
    """Rows as the lines of a Markdown table."""
    lines = ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def _names(result):
    return [level["level"] for level in result["levels"]]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "results",
        type=Path,
        nargs="+",
        metavar="JSON",
        help="what tools/evaluate.py wrote; the first is the baseline",
    )
    parser.add_argument("--markdown", action="store_true", help="a Markdown table")
    args = parser.parse_args()
    all_results = [results.read(path) for path in args.results]
    first = all_results[0]
    for path, result in zip(args.results, all_results):
        for name in ("data", "split", "images"):
            if result[name] != first[name]:
                raise UserError(
                    f"{path} has {name} {result[name]}, {args.results[0]} has "
                    f"{first[name]}: only evaluations on the same images can be "
                    "compared"
                )
        if _names(result) != _names(first):
            raise UserError(
                f"{path} has the levels {', '.join(_names(result))}, {args.results[0]} "
                f"has {', '.join(_names(first))}: only results of one label tree can "
                "be compared"
            )
    all_predictions = [results.read_predictions(path) for path in args.results]
    rows = list(rows_of(all_results, all_predictions))
    print(f"top-1 on {first['images']} {first['split']} images of {first['data']}")
    print("\n".join([""] * args.markdown + (as_markdown if args.markdown else as_text)(rows)))
    if len(all_results) > 1:
        print(
            ("\n" if args.markdown else "") + "difference: percentage points, from "
            f"{first['experiment']}'s own classifier or, where it has none, its `from fine`;\n"
            "p: McNemar's exact test on the same images, * below 0.05"
        )


if __name__ == "__main__":
    command(main)
