"""Solver files: the run of one variant, every value that is not obvious with its reason."""

from . import text
from .tables import GLM_WEIGHT, STAGES, TITLES


def batch_that_divides(images, at_most):
    """Largest batch size <= at_most that divides the number of images: each is then tested exactly once."""
    return max(size for size in range(1, at_most + 1) if images % size == 0)


def _rounded(number):
    """To two significant digits, so that an interval is a number a person would choose."""
    step = 10 ** max(0, len(str(int(number))) - 2)
    return max(1, round(number / step) * step)


def iterations(schedule, images, batch):
    """max_iter of a schedule on this many training images, `batch` at a time."""
    return schedule.iterations or _rounded(schedule.epochs * images / batch)


def _stage_notes(dataset, net, variant, stages, solver_of):
    coarse = list(zip(dataset.levels, dataset.sizes))[1:]
    names = [f"fc{8 + level}_coarse ({classes} x {name})" for level, (name, classes) in enumerate(coarse, 1)]
    says = {
        "csm": f"adds {' and '.join(names)} on fc8_fine's scores, each with a softmax loss: Eq. (1)",
        "skip": f"lets them see the feature {net.feature} as well: the skipping connections of Figs. 3 and 4",
        "glm": f"adds {GLM_WEIGHT} x the generalized large-margin loss on {net.feature} while training: Eqs. (2)-(18)",
    }
    if not stages:
        return [f"No stages: the network with its {dataset.sizes[0]}-way {dataset.levels[0]} classifier fc8_fine alone.",
                "The other variants differ from this file in their stages (and in where snapshots go)."]
    return [f"What {TITLES[variant]} adds to SM ({solver_of('sm')}) are its stages, nothing else:"] + [
        f"  {stage:5s} {says[stage]}" for stage in stages]


def solver_text(dataset, net, variant, folder, *, batch, test_batch, base_lr, max_iter, why):
    """Text of <dataset>_<net>_<variant>_solver.prototxt, to lie in `folder` (relative to where Caffe runs)."""
    stages = STAGES[variant]
    pair = f"{dataset.name}_{net.name}"

    def solver_of(name):
        return f"{folder}/{pair}_{name}_solver.prototxt"

    per_epoch = dataset.train / batch
    test_iter, state = dataset.test // test_batch, "".join(f'stage: "{stage}" ' for stage in stages)
    rows = [
        ("net", f"{folder}/{pair}_train_val.prototxt", None),
        *([("train_state", "{ " + state + "}", None), ("test_state", "{ " + state + "}", None)] if stages else []),
        ("test_iter", test_iter,
         f"x {test_batch} per batch = {dataset.test} test images: each exactly once"),
        ("test_interval", _rounded(max_iter / 10), "ten tests in all; they cost time and teach nothing"),
        ("test_initialization", False, "an untrained head is at chance"),
        ("base_lr", base_lr, "a tenth of the original's 0.01: the weights are pretrained; new layers take 10x")
        if base_lr == 0.001 else ("base_lr", base_lr, why.get("base_lr")),
        *((field, value(max_iter) if callable(value) else value, reason) for field, value, reason in net.policy),
        ("momentum", 0.9, "momentum and weight decay: the original network's"),
        ("weight_decay", net.weight_decay, None),
        ("max_iter", max_iter, why.get("max_iter", f"x batch {batch} = {max_iter / per_epoch:.0f} epochs of "
                                                   f"{dataset.train} training images")),
        ("display", 20, None),
        ("average_loss", 20, "mean of the last 20: one batch's loss is noise"),
        ("snapshot", _rounded(max_iter / 4), "weights and momentum, to resume with -snapshot; one more at the end"),
        ("snapshot_prefix", f"snapshots/{pair}_{variant}/model", "Caffe wants the folder to exist: `make setup` makes it"),
        ("random_seed", 1, "new layers, crops and dropout: the same in every run"),
    ]
    header = text.comment(
        f"{TITLES[variant]}: {net.title} on {dataset.title}. Written by tools/make_prototxt.py: change it there.",
        f"  caffe train -solver {solver_of(variant)} -weights {net.weights}",
        *_stage_notes(dataset, net, variant, stages, solver_of),
        "No solver_mode: the CPU, or with `-gpu 0` the GPU.")
    return header + "\n" + text.rows_text(rows)
