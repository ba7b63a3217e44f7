"""Writes solver files, with the reason beside every value that is not obvious."""

from dataclasses import dataclass

from data_prep.common.errors import UserError
from tools.pycaffe import caffe_pb2

from . import head, text
from .tables import POLICIES, SCHEDULES, STAGES, TITLES

TESTS = 5  # per run, at most
SNAPSHOTS = 5  # the same
SEED = 1
CLIPPED = "the gradient of all parameters together, where it is longer"
WARM_UP = "the rate rises in a line to the policy's (docker/patches/0019)"


@dataclass(frozen=True)
class Run:
    """One training.

    batch, test_batch  images per iteration, and per batch of a test
    max_iter, base_lr  iterations and learning rate
    tests              during the training, at most; 0: none
    seed               random_seed
    policy             of the learning rate: rows as in schedules.py
    warm_up            iterations in which the learning rate rises to the policy's
    clip_gradients     largest length of the gradient of all parameters; 0: any
    why                {solver field: reason} instead of the reasons given here
    """

    batch: int
    test_batch: int
    max_iter: int
    base_lr: float
    tests: int
    seed: int
    policy: tuple
    warm_up: int
    clip_gradients: float
    why: dict


def run_of(
    dataset,
    net,
    *,
    batch=None,
    max_iter=None,
    base_lr=None,
    tests=TESTS,
    seed=SEED,
    policy=None,
    warm_up=0,
    clip_gradients=0.0,
):
    """Run of a data.Dataset with a tables.Net; values that are given replace the schedule's.

    policy: of tables.POLICIES. UserError for a warm-up that is longer than the training, or that
    this Caffe can't do.
    """
    schedule = SCHEDULES.get(dataset.pair(net), net.schedule)
    why = dict(schedule.why)
    if max_iter:
        why.pop("max_iter", None)
    if base_lr:
        why["base_lr"] = "--base-lr; new layers take more: lr_mult in the net"
    batch = batch or schedule.batch
    max_iter = max_iter or iterations(schedule, dataset.train, batch)
    if warm_up > max_iter:
        raise UserError(f"--warm-up {warm_up}: the training has {max_iter} iterations only")
    if warm_up and "warmup_iter" not in caffe_pb2.SolverParameter.DESCRIPTOR.fields_by_name:
        raise UserError("--warm-up: this Caffe lacks docker/patches/0019; make setup builds it")
    return Run(
        batch,
        test_batch(dataset.test, net.test_batch),
        max_iter,
        base_lr or schedule.base_lr,
        tests,
        seed,
        POLICIES[policy] if policy else net.policy,
        warm_up,
        clip_gradients,
        why,
    )


def test_batch(images, at_most):
    """Images per test batch: the size from at_most / 2 to at_most that reads the fewest twice.

    The largest exact divisor of the number of images may be 2 or 1, which wastes a GPU.
    """
    if images <= at_most:
        return images
    return min(range(-(-at_most // 2), at_most + 1), key=lambda size: (-images % size, -size))


def _test_iter(dataset, batch):
    """(test_iter, what it covers) of a data.Dataset.

    After the last image Caffe continues with the first.
    """
    images, split = dataset.test, dataset.test_split
    count = -(-images // batch)
    twice = count * batch - images
    if not twice:
        return count, f"x {batch} per batch = {images} {split} images, each once"
    return (
        count,
        f"x {batch} per batch = {count * batch}: {images} {split} images, {twice} of them twice",
    )


def iterations(schedule, images, batch):
    """max_iter of a schedule for a number of training images: two digits, then zeros."""
    exact = round(schedule.epochs * images / batch)
    return round(exact, 2 - len(str(exact))) or 1


def _divisor(iterations, most):
    """The largest number of equal parts of the iterations, up to `most`; 0 if that is 0."""
    return max((count for count in range(1, most + 1) if iterations % count == 0), default=0)


def _test_interval(run, tests):
    """(test_interval, its reason) of a solver.Run with this number of tests."""
    if not tests:
        return run.max_iter + 1, "no tests during the training"
    return run.max_iter // tests, f"at most {run.tests} tests per run, one at its end"


def _at(value, max_iter):
    """A value of a policy's row, which may be a function of max_iter."""
    return value(max_iter) if callable(value) else value


def _snapshot_reason(tests, snapshots):
    when = "with each test; " if tests == snapshots else ""
    return f"{when}-snapshot ....solverstate resumes"


def _stage_notes(dataset, net, variant, losses, read, solver_of):
    """Comment lines: what this variant's stages add to the plain network.

    read: what coarse classifiers read of the finer ones, head.SCORES or PROBABILITIES.
    """
    coarse = [
        f"{head.scores(level)} ({dataset.sizes[level - 1]} x {name})"
        for level, name in enumerate(dataset.levels, 1)
        if level > 1
    ]
    if not STAGES[variant]:
        return [
            "No stages: the plain network with a new classifier, fc8_fine "
            f"({dataset.sizes[0]} x {dataset.levels[0]}).",
            "The other variants' solvers differ from this one by their stages only.",
        ]
    stages = STAGES[variant]
    if head.FLAT in stages or head.FGON in stages:
        losses_of = [losses[stage].row for stage in stages if stage in losses]
        replaced = any(row.scored for row in losses_of)
        csm = [f"coarse classifiers {', '.join(coarse)}"]
        csm[0] += "" if replaced else ", each with its own softmax loss"
        skip = []
    elif len(coarse) == 1:
        csm = [
            f"a coarse classifier {coarse[0]} that reads fc8_fine's {read}, with its",
            "own softmax loss: Eq. (1)",
        ]
        skip = [f"it also reads the feature {net.feature}: the skipping connection of Fig. 3"]
    else:
        csm = [
            f"coarse classifiers {', '.join(coarse)}: each reads the {read}",
            "of the one before, with its own softmax loss: Eq. (1)",
        ]
        skip = [
            f"they also read the feature {net.feature} and all finer {read}: the skipping",
            "connections of Fig. 4",
        ]
    notes = {
        name: [
            f"{loss.weight:g} x the {loss.row.called} on {loss.row.on(net.feature)}"
            f"{', instead of softmax losses' if loss.row.scored else ''}, in training: "
            f"{loss.row.source}"
        ]
        for name, loss in losses.items()
    }
    notes |= {
        head.CSM: csm,
        head.SKIP: skip,
        head.FLAT: [f"they read the feature {net.feature} alone"],
        head.FGON: [
            f"each classifier reads a part of the feature {net.feature}; coarse ones the finer",
            "parts, too, to which they send no gradient: Chang et al. 2021",
        ],
    }
    width = max(5, *map(len, stages))
    return [f"What {TITLES[variant]} adds to SM ({solver_of('sm')}):"] + [
        f"  {'' if number else stage:{width}s} {line}"
        for stage in stages
        for number, line in enumerate(notes[stage])
    ]


def solver_text(dataset, setting, net, variant, run, *, losses, skip_input, folder, name, made_by):
    """Text of <name>[_bbox]_<net>_<variant>_solver.prototxt.

    dataset, setting, net  data.Dataset, one of its data.Settings, tables.Net
    losses   {name: losses.NetLoss}
    skip_input  what coarse classifiers read of the finer ones, head.SCORES or PROBABILITIES
    folder   of the file, relative to where Caffe runs
    name     of the data set in file names and snapshot folders
    made_by  the command that makes the file
    """
    pair = f"{setting.named(name)}_{net.name}"

    def solver_of(variant):
        return f"{folder}/{pair}_{variant}_solver.prototxt"

    stages = STAGES[variant] + setting.stages
    state = "{ " + "".join(f'stage: "{stage}" ' for stage in stages) + "}"
    states = ("train_state", "test_state") if stages else ()
    tests, snapshots = _divisor(run.max_iter, run.tests), _divisor(run.max_iter, SNAPSHOTS)
    epochs = run.max_iter * run.batch / dataset.train
    rows = [
        ("net", f"{folder}/{name}_{net.name}_train_val.prototxt", None),
        *((field, state, None) for field in states),
        ("test_iter", *_test_iter(dataset, run.test_batch)),
        ("test_interval", *_test_interval(run, tests)),
        ("test_initialization", False, "an untrained head is at chance"),
        (
            "base_lr",
            run.base_lr,
            "as Caffe's fine-tuning example (flickr style); new layers take 10 x",
        ),
        *(tuple(_at(value, run.max_iter) for value in row) for row in run.policy),
        *([("warmup_iter", run.warm_up, WARM_UP)] if run.warm_up else []),
        *([("clip_gradients", run.clip_gradients, CLIPPED)] if run.clip_gradients else []),
        ("momentum", 0.9, f"this and the next: {net.origin}"),
        ("weight_decay", net.weight_decay, None),
        (
            "max_iter",
            run.max_iter,
            f"x {run.batch} per batch = {epochs:.3g} times the {dataset.train} training images; "
            "the paper gives neither",
        ),
        ("display", 20, None),
        ("average_loss", 20, "the loss of one batch is noise"),
        ("snapshot", run.max_iter // snapshots, _snapshot_reason(tests, snapshots)),
        ("snapshot_prefix", f"snapshots/{pair}_{variant}/model", None),
        ("random_seed", run.seed, "the same new layers, crops and dropout in every run"),
    ]
    header = text.comment(
        f"{TITLES[variant]}: {net.title} on {setting.title}.",
        f"Made by {made_by}",
        f"  {setting.command}",
        f"  caffe train -solver {solver_of(variant)}{net.start}",
        *_stage_notes(dataset, net, variant, losses, skip_input, solver_of),
        *(f"Stage {stage}: the images of {setting.folder}." for stage in setting.stages),
        "No solver_mode: it runs on the CPU, or on a GPU with `-gpu 0`. Caffe needs the folder of",
        "snapshot_prefix: `make setup` and tools/make_prototxt.py make it.",
    )
    return (
        header
        + "\n"
        + text.rows_text(
            (field, value, run.why.get(field, reason)) for field, value, reason in rows
        )
    )
