#!/usr/bin/env python3
"""Export a trained net as a folder that needs neither this repository nor Caffe.

The folder holds the net as model.onnx and as deploy.prototxt with weights.caffemodel, the classes
(labels.json, hierarchy.tsv), how a photograph becomes the input (preprocessing.json), a model card
(README.md) and example.py, which classifies photographs with NumPy and OpenCV alone. examples.jpg
has a small training image of every fine class, for tools/serve.py; --no-examples leaves it out.

Caffe, ONNX Runtime and OpenCV must agree on three photographs, three at a time and one at a time:
within 1e-5 of every probability, and in the most probable class of every level. Otherwise nothing
is exported, and the error names the first layer at which they part. OpenCV can't read the Caffe
files of nets with Python layers (bcnn); it reads their model.onnx.

An earlier export in the same folder is replaced, unless one of its files was changed.

Example:
    tools/export.py --solver prototxt/mine/mine_googlenet_ours_solver.prototxt --out models/mine
"""

import argparse
from pathlib import Path

from data_prep.common import text_table
from data_prep.common.command import command
from data_prep.common.errors import UserError


def parse(readers):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--solver", type=Path, required=True, help="solver with which the net was trained"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        help="caffemodel (default: that of the solver's newest whole snapshot)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder to write, e.g. models/mine",
    )
    parser.add_argument(
        "--photographs",
        type=Path,
        nargs="+",
        default=(),
        metavar="PATH",
        help="photographs or folders to check with (default: test images of the data set)",
    )
    parser.add_argument(
        "--result",
        type=Path,
        metavar="JSON",
        help="evaluation of these weights for the model card (default: results/NAME.json, if it is "
        "of these weights; NAME is the solver's without _solver)",
    )
    parser.add_argument(
        "--license", metavar="TEXT", help="license of the model, for its card (default: not stated)"
    )
    parser.add_argument(
        "--no-examples",
        dest="examples",
        action="store_false",
        help="leave out examples.jpg, which holds small copies of training photographs",
    )
    parser.add_argument(
        "--readers",
        default=",".join(readers),
        metavar="NAME,...",
        help="programs that must agree with Caffe (default: all, %(default)s)",
    )
    args = parser.parse_args()
    args.readers = tuple(dict.fromkeys(args.readers.split(",")))
    unknown = [name for name in args.readers if name not in readers]
    if unknown:
        parser.error(f"--readers: {', '.join(unknown)} is not of {', '.join(readers)}")
    if args.license is not None and not (args.license.strip() and args.license.isprintable()):
        parser.error("--license: one line of text is needed")
    return args


def main():
    try:
        from tools.model_folder import export
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnxruntime"):
            raise
        raise UserError(f"this Python has no {error.name}: run `make setup`") from None
    args = parse(tuple(export.READERS))
    done = export.export(
        args.solver,
        args.out,
        args.weights,
        photos=args.photographs,
        result=args.result,
        license=args.license,
        readers=args.readers,
        examples=args.examples,
    )
    rows = [("agrees with Caffe", "largest difference of a probability")]
    rows += [(one.name, f"{one.largest:.1g}") for one in done.agreed]
    rows += [(name, f"not read: {why}") for name, why in done.unread.items()]
    print("\n".join(text_table.aligned(rows)))
    if done.result is None:
        print("these weights have no evaluation in results/: the model card has no accuracy")
    if done.lacks:
        print(f"no examples.jpg: {done.lacks}")
    size = sum(done.files.values()) / 1e6
    print(f"wrote {done.folder}/: {', '.join(done.files)} ({size:.1f} MB)")


if __name__ == "__main__":
    command(main)
