"""Command-line options about nets, and their values."""

import importlib
import json
import re
import shlex
import sys
from pathlib import Path

from data_prep.common.arguments import within
from data_prep.common.errors import UserError
from data_prep.common.text import parse_json
from data_prep.records import SPLITS
from python_layers import glm_loss, label_tree, parameters

from . import head, solver
from .data import BBOX
from .losses import SCALE_OPTION, WEIGHT_OPTIONS
from .tables import (
    ATTRIBUTES,
    COMMITTED,
    DATASETS,
    GLM,
    GLM_SCALE,
    LOSSES,
    NETS,
    POLICIES,
    PRESETS,
    RECOMMENDED,
    STAGES,
    glm_parameters,
    has_softmax,
)


def json_option(name):
    """The option for a loss's parameters."""
    return f"--{name.replace('_', '-')}-json"


GLM_OPTION = json_option(GLM)
LARGEST_WEIGHT = 1e6  # of a loss


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
    """Add the options that name a data set to an argparse group."""
    source = group.add_mutually_exclusive_group()
    source.add_argument(
        "--dataset", choices=list(DATASETS), help="a data set of tools/nets/tables.py"
    )
    source.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="folder of a data set that data_prep/build_lmdb.py built",
    )
    group.add_argument(
        "--bbox",
        action="store_true",
        help="write solvers for images cut to their ground-truth boxes (only with --dataset: "
        "images of --data are cut when they are built)",
    )
    group.add_argument(
        "--test-split",
        choices=[split for split in SPLITS if split != "train"],
        default="test",
        help="images of the tests during training (default: test); val needs --data, and keeps the "
        "test images for the end",
    )


def check_boxes(parser, options):
    """argparse's error for --bbox without a --dataset with boxes, --test-split without --data."""
    if options.test_split != "test" and not options.data:
        parser.error(f"--test-split {options.test_split} needs --data")
    if options.bbox and not (options.dataset and DATASETS[options.dataset].boxes):
        parser.error(
            "--bbox needs a --dataset with boxes: "
            + ", ".join(name for name, known in DATASETS.items() if known.boxes)
        )


def add_net_options(group):
    """Add the options that name a network and its levels to an argparse group."""
    group.add_argument(
        "--levels",
        metavar="N|NAMES",
        help="levels of the label tree that get a classifier: a number, counted from the finest, "
        "or names, such as species,order (default: all)",
    )
    group.add_argument("--net", choices=list(NETS), help="network of the model zoo")
    sized = [name for name, net in NETS.items() if net.smallest]
    group.add_argument(
        "--crop",
        type=within(int, 16, 2048),
        metavar="N",
        help="side of the square crops that the network reads, in pixels, such as 448; for "
        f"{', '.join(sized)}. The stored images have to be as large (default: the network's)",
    )


def add_run_options(group):
    """Add the options for the files of one (data set, network) to an argparse group."""
    group.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder for the files, relative to the repository's root",
    )
    group.add_argument(
        "--variant",
        choices=list(STAGES),
        action="append",
        help="write this solver; may be repeated (default: those of prototxt/: "
        f"{', '.join(COMMITTED)})",
    )
    group.add_argument(
        "--name",
        help="name in file names and snapshot folders, to keep experiments apart (default: the "
        "data set's)",
    )
    number, rate = positive(int, "number above 0"), positive(float, "number above 0")
    group.add_argument(
        "--train-batch",
        type=number,
        metavar="N",
        help="images per iteration (default: the tables')",
    )
    group.add_argument(
        "--max-iter", type=number, metavar="N", help="iterations (default: the tables')"
    )
    group.add_argument(
        "--base-lr", type=rate, metavar="RATE", help="learning rate (default: the tables')"
    )
    group.add_argument(
        "--schedule",
        choices=POLICIES,
        help="how the learning rate falls: step, one step after two thirds of the run; poly, "
        "linearly to 0; cosine, as a cosine to 1 %% (default: the network's)",
    )
    group.add_argument(
        "--warm-up",
        type=within(int, 0, 2**31 - 1),
        default=0,
        metavar="N",
        help="iterations at the start in which the learning rate rises from 1/N of the schedule's "
        "(default: 0)",
    )
    group.add_argument(
        "--clip-gradients",
        type=within(float, 0, 1e9),
        default=0.0,
        metavar="LENGTH",
        help="length to which Caffe shortens the gradient of all parameters together, where it is "
        "longer (default: 0, never)",
    )
    group.add_argument(
        "--tests",
        type=within(int, 0, 1000),
        default=solver.TESTS,
        metavar="N",
        help="tests during training, at most: as many as divide the iterations; 0: none (default: "
        "%(default)s)",
    )
    group.add_argument(
        "--seed",
        type=within(int, 0, 2**31 - 1),
        default=solver.SEED,
        help="seed of new layers, crops and dropout (default: %(default)s)",
    )
    group.add_argument(
        "--preset",
        choices=PRESETS,
        default=RECOMMENDED,
        help="values of the method: "
        + "; ".join(f"{name}: {preset.title}" for name, preset in PRESETS.items())
        + ", that is raw features, margins of 1, lambda 0.8, Eq. (20) as printed, and coarse "
        "classifiers that read probabilities. Other options replace single values (default: "
        "%(default)s)",
    )
    for name, loss in LOSSES.items():
        group.add_argument(
            WEIGHT_OPTIONS[name],
            type=within(float, 0, LARGEST_WEIGHT),
            metavar="X",
            help=f"loss_weight of the {loss.called} (default: {loss.weight:g}, if the network has "
            "no other)",
        )
    group.add_argument(
        SCALE_OPTION,
        type=within(float, *parameters.SCALES),
        metavar="S",
        help="length of the features inside the metric losses that normalize them, all but center "
        f"(default: {GLM_SCALE:g} for GLM, 1 for the others; a scale in --glm-json is GLM's "
        "instead): the larger, the stronger they act",
    )
    group.add_argument(
        "--skip-input",
        choices=(head.SCORES, head.PROBABILITIES),
        help="what coarse classifiers, with and without skipping connections, read of the finer "
        "ones: scores, or probabilities after a softmax (default: the preset's)",
    )
    group.add_argument(
        "--label-smoothing",
        type=within(float, 0, 1),
        default=0.0,
        metavar="SHARE",
        help="share of the target of the softmax losses that all classes have in equal parts, in "
        "training; 0.1 is usual (default: 0, none)",
    )
    for name, loss in LOSSES.items():
        group.add_argument(
            json_option(name),
            metavar="JSON",
            default="",
            help=f"parameters of the {loss.called}: python_layers/{name}_loss.py"
            + (""", e.g. '{"margins": [1, 0.5]}'""" if name == GLM else ""),
        )
    group.add_argument(
        "--freeze",
        action="store_true",
        help="only the new layers learn; the network keeps its weights, and metric losses have no "
        "effect. The first of the two steps of Lin et al. 2015: without it, train from the result",
    )
    group.add_argument(
        "--attributes",
        type=Path,
        action="append",
        default=[],
        metavar="TSV",
        help="table classes x attributes of 0 and 1 for the variant bgl: a header, and per fine "
        "class, in the order of hierarchy.tsv, its name and its values; may be repeated",
    )
    group.add_argument(
        "--diagnostics",
        action="store_true",
        help="the metric losses print their diagnostics at each display, for tools/plot_log.py",
    )


def command_line():
    """The command that runs, as it can be typed in the repository's root.

    UserError where it is not UTF-8, as prototxts have to be.
    """
    text = shlex.join([f"tools/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{text!r}: an argument is not UTF-8, which prototxts need") from None
    return text


def run_values(options, dataset):
    """These options as keyword arguments of files.file_texts; UserError for wrong values."""
    variants, preset = options.variant or COMMITTED, PRESETS[options.preset]
    weights = {
        name: weight
        for name, option in WEIGHT_OPTIONS.items()
        if (weight := getattr(options, option[2:].replace("-", "_"))) is not None
    }
    for name in weights:
        _check_used(WEIGHT_OPTIONS[name], name, variants)
    if options.label_smoothing and not any(map(has_softmax, variants)):
        raise UserError(
            f"--label-smoothing is for softmax losses, which {' and '.join(variants)} "
            f"{'does' if len(variants) == 1 else 'do'} not have: leave it out, or add another "
            "--variant"
        )
    given = {}
    for name in LOSSES:
        text = getattr(options, f"{name}_json")
        if text.strip():
            _check_used(json_option(name), name, variants)
            given[name] = _values(name, text)
    return dict(
        variants=variants,
        name=file_name(dataset.name if options.name is None else options.name, "--name"),
        chosen=(BBOX,) if options.bbox else (),
        run=dict(
            batch=options.train_batch,
            max_iter=options.max_iter,
            base_lr=options.base_lr,
            tests=options.tests,
            policy=options.schedule,
            warm_up=options.warm_up,
            clip_gradients=options.clip_gradients,
            seed=options.seed,
        ),
        diagnostics=options.diagnostics,
        frozen=options.freeze,
        weights=weights,
        scale=options.metric_scale,
        skip_input=options.skip_input or preset.skip_input,
        attributes=_attributes(options.attributes, variants, dataset),
        label_smoothing=options.label_smoothing,
        given={
            **given,
            GLM: _glm_values(
                options.glm_json, preset.glm, options.metric_scale, len(dataset.sizes)
            ),
        },
        made_by=command_line(),
    )


def _attributes(paths, variants, dataset):
    """((path, number of attributes), ...) of --attributes; UserError for what can't be used."""
    found = []
    for path in paths:
        for name, row in LOSSES.items():
            if ATTRIBUTES in row.reads:
                _check_used("--attributes", name, variants)
        try:
            graph = label_tree.read_graph(path.as_posix(), dataset.sizes[0])
        except ValueError as error:
            raise UserError(f"--attributes: {error}") from None
        found.append((path.as_posix(), graph.shape[1]))
    return tuple(found)


def _values(name, text):
    """Parameters of a loss in a user's JSON text. UserError where the layer would refuse them."""
    option, row = json_option(name), LOSSES[name]
    values = parse_json(text, option)
    module = importlib.import_module(f"python_layers.{name}_loss")
    try:
        parameters.parse(text, getattr(module, row.layer).PARAMETERS, option)
    except ValueError as error:
        raise UserError(str(error)) from None
    return values


def _check_used(option, name, variants):
    """UserError where an option sets values of a loss that none of the variants trains with."""
    if not any(name in STAGES[variant] for variant in variants):
        others = " or ".join(variant for variant, stages in STAGES.items() if name in stages)
        raise UserError(
            f"{option} is for the {LOSSES[name].called}, which {' and '.join(variants)} "
            f"{'does' if len(variants) == 1 else 'do'} not have: leave it out, or add --variant "
            f"{others}"
        )


def _glm_values(text, preset, scale, levels):
    """Parameters of the large-margin loss in a user's JSON text, and those of the preset.

    preset: of tables.Preset. scale: as losses.net_losses. levels: of the label tree. UserError
    where the layer would refuse them together with those of the tables.
    """
    values = parse_json(text, GLM_OPTION) if text.strip() else {}
    length = {} if scale is None else {"scale": scale}
    try:
        parameters.parse(text, glm_loss.PARAMETERS, GLM_OPTION)
        values = {**preset, **length, **values}
        if values.get("normalize") is False and scale is None:
            values.setdefault("scale", 1.0)  # the tables' is that of normalized features
        together = {**glm_parameters(levels), **values}
        glm_loss.settings(json.dumps(together), levels, GLM_OPTION)
    except ValueError as error:
        raise UserError(str(error)) from None
    return values
