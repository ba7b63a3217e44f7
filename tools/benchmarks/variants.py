"""Times a training step of every variant of a net beside plain softmax, and its memory."""

import shutil
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
    others = [variant for variant in solvers if variant != REFERENCE]
    rows, skipped, failed = [], {}, {}
    with tempfile.TemporaryDirectory(prefix="bench_variants.") as folder:
        nets = _Nets(solvers, options, Path(folder))
        nets.write(REFERENCE)
        for variant in progress.each(others, "measuring", "variants", len(others)):
            try:
                nets.write(variant)
                meetings = [
                    nets.meeting((REFERENCE, variant)),
                    nets.meeting((variant, REFERENCE)),
                ]
            except UserError as error:  # its net can't be made here: a data set's tree is missing
                (failed if variant in options.variant else skipped)[variant] = error
                continue
            except contest.EngineError as error:
                failed[variant] = error
                continue
            finally:
                nets.remove(variant)
            if not rows:
                rows.append(_row(REFERENCE, meetings, "1"))
            rows.append(_row(variant, meetings, _times(variant, meetings)))
    for what, reasons in (("skipped", skipped), ("failed", failed)):
        for variant, reason in reasons.items():
            print(f"{what}: {tables.short_title(variant)}: {reason}", file=sys.stderr)
    if not rows:
        raise UserError(f"{options.nets}: no variant was timed beside {REFERENCE}")
    print(
        f"{options.nets}, batch {options.batch}, {options.threads} threads: medians of two times "
        f"{options.runs} turns"
    )
    lines = [("", "ms", "times", "MB"), *rows]
    print("\n".join(text_table.aligned(lines, right={1, 3})))
    return 1 if failed else 0


class _Nets:
    """The files of nets in a folder of their own each, and processes that train them.

    Those of VGG-16 take 1.1 GB per variant: the caller removes what it no longer needs.
    """

    def __init__(self, solvers, options, folder):
        """solvers: {variant: path}; folder: an empty one."""
        self._solvers, self._options, self._folder = solvers, options, folder

    def write(self, variant):
        """Write a net. Raises UserError if its data set's tree is missing."""
        solver = self._solvers[variant]
        peer_nets.write(solver, self._options.batch, self._folder / variant, RATE)

    def remove(self, variant):
        """Remove what was written of a net, if anything."""
        shutil.rmtree(self._folder / variant, ignore_errors=True)

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
            str(self._folder / variant),
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
