#!/usr/bin/env python3
"""Compare evaluations of one data set: top-1 per level, and the difference from the first.

Each coarse level has a column for its own classifier and one for `from fine`, the ancestor of the
predicted fine class. A classifier that the first experiment lacks is compared with the first's
`from fine`. If the tables of predictions are beside both results, p is that of McNemar's test: the
probability that two classifiers with equal error rates differ at least as much on these images.

Example:
    tools/compare.py results/cards_squeezenet_sm.json results/cards_squeezenet_ours.json
"""

import argparse
from pathlib import Path

import numpy as np

from data_prep.common import text_table
from data_prep.common.command import command
from tools import evaluated, results, scores

HEAD, FROM_FINE = "head", "from_fine"  # answers: fields of results.Level
COLUMN_OF = {HEAD: "predicted", FROM_FINE: "from_fine"}  # fields of results.Answers


def columns_of(all_results):
    """[(index of a level, answer)] for the columns of the table: those that any result has."""
    return [
        (i, answer)
        for i in range(len(all_results[0].levels))
        for answer in COLUMN_OF
        if any(getattr(result.levels[i], answer) for result in all_results)
    ]


def right(predictions, i, answer):
    """bool, N: whether the answer on level i is the true class."""
    answers = predictions.levels[i]
    return answers.true == getattr(answers, COLUMN_OF[answer])


def baseline_answer(first, i, answer):
    """The answer of the first result that `answer` on level i is compared with, or None."""
    return next((one for one in (answer, FROM_FINE) if getattr(first.levels[i], one)), None)


def p_value(predictions, first_predictions, i, answer, other):
    """McNemar's p of an answer and the first result's `other`; None without both tables."""
    if (
        predictions is None
        or first_predictions is None
        or not np.array_equal(predictions.keys, first_predictions.keys)
    ):
        return None
    return scores.mcnemar(right(predictions, i, answer), right(first_predictions, i, other))


def rows_of(all_results, all_predictions):
    """Header and rows of the table, lists of strings; below each result its differences."""
    columns = columns_of(all_results)
    first, first_predictions = all_results[0], all_predictions[0]
    names = _names(first)
    yield ["experiment"] + [
        names[i] if answer == HEAD else f"{names[i]} from fine" for i, answer in columns
    ]
    for result, predictions in zip(all_results, all_predictions):
        row, differences, chances = [result.experiment], ["  difference"], ["  p"]
        for i, answer in columns:
            share, other = getattr(result.levels[i], answer), baseline_answer(first, i, answer)
            difference = p = None
            if share and other:
                difference = 100 * (share.top1 - getattr(first.levels[i], other).top1)
                p = p_value(predictions, first_predictions, i, answer, other)
            row.append(f"{share.top1:.1%}" if share else "-")
            differences.append("-" if difference is None else f"{difference:+.1f}")
            chances.append("-" if p is None else _p_text(p))
        yield row
        if result is not first:
            yield differences
            if set(chances[1:]) != {"-"}:
                yield chances


def _p_text(p):
    return "<0.0001*" if p < 0.0001 else f"{p:.2g}{'*' if p < 0.05 else ''}"


def _names(result):
    return [level.level for level in result.levels]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "results",
        type=Path,
        nargs="+",
        metavar="JSON",
        help="results written by tools/evaluate.py; the first is the baseline",
    )
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    args = parser.parse_args()
    all_results = [results.read(path) for path in args.results]
    first = all_results[0]
    evaluated.check_same_images(args.results, all_results)
    all_predictions = [
        results.read_predictions(path, result) for path, result in zip(args.results, all_results)
    ]
    rows = list(rows_of(all_results, all_predictions))
    lines = text_table.markdown(rows) if args.markdown else text_table.aligned(rows)
    print(f"top-1 on {first.images} {first.split} images of {first.data}")
    print("\n".join([""] * args.markdown + lines))
    if len(all_results) > 1:
        print(
            ("\n" if args.markdown else "") + "difference: percentage points, from "
            f"{first.experiment}'s own classifier or, where it lacks one, its `from fine`;\n"
            "p: McNemar's exact test on the same images, * below 0.05"
        )


if __name__ == "__main__":
    command(main)
