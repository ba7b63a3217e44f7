"""Times train_parallel.py's processes against `caffe train` with as many threads."""

import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import lmdb
import numpy as np
from google.protobuf import text_format

from data_prep import images, lmdb_io
from data_prep.common import text_table
from data_prep.common.cores import cores_of_process
from data_prep.common.errors import UserError
from tools import caffe_log, solver_net
from tools.training_net import training_net

from . import peers
from .timing import add_runs, positive

ROOT = Path(__file__).resolve().parents[2]
SOLVER = "prototxt/cards_squeezenet_ours_solver.prototxt"
SIDE = 256  # pixels, of the stored images
RECORDS = 64
WARM_UP = 2  # iterations of each run that are not counted
TIME = re.compile(r"\b(\d\d):(\d\d):(\d\d\.\d+)\b")
DAY = 24 * 60 * 60


def run(options):
    """Time the iterations of trainings with the same total batch, in turn.

    One is `caffe train` with N threads, the other tools/train_parallel.py with N processes of one
    thread, each with an N-th of the batch. Both read JPEG images of noise, and compute, average and
    apply gradients; times are those between the lines of Caffe's log. `speed` is the first's time
    divided by the second's: the median over the runs, with the smallest and the largest. Memory is
    the peak of one process.

    example: tools/bench.py parallel --processes 2 --batch 16,32,64
    """
    if uneven := [batch for batch in options.batch if batch % options.processes]:
        raise UserError(f"--batch {uneven[0]} can't be divided among {options.processes} processes")
    options.ours = peers.prefix_of_ours(options.ours)
    print(
        f"{options.solver}: medians of {options.iterations} iterations, {options.runs} runs; "
        f"{cores_of_process()} cores"
    )
    lines = [("batch", "", "ms", "images/s", "MB", "speed")]
    with tempfile.TemporaryDirectory(prefix="bench_parallel.") as folder:
        folder = Path(folder)
        solver = solver_net.read_solver(options.solver)
        _write_records(folder, solver)
        for batch in options.batch:
            lines += _rows(options, folder, solver, batch)
    print("\n".join(text_table.aligned(lines, right={0, 2, 3, 4})))


def _rows(options, folder, solver, batch):
    """The two rows of one total batch."""
    count = options.processes
    whole = _write_solver(folder, solver, batch, options)
    part = _write_solver(folder, solver, batch // count, options)
    ways = {
        f"caffe train, {count} threads": (
            [options.ours / "bin/caffe", "train", "-solver", whole],
            count,
        ),
        f"train_parallel.py, {count} processes": (
            [sys.executable, ROOT / "tools/train_parallel.py", "--solver", part]
            + ["--processes", count],
            1,
        ),
    }
    found = {name: [] for name in ways}
    for _ in range(options.runs):
        for name, (command, threads) in ways.items():
            found[name].append(_train(command, threads, options))
    ratios = [one[0] / other[0] for one, other in zip(*found.values())]
    speeds = (
        "",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
    )
    for (name, runs), speed in zip(found.items(), speeds):
        seconds = statistics.median(run[0] for run in runs)
        memory = max(run[1] for run in runs)
        yield (
            str(batch),
            name,
            f"{1e3 * seconds:.0f}",
            f"{batch / seconds:.1f}",
            f"{memory >> 20}",
            speed,
        )


def _train(command, threads, options):
    """(median seconds of an iteration, bytes of the largest process) of one training."""
    first = [options.ours / "bin", Path(sys.executable).parent, os.environ.get("PATH", "")]
    environment = os.environ | {
        "PATH": os.pathsep.join(map(str, first)),
        "PYTHONPATH": str(options.ours / "python"),
        "OMP_NUM_THREADS": str(threads),
        "GLOG_logtostderr": "1",
        "GLOG_minloglevel": "0",
    }
    environment.pop("OPENBLAS_NUM_THREADS", None)  # OMP_NUM_THREADS holds for both
    process = subprocess.Popen(
        [*map(str, command)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    log = process.stdout.read()
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"{Path(command[0]).name} failed: {log.strip().splitlines()[-1]}")
    return statistics.median(_iterations(log)[WARM_UP:]), 1024 * usage.ru_maxrss


def _iterations(log):
    """Seconds between the lines of a log that report iterations."""
    times = []
    for line in log.splitlines():
        clock = TIME.search(line)
        if clock and caffe_log.LOSS.search(line):
            hours, minutes, seconds = map(float, clock.groups())
            times.append(60 * (60 * hours + minutes) + seconds)
    return [(after - before) % DAY for before, after in zip(times, times[1:])]


def _write_records(folder, solver):
    """LMDBs of JPEG images of noise at several scales, and of their labels."""
    _, tree = training_net(solver, 1)
    rng = np.random.default_rng(0)
    labels = tree[rng.integers(len(tree), size=RECORDS)]
    pictures = [_picture(rng) for _ in range(RECORDS)]
    for top, datums in (
        (
            "data",
            (lmdb_io.image_datum(data, None, "jpg", row[0]) for data, row in zip(pictures, labels)),
        ),
        ("label", map(lmdb_io.label_datum, labels)),
    ):
        with lmdb.open(str(folder / top), map_size=1 << 30) as env, env.begin(write=True) as out:
            for number, datum in enumerate(datums):
                out.put(f"{number:08d}".encode(), datum)


def _picture(rng):
    image = sum(
        np.kron(rng.normal(0, 30, (side, side, 3)), np.ones((SIDE // side, SIDE // side, 1)))
        for side in (4, 16, 64)
    )
    return images.encode(np.clip(128 + image, 0, 255).astype(np.uint8), "jpg")


def _write_solver(folder, solver, batch, options):
    """Path of a copy that trains on these records and writes nothing."""
    net = solver_net.read_net(solver)
    for layer in net.layer:
        if layer.type == "Data":
            layer.data_param.source = str(folder / layer.top[0])
            layer.data_param.backend = layer.data_param.LMDB
            layer.data_param.batch_size = batch
    path = folder / f"net_{batch}.prototxt"
    path.write_text(text_format.MessageToString(net), encoding="utf-8")
    own = type(solver)()
    own.CopyFrom(solver)
    for name in ("test_iter", "test_interval", "test_state", "test_initialization", "snapshot"):
        own.ClearField(name)
    own.net, own.snapshot_prefix, own.snapshot_after_train = str(path), str(folder / "model"), False
    own.display, own.average_loss = 1, 1
    own.max_iter = options.iterations + WARM_UP + 1  # a time is that between two
    path = folder / f"solver_{batch}.prototxt"
    path.write_text(text_format.MessageToString(own), encoding="utf-8")
    return path


def _batches(text):
    return tuple(map(positive, text.split(",")))


def add_options(parser):
    add_runs(parser, 3)
    parser.add_argument("--solver", default=SOLVER, help="(default: %(default)s)")
    peers.add_ours(parser)
    parser.add_argument(
        "--processes",
        type=positive,
        metavar="N",
        default=cores_of_process(),
        help="processes, and threads of caffe train (default: number of cores, %(default)s)",
    )
    parser.add_argument(
        "--batch",
        type=_batches,
        metavar="N[,N]",
        default=(16, 32, 64),
        help="images of an iteration, in all (default: 16,32,64)",
    )
    parser.add_argument(
        "--iterations",
        type=positive,
        metavar="N",
        default=8,
        help="of each run that are counted (default: %(default)s)",
    )
