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
Files that can't be used are listed and left out; the exit status is then 1. With --out, an
interrupted run resumes with the same command, to the same file.

Examples:
    tools/predict.py --solver prototxt/mine/mine_googlenet_ours_solver.prototxt photo.jpg holiday/
    tools/predict.py --model models/mine --json --out holiday.jsonl holiday/
    tools/predict.py --model models/mine --box 10,20,300,200 --crops 10 photo.jpg
"""

import argparse
import hashlib
import sys
from contextlib import closing
from pathlib import Path

from data_prep.common import files, progress
from data_prep.common.command import command
from data_prep.common.errors import UserError
from tools.recognition import answers, options, recognize, resumable


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_model(parser)
    options.add_photographs(parser)
    options.add_decision(parser, top=3)
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


def check_out(path, format):
    """Raises UserError if `path` can't be written, or is a file that no prediction wrote."""
    files.make_way(path)
    if path.exists() and not answers.is_ours(path, format):
        raise UserError(f"{path} exists, and is no earlier answer of this format: choose another")


def settings(args, model, found):
    """All that the answers depend on, for resumable.parts."""
    listed = hashlib.sha256()
    for each in found:
        try:
            stat = each.path.stat()
            facts = stat.st_size, stat.st_mtime_ns
        except OSError:
            facts = None
        listed.update(f"{ascii(each.name)} {facts} {each.box} {each.footer}\n".encode())
    return {
        "weights": files.sha256(model.source),
        "engine": type(model.engine).__name__,
        "preprocessing": model.preprocessing.words,
        "tree": hashlib.sha256(model.hierarchy.text().encode()).hexdigest(),
        "photographs": listed.hexdigest(),
        **{name: getattr(args, name) for name in ("format", "decode", "top", "crops", "batch")},
    }


def parts(args, model, found, writer):
    """Yield the work's parts, one per batch: the answers as text, their number, unusable files."""
    for part, unusable in recognize.stream(
        model,
        found,
        rule=args.decode,
        top=writer.top,
        crops=args.crops,
        batch=args.batch,
        jobs=args.jobs,
    ):
        yield {
            "text": "".join(map(writer.one, part)),
            "right": len(part),
            "bad": [(photograph.name, reason) for photograph, reason in unusable],
        }


class Count:
    """Counts the photographs of the parts, names the unusable ones, and may show a progress bar."""

    def __init__(self, total, shown):
        self.right = self.bad = 0
        self._bar = progress.bar("predict", "photographs", total) if shown else None

    def add(self, part):
        say = self._bar.write if self._bar else print
        for name, reason in part["bad"]:
            say(f"left out {name}: {reason}", file=sys.stderr)
        self.right += part["right"]
        self.bad += len(part["bad"])
        if self._bar:
            self._bar.update(part["right"] + len(part["bad"]))

    def close(self):
        if self._bar:
            self._bar.close()


def to_terminal(args, model, found, writer):
    """Print the answers as they are computed; returns the Count."""
    # Answers on a terminal show by themselves how far it is.
    with closing(Count(len(found), not sys.stdout.isatty())) as count:
        if args.format != "text":  # a remark that only files need
            sys.stdout.write(writer.start)
        for part in parts(args, model, found, writer):
            sys.stdout.write(part["text"])
            count.add(part)
    return count


def to_file(args, model, found, writer):
    """Write the answers to --out, also those of an interrupted run; returns the Count."""
    try:
        with (
            resumable.parts(args.out, settings(args, model, found)) as kept,
            closing(Count(len(found), True)) as count,
        ):
            for part in kept.earlier:
                count.add(part)
            done = count.right + count.bad
            if done:
                print(f"resuming at {done} of {len(found)} photographs", flush=True)
            for part in parts(args, model, found[done:], writer):
                kept.add(part)
                count.add(part)
            if count.right:
                with files.appearing(args.out) as file:
                    file.write(answers.encoded(writer.start))
                    for part in kept:
                        file.write(answers.encoded(part["text"]))
    except KeyboardInterrupt:
        print("stopped: run the same command to resume", file=sys.stderr)
        raise
    return count


def main():
    args = parse()
    if args.out:
        check_out(args.out, args.format)
    found = options.open_photographs(args)
    model = options.open_model(args)
    options.check_crops(args, model)
    top = min(args.top, model.hierarchy.sizes[0])
    writer = answers.FORMATS[args.format](model.hierarchy.levels, top)
    count = (to_file if args.out else to_terminal)(args, model, found, writer)
    if not count.right:
        raise UserError(f"none of the {count.bad} files is a photograph that can be used")
    if args.out:
        print(f"{model.source}: {count.right} photographs, {args.decode}; wrote {args.out}")
    if count.bad:
        print(
            f"error: {count.bad} of {len(found)} files can't be used: they are listed above",
            file=sys.stderr,
        )
    return 1 if count.bad else 0


if __name__ == "__main__":
    command(main)
