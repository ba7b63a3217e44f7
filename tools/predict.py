#!/usr/bin/env python3
"""Recognize photographs: for each one its path in the label tree, with probabilities.

The net is that of a solver, with the newest whole snapshot of its training, or a folder that
tools/export.py wrote. The photographs are files, folders (every image below them) and lines of a
list. They are decoded, resized and cut as the images of the net's data set were.

Each level has two probabilities: that of its own classifier and, after `from`, the sum that the
fine classifier gives to the fine classes below it. --decode decides for the classes:
  fine   the class that the fine classifier prefers, and its ancestors (the default)
  joint  the path with the largest product of all classifiers' probabilities
  own    on each level the class that its own classifier prefers; they may lie on different paths
  risk   the fine class of the least expected distance in the tree, and its ancestors

Output, on the terminal or in --out FILE:
  text   a paragraph per photograph
  --tsv  a line per photograph: image, agree (do all classifiers' classes lie on one path?); per
         level NAME_predicted, NAME_probability (own) and NAME_from_fine; then best.1,
         best.1.probability ...
  --json a JSON object per line: image, levels (level, predicted, probability, from_fine, own: the
         class that its own classifier prefers), best (path, probability, joint, distance), agree
Files that can't be used are listed and left out; the exit status is then 1.

Examples:
    tools/predict.py --solver prototxt/mine/mine_googlenet_ours_solver.prototxt photo.jpg holiday/
    tools/predict.py --model models/mine --json --out holiday.jsonl holiday/
    tools/predict.py --model models/mine --box 10,20,300,200 --crops 10 photo.jpg
"""

import argparse
import sys
from contextlib import contextmanager
from pathlib import Path

from data_prep.common import files, progress
from data_prep.common.arguments import within
from data_prep.common.command import command
from data_prep.common.errors import UserError
from tools.recognition import answers, decode, options, recognize
from tools.recognition.preprocessing import CROPS


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_model(parser)
    options.add_photographs(parser)
    parser.add_argument("--decode", choices=decode.RULES, default="fine", help="see above")
    parser.add_argument(
        "--top",
        type=within(int, 1, 1000),
        default=3,
        metavar="K",
        help="best paths per photograph (default: %(default)s)",
    )
    parser.add_argument(
        "--crops",
        type=int,
        choices=CROPS,
        default=1,
        help="parts of the photograph whose probabilities are averaged: the middle (1, the "
        "default), corners and middle (5), these and their mirror images (10, Caffe's "
        "oversampling)",
    )
    written = parser.add_mutually_exclusive_group()
    written.add_argument("--json", action="store_true", help="write JSON lines")
    written.add_argument("--tsv", action="store_true", help="write a table")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write there instead of to the terminal; .json, .jsonl, .tsv and .txt choose the "
        "format",
    )
    args = parser.parse_args()
    if not (args.photographs or args.list):
        parser.error("name photographs or folders, or a --list of them")
    of_name = answers.format_of(args.out) if args.out else None
    args.format = "json" if args.json else "tsv" if args.tsv else of_name or "text"
    if of_name not in (None, args.format):
        parser.error(f"--out {args.out} names a file of another format than --{args.format}")
    return args


@contextmanager
def output(path):
    """Function that writes a text to a file, which appears when it is whole, or to the terminal."""
    if path is None:
        yield sys.stdout.write
    else:
        with files.appearing(path) as file:
            yield lambda text: file.write(answers.encoded(text))


def check_out(path, format):
    """Raises UserError if `path` can't be written, or is a file that no prediction wrote."""
    files.make_way(path)
    if path.exists() and not answers.is_ours(path, format):
        raise UserError(f"{path} exists, and is no earlier answer of this format: choose another")


def main():
    args = parse()
    if args.out:
        check_out(args.out, args.format)
    found = options.open_photographs(args)
    model = options.open_model(args)
    if args.crops == 10 and model.preprocessing.mirror is False:
        print(
            "note: this net was trained without mirror images; --crops 5 leaves them out",
            file=sys.stderr,
        )
    top = min(args.top, model.hierarchy.sizes[0])
    writer = answers.FORMATS[args.format](model.hierarchy.levels, top)
    bad = right = 0
    shown = progress.bar("predict", "photographs", len(found))
    if args.out is None and sys.stdout.isatty():
        shown.disable = True  # the answers themselves show how far it is
    with shown as bar, output(args.out) as write:
        if args.out or args.format != "text":  # a remark that only files need
            write(writer.start)
        for part, unusable in recognize.stream(
            model,
            found,
            rule=args.decode,
            top=top,
            crops=args.crops,
            batch=args.batch,
            jobs=args.jobs,
        ):
            for photograph, reason in unusable:
                bar.write(f"left out {photograph.name}: {reason}", file=sys.stderr)
            for answer in part:
                write(writer.one(answer))
            bad, right = bad + len(unusable), right + len(part)
            bar.update(len(part) + len(unusable))
        if not right:
            raise UserError(f"none of the {bad} files is a photograph that can be used")
    if args.out:
        print(f"{model.source}: {right} photographs, {args.decode}; wrote {args.out}")
    if bad:
        print(
            f"error: {bad} of {len(found)} files can't be used: they are listed above",
            file=sys.stderr,
        )
    return 1 if bad else 0


if __name__ == "__main__":
    command(main)
