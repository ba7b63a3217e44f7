"""Times a training step of every variant of a net beside plain softmax, and its memory."""

import statistics
import sys
import tempfile
from pathlib import Path

from data_prep.common import progress, text_table
from data_prep.common.cores import cores_of_process
from data_prep.common.errors import UserError
from tools.nets import tables

from . import contest, engines, peer_nets, peers
from .timing import add_runs, positive

NETS = "prototxt/cub_squeezenet"
BATCH, RUNS = 32, 5
REFERENCE = "sm"
RATE = 1e-9  # no net diverges on images of noise; the work is the same


def run(options):
    """Time training steps (forward, backward and update) of a net's variants, on the CPU.

    Each variant runs in a process of its own, in turn with plain softmax; `times` is its step
    divided by that of plain softmax in the same turn. The process that reserves its memory first
    can be some percent slower, so that each is first once: `times` is the mean of the medians of
    the two, with the smallest and the largest ratio. MB is the peak of the process, with Python and
    the images of one batch. Images and weights are random; reading images is left out.

    examples:
      tools/bench.py variants
      tools/bench.py variants --nets prototxt/cub_googlenet --variant sm_glm --variant ours
    """
    solvers = _solvers(options.nets, options.variant)
    rows, failed = [], {}
    with tempfile.TemporaryDirectory(prefix="bench_variants.") as folder:
        folders = _write(solvers, options, Path(folder))
        runners = _Runners(folders, options)
        others = [variant for variant in folders if variant != REFERENCE]
        for variant in progress.each(others, "measuring", "variants", len(others)):
            try:
                meetings = [
                    runners.meeting((REFERENCE, variant)),
                    runners.meeting((variant, REFERENCE)),
                ]
            except contest.EngineError as error:
                failed[variant] = error
                continue
            if not rows:
                rows.append(_row(REFERENCE, meetings, "1"))
            rows.append(_row(variant, meetings, _times(variant, meetings)))
    for variant, error in failed.items():
        print(f"failed: {tables.short_title(variant)}: {error}", file=sys.stderr)
    print(
        f"{options.nets}, batch {options.batch}, {options.threads} threads: medians of two times "
        f"{options.runs} turns"
    )
    lines = [("", "ms", "times", "MB"), *rows]
    print("\n".join(text_table.aligned(lines, right={1, 3})))
    return 1 if failed else 0


class _Runners:
    """Processes that train the nets in `folders`, {variant: folder}."""

    def __init__(self, folders, options):
        self._folders, self._options = folders, options

    def meeting(self, order):
        """{variant: [answers]} of two variants in turn, in new processes. Raises EngineError."""
        with self._runner(order[0]) as first, self._runner(order[1]) as second:
            pair = dict(zip(order, (first, second)))
            answers, failed = contest.alternate(pair, self._options.runs)
        for reason in failed.values():
            raise contest.EngineError(reason)
        return answers

    def _runner(self, variant):
        specification = engines.Specification(
            engines.CAFFE,
            peers.TRAIN,
            self._folders[variant],
            self._options.batch,
            self._options.threads,
        )
        return contest.Runner(specification, {})


def _solvers(nets, wanted):
    """{variant: path} of a net's solvers, the reference first. Raises UserError where one of
    `wanted` (empty: all) or the reference is missing."""
    paths = {variant: Path(f"{nets}_{variant}_solver.prototxt") for variant in tables.STAGES}
    variants = dict.fromkeys([REFERENCE, *(wanted or paths)])
    found = {variant: paths[variant] for variant in variants if paths[variant].is_file()}
    for variant in (REFERENCE, *wanted):
        if variant not in found:
            raise UserError(f"no solver {paths[variant]}: --nets names FOLDER/DATA_NET of solvers")
    return found


def _write(solvers, options, folder):
    """{variant: folder} of the nets. One that can't be made here, because a data set's tree is not
    there, is skipped and named; a UserError if it is the reference or the user named it."""
    folders = {}
    for variant, solver in solvers.items():
        try:
            peer_nets.write(solver, options.batch, folder / variant, RATE)
        except UserError as error:
            if variant == REFERENCE or variant in options.variant:
                raise
            print(f"skipped: {tables.short_title(variant)}: {error}", file=sys.stderr)
            continue
        folders[variant] = str(folder / variant)
    if set(folders) == {REFERENCE}:
        raise UserError(f"{options.nets}: no other variant than {REFERENCE} to time")
    return folders


def _times(variant, meetings):
    """Text: how many times as long as the reference's its step takes."""
    ratios = [
        [ours["seconds"] / theirs["seconds"] for ours, theirs in zip(one[variant], one[REFERENCE])]
        for one in meetings
    ]
    every = [ratio for one in ratios for ratio in one]
    mean = statistics.fmean(map(statistics.median, ratios))
    return f"{mean:.3f} ({min(every):.3f}-{max(every):.3f})"


def _row(variant, meetings, times):
    answers = [answer for one in meetings for answer in one[variant]]
    seconds = statistics.median(answer["seconds"] for answer in answers)
    memory = max(answer["memory"] for answer in answers)
    return tables.short_title(variant), f"{1e3 * seconds:.0f}", times, f"{memory >> 20}"


def add_options(parser):
    add_runs(parser, RUNS)
    parser.add_argument(
        "--nets",
        default=NETS,
        metavar="PREFIX",
        help="of the solvers, PREFIX_VARIANT_solver.prototxt (default: %(default)s)",
    )
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        choices=[variant for variant in tables.STAGES if variant != REFERENCE],
        help="may be repeated (default: all that have a solver)",
    )
    parser.add_argument(
        "--batch", type=positive, metavar="N", default=BATCH, help="images (default: %(default)s)"
    )
    parser.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        default=cores_of_process(),
        help="of each process (default: number of cores, %(default)s)",
    )
