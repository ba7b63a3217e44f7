"""Command-line options about nets, and their values."""

import json
import re
from pathlib import Path

from data_prep.common.errors import UserError
from python_layers import glm_loss

from .tables import BBOX, DATASETS, STAGES


def positive(kind, name):
    """An argparse type: a number above 0. kind: int or float. name: in argparse's message."""

    def convert(text):
        value = kind(text)
        if not 0 < value < 2**31:  # Caffe's numbers of images and iterations are of 32 bits
            raise ValueError
        return value

    convert.__name__ = name
    return convert


def file_name(text, option):
    """The text, if it can be part of a file name; UserError that names the option if not."""
    if not re.fullmatch(r"\w[\w.-]*", text):
        raise UserError(
            f"{text!r} can't be part of a file name: give {option} letters, digits, _ - and . only"
        )
    return text


def add_data_options(group):
    """Add to an argparse group what names a data set."""
    source = group.add_mutually_exclusive_group()
    source.add_argument("--dataset", choices=list(DATASETS), help="with its official counts")
    source.add_argument(
        "--data", type=Path, metavar="FOLDER", help="a data set that data_prep/build_lmdb.py made"
    )
    group.add_argument(
        "--bbox",
        action="store_true",
        help="solvers for the images cut to their "
        "ground-truth boxes (a folder of --data has them or not)",
    )


def check_boxes(parser, options):
    """argparse's error if --bbox is asked for without a --dataset that has boxes."""
    if options.bbox and not (options.dataset and DATASETS[options.dataset].boxes):
        parser.error(
            "--bbox needs a --dataset with boxes: "
            + ", ".join(name for name, known in DATASETS.items() if known.boxes)
        )


def add_run_options(group):
    """Add to an argparse group what shapes the files of one (data set, network)."""
    group.add_argument(
        "--out", type=Path, metavar="FOLDER", help="of the files, relative to the repository's root"
    )
    group.add_argument(
        "--variant", choices=list(STAGES), action="append", help="repeatable (default: all)"
    )
    group.add_argument(
        "--name",
        help="the data set's in file names and snapshot folders, to keep "
        "experiments apart (default: its own)",
    )
    number, rate = positive(int, "number above 0"), positive(float, "number above 0")
    group.add_argument("--train-batch", type=number, metavar="N", help="images per iteration")
    group.add_argument("--max-iter", type=number, metavar="N", help="iterations")
    group.add_argument("--base-lr", type=rate, metavar="RATE", help="learning rate")
    group.add_argument(
        "--glm-json",
        metavar="JSON",
        default="",
        help="""parameters of the large-margin loss, e.g. '{"margins": [1, 0.5]}'""",
    )
    group.add_argument(
        "--diagnostics",
        action="store_true",
        help="let the metric losses print "
        "their diagnostics at each display; tools/plot_log.py draws them",
    )


def run_values(options, dataset):
    """These options as keyword arguments of files.file_texts; UserError where they can't be."""
    return dict(
        variants=options.variant or tuple(STAGES),
        name=file_name(dataset.name if options.name is None else options.name, "--name"),
        chosen=(BBOX,) if options.bbox else (),
        batch=options.train_batch,
        max_iter=options.max_iter,
        base_lr=options.base_lr,
        diagnostics=options.diagnostics,
        glm=glm_parameters(options.glm_json, len(dataset.sizes)),
    )


def glm_parameters(text, levels):
    """Parameters of the large-margin loss that a user gave, {} for none; UserError where the layer
    itself would refuse them for so many levels."""
    try:
        glm_loss.settings(text, levels, "--glm-json")
    except ValueError as error:
        raise UserError(str(error)) from None
    return json.loads(text) if text.strip() else {}
