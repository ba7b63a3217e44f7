#!/usr/bin/env python3
"""Write a page about one or several evaluations: a single HTML file that needs nothing else.

It shows accuracy per level with intervals, a confusion matrix and the tree, both of which fold and
unfold, the worst confusions with photographs, how runs differ, calibration; with --log the curves
of the training, with --flows the gradients of tools/flows.py; and, where evaluate.py was run with
--features, the nearest neighbors of some images and a map of all.

Results must be of the same images; the first is the one that others are compared with. The same
files and options give the same bytes.

Examples:
    tools/report.py results/cards_squeezenet_ours.json --out results/report.html
    tools/report.py results/sm.json results/ours.json --log sm.log ours.log --out report.html
"""

import argparse
from pathlib import Path

from data_prep.common import files
from data_prep.common.arguments import within
from data_prep.common.command import command
from data_prep.common.errors import UserError
from tools import caffe_log, curves, evaluated, features
from tools.reports import charts, page
from tools.reports.curves import read_flows

MOST_PHOTOGRAPHS, MOST_QUERIES = 20, 100
HEAD = 2000  # bytes in which a page of ours has its mark


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "results", type=Path, nargs="+", metavar="JSON", help="results of tools/evaluate.py"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="HTML")
    parser.add_argument(
        "--log", type=Path, nargs="+", default=[], help="logs of `caffe train`, in the same order"
    )
    parser.add_argument(
        "--flows", type=Path, nargs="+", default=[], metavar="TSV", help="of tools/flows.py --tsv"
    )
    parser.add_argument(
        "--photographs",
        type=within(int, 0, MOST_PHOTOGRAPHS),
        default=3,
        metavar="N",
        help="photographs of each group, and four times as many where runs differ; 0: none "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--queries",
        type=within(int, 1, MOST_QUERIES),
        default=6,
        metavar="N",
        help="images whose neighbors are shown, half of them mistakes (default: %(default)s)",
    )
    parser.add_argument(
        "--query",
        nargs="+",
        default=[],
        metavar="KEY",
        help="show the neighbors of these images instead; keys as in the result's table",
    )
    parser.add_argument(
        "--seed",
        type=within(int, 0, 2**63 - 1),
        default=1,
        help="seed of the random images, from 0 (default: %(default)s)",
    )
    args = parser.parse_args()
    if args.out.suffix not in (".html", ".htm"):
        parser.error(f"--out {args.out}: the name must end in .html")
    return args


def make_way(path):
    """Raises UserError if the page can't be written, or a file is there that is no such page."""
    files.make_way(path)
    if path.exists():
        with open(path, "rb") as file:
            if page.MARK not in file.read(HEAD):
                raise UserError(
                    f"{path} exists, and tools/report.py did not write it: choose another --out"
                )


def rows_of(found, keys):
    """Rows of the images with these keys; raises UserError for one that the table lacks."""
    rows = {str(key): row for row, key in enumerate(found.predictions.keys)}
    for key in keys:
        if key not in rows:
            raise UserError(
                f"--query {key}: the table of {found.path} has no such key; they are like "
                f"{found.predictions.keys[0]}"
            )
    return tuple(rows[key] for key in keys)


def main():
    args = parse()
    every = [evaluated.read(path) for path in args.results]
    evaluated.check_same_images(args.results, [one.result for one in every])
    runs = [
        page.Run(
            name, charts.COLORS[n % len(charts.COLORS)], one, features.read(one.path, one.result)
        )
        for n, (name, one) in enumerate(zip(page.names_of(every), every))
    ]
    logs = [caffe_log.read(path) for path in args.log]
    flows = dict(zip(curves.labels(args.flows), map(read_flows, args.flows)))
    asked = rows_of(every[0], args.query)
    make_way(args.out)
    options = page.Options(args.photographs, args.queries, asked, args.seed)
    content = page.render(runs, (logs, curves.labels(args.log)), flows, options)
    files.write_whole(args.out, content)
    print(
        f"wrote {args.out} ({len(content) / 1000:.0f} kB): "
        f"{', '.join(run.name for run in runs)} on "
        f"{runs[0].result.images} {runs[0].result.split} images of {runs[0].result.data}"
    )


if __name__ == "__main__":
    command(main)
