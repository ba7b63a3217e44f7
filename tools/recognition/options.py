"""Options of the commands that read photographs and run a model."""

import argparse
import sys
from pathlib import Path

from data_prep.common.arguments import within
from data_prep.common.errors import UserError
from tools import solver_net
from tools.recognition import (
    decode,
    model as models,
    photographs,
    preprocessing as pixels,
    recognize,
)
from tools.recognition.engines import ENGINES

MOST = 1024  # largest batch; Caffe aborts if a batch does not fit into memory


def box(text):
    """Argument type: a box."""
    try:
        return photographs.parse_box(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_model(parser, engines=True):
    """Add the options that choose a model: what open_model reads. engines: add --engine, too."""
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--solver", type=Path, help="solver with which the net was trained")
    chosen.add_argument(
        "--model", type=Path, metavar="FOLDER", help="folder that tools/export.py wrote"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        help="caffemodel (default: that of the solver's newest whole snapshot)",
    )
    if engines:
        parser.add_argument(
            "--engine",
            choices=ENGINES,
            help="what computes the net: caffe (the default with --solver or --gpu), or onnx, ONNX "
            "Runtime on the CPU (the default with --model)",
        )
    else:
        parser.set_defaults(engine="caffe")
    parser.add_argument("--gpu", type=int, metavar="N", help="number of the GPU (default: the CPU)")


def open_model(args):
    """The model.Model that the options of add_model choose; raises UserError."""
    if args.weights and not args.solver:
        raise UserError("--weights belongs to --solver: an exported model has its own")
    if args.engine == "onnx" and args.solver:
        raise UserError(
            f"--engine onnx computes exported models: tools/export.py --solver {args.solver} "
            "writes one, for --model"
        )
    if args.engine == "onnx" and args.gpu is not None:
        raise UserError("--engine onnx computes on the CPU: leave out --gpu, or choose caffe")
    if args.gpu is not None:
        solver_net.use_gpu(args.gpu)
    if args.solver:
        return models.from_solver(args.solver, args.weights)
    return models.from_folder(args.model, "caffe" if args.gpu is not None else args.engine)


def data_folder(solver):
    """Path of the data set that a solver's test net reads; raises UserError."""
    return pixels.of_solver(solver_net.read_solver(solver))[1]


def add_decision(parser, top):
    """Add the options that decide for classes: --decode, --top and --crops. top: the default."""
    parser.add_argument("--decode", choices=decode.RULES, default="fine", help="see above")
    parser.add_argument(
        "--top",
        type=within(int, 1, 1000),
        default=top,
        metavar="K",
        help="best paths per photograph (default: %(default)s)",
    )
    parser.add_argument(
        "--crops",
        type=int,
        choices=pixels.CROPS,
        default=1,
        help="parts of the photograph whose probabilities are averaged: the middle (1, the "
        "default), corners and middle (5), these and their mirror images (10, Caffe's "
        "oversampling)",
    )


def check_crops(args, model):
    """Print a note to stderr if the model has not seen mirror images, which --crops 10 uses."""
    if args.crops == 10 and model.preprocessing.mirror is False:
        print(
            "note: this net was trained without mirror images; --crops 5 leaves them out",
            file=sys.stderr,
        )


def add_photographs(parser, **more):
    """Add the options that choose photographs: what open_photographs reads."""
    parser.add_argument("photographs", nargs="*", type=Path, help="photographs and folders", **more)
    parser.add_argument(
        "--list",
        metavar="FILE",
        help="text file with a path per line and, after a tab, an optional box; - is standard "
        "input",
    )
    parser.add_argument(
        "--box",
        type=box,
        metavar="X,Y,W,H",
        help="part of each photograph to look at, in pixels of the upright photograph",
    )
    parser.add_argument(
        "--footer",
        type=within(int, 0, 10_000),
        default=0,
        metavar="ROWS",
        help="rows to leave out at the bottom, such as FGVC-Aircraft's 20 (default: 0)",
    )
    parser.add_argument(
        "--batch",
        type=within(int, 1, MOST),
        default=recognize.BATCH,
        help="images that the net computes at once (default: %(default)s); affects speed and "
        "memory",
    )
    parser.add_argument(
        "--jobs",
        type=within(int, 1, 256),
        default=recognize.default_jobs(),
        help="threads that decode photographs (default: twice the processors, %(default)s)",
    )


def open_photographs(args):
    """[photographs.Photograph] that the options of add_photographs choose; raises UserError."""
    found = photographs.find(args.photographs, args.list, args.box, args.footer)
    if not found:
        raise UserError(f"the list {args.list} names no photographs")
    return found
