"""Solver files: the run of one variant, every value that is not obvious with its reason."""

from . import head, text
from .tables import GLM_WEIGHT, RIVALS, STAGES, TITLES

TESTS = 5  # per run, at most


def batch_that_divides(images, at_most):
    """Largest batch size <= at_most that divides the number of images: each is then tested once."""
    return max(size for size in range(1, at_most + 1) if images % size == 0)


def iterations(schedule, images, batch):
    """max_iter of a schedule for so many training images: two digits, then zeros."""
    exact = round(schedule.epochs * images / batch)
    return schedule.iterations or round(exact, 2 - len(str(exact))) or 1


def _stage_notes(dataset, net, variant, solver_of):
    """Comment lines: what this variant's stages add to the plain network, and the setting's."""
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
    if len(coarse) == 1:
        csm = [
            f"a coarse classifier {coarse[0]} that reads fc8_fine's scores, with its",
            "own softmax loss: Eq. (1)",
        ]
        skip = [f"it also reads the feature {net.feature}: the skipping connection of Fig. 3"]
    else:
        csm = [
            f"coarse classifiers {', '.join(coarse)}: each reads the scores",
            "of the one before, with its own softmax loss: Eq. (1)",
        ]
        skip = [
            f"they also read the feature {net.feature} and all finer scores: the skipping",
            "connections of Fig. 4",
        ]
    glm = [
        f"{GLM_WEIGHT} x the generalized large-margin loss on {net.feature}, in training:",
        "Eqs. (2)-(18)",
    ]
    says = dict(
        csm=csm,
        skip=skip,
        glm=glm,
        **{
            name: [f"{rival.weight:g} x the {name} loss on {net.feature}, in training"]
            for name, rival in RIVALS.items()
        },
    )
    width = max(5, *map(len, STAGES[variant]))
    return [f"What {TITLES[variant]} adds to SM ({solver_of('sm')}):"] + [
        f"  {'' if number else stage:{width}s} {line}"
        for stage in STAGES[variant]
        for number, line in enumerate(says[stage])
    ]


def solver_text(dataset, net, variant, folder, *, batch, test_batch, base_lr, max_iter, why):
    """Text of <data set>[_bbox]_<net>_<variant>_solver.prototxt.

    dataset: in one setting, as Dataset.for_net gives it. folder: where the file will lie, relative
    to where Caffe runs. why: {field: reason} instead of ours.
    """
    pair = f"{dataset.setting}_{net.name}"

    def solver_of(name):
        return f"{folder}/{pair}_{name}_solver.prototxt"

    stages = STAGES[variant] + dataset.stages
    state = "{ " + "".join(f'stage: "{stage}" ' for stage in stages) + "}"
    states = ("train_state", "test_state") if stages else ()
    tests = max(count for count in range(1, TESTS + 1) if max_iter % count == 0)
    rows = [
        ("net", f"{folder}/{dataset.name}_{net.name}_train_val.prototxt", None),
        *((field, state, None) for field in states),
        (
            "test_iter",
            dataset.test // test_batch,
            f"x {test_batch} per batch = {dataset.test} test images: each exactly once",
        ),
        (
            "test_interval",
            max_iter // tests,
            "each test takes time and teaches nothing; the last is at the end",
        ),
        ("test_initialization", False, "an untrained head is at chance"),
        ("base_lr", base_lr, "as Caffe's fine-tuning example (flickr style); new layers take 10 x"),
        *(
            (field, value(max_iter) if callable(value) else value, reason)
            for field, value, reason in net.policy
        ),
        ("momentum", 0.9, f"this and the next: {net.origin}"),
        ("weight_decay", net.weight_decay, None),
        (
            "max_iter",
            max_iter,
            f"x {batch} per batch = {max_iter * batch / dataset.train:.3g} times the {dataset.train} "
            "training images; the paper says neither",
        ),
        ("display", 20, None),
        ("average_loss", 20, "the loss of one batch is noise"),
        ("snapshot", max_iter // tests, "with each test; -snapshot ....solverstate resumes"),
        ("snapshot_prefix", f"snapshots/{pair}_{variant}/model", None),
        ("random_seed", 1, "the same new layers, crops and dropout in every run"),
    ]
    header = text.comment(
        f"{TITLES[variant]}: {net.title} on {dataset.title}.",
        f"Written by {net.written_by}: change it there.",
        f"  {dataset.command}",
        f"  caffe train -solver {solver_of(variant)} -weights {net.weights}",
        *_stage_notes(dataset, net, variant, solver_of),
        *(f"Stage {stage}: the images of {dataset.folder}." for stage in dataset.stages),
        "No solver_mode: it runs on the CPU, or on a GPU with `-gpu 0`. Caffe wants the folder of",
        "snapshot_prefix to exist: `make setup` and tools/make_prototxt.py make it.",
    )
    return (
        header
        + "\n"
        + text.rows_text((field, value, why.get(field, reason)) for field, value, reason in rows)
    )
