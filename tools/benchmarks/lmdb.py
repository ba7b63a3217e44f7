"""Images per second of build_lmdb.py, compared with Caffe's convert_imageset and a bare loop."""

import csv
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from data_prep.common.cores import cores_of_process
from data_prep.common.errors import UserError
from data_prep.opencv import cv2
from tools import caffe_program

from .timing import add_runs, alternating_medians, positive

ROOT = Path(__file__).resolve().parents[2]
SIZE = 256  # pixels, of the stored images
MADE = (375, 500)  # height and width of generated photographs, as most of CUB-200-2011's
CLASSES = 10
ENDINGS = (".jpg", ".jpeg")


def add_options(parser):
    parser.add_argument(
        "--photos",
        type=Path,
        metavar="FOLDER",
        help="folder with JPEG files at any depth (default: generated photographs)",
    )
    parser.add_argument(
        "--count",
        type=positive,
        default=1500,
        help="number of photographs, generated or taken from the folder (default: %(default)s)",
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        default=cores_of_process(),
        help="threads of build_lmdb.py and of the bare loop (default: number of "
        "available processors, %(default)s)",
    )
    add_runs(parser, 3)


def run(options):
    """Time build_lmdb.py, convert_imageset and a bare loop, in turn, on the same photographs.

    Each squeezes to 256 x 256, encodes as JPEG of quality 95, and is timed from start to end.
    build_lmdb.py also writes labels, mean, tables and a picture. The bare loop reads, decodes,
    resizes and encodes in threads, and discards the results.
    """
    with tempfile.TemporaryDirectory(prefix="bench_lmdb.") as folder:
        folder = Path(folder)
        made = folder / "made"
        if options.photos is None:
            options.photos = _make(folder / "photos", options.count)
        photos = _list(options.photos, options.count)
        build = Build(options.photos, photos, folder, made, options.jobs)
        convert = _converter(options.photos, photos, folder, made)
        bare_loop = _bare([path.resolve() for path in photos], folder, options.jobs)
        seconds = alternating_medians(
            [build, convert, bare_loop],
            options.runs,
            lambda: shutil.rmtree(made, ignore_errors=True),
        )
    ours, caffe, bare = (len(photos) / value for value in seconds)
    print(
        f"{len(photos)} photographs to {SIZE} x {SIZE} JPEG; {options.jobs} threads; medians of "
        f"{options.runs} runs"
    )
    print(f"{'':18} images/s  ratio of build_lmdb.py to it")
    print(f"{'build_lmdb.py':18} {ours:8.1f}         at most {build.memory >> 20} MB of memory")
    print(f"{'convert_imageset':18} {caffe:8.1f} {ours / caffe:6.2f}")
    print(f"{'bare loop':18} {bare:8.1f} {ours / bare:6.2f}")


def _make(folder, count):
    """Write JPEG files of random shapes at several scales, with the noise of a camera."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        image = sum(
            cv2.resize(
                rng.normal(0, 30, (side, side, 3)).astype(np.float32),
                MADE[::-1],
                interpolation=cv2.INTER_CUBIC,
            )
            for side in (4, 16, 64)
        )
        image += rng.normal(128, 5, (*MADE, 1)).astype(np.float32)
        cv2.imwrite(str(folder / f"{number:05d}.jpg"), np.clip(image, 0, 255).astype(np.uint8))
    return folder


def _list(root, count):
    """The first photographs below a folder, shuffled, so that read-ahead favors none of them."""
    if not root.is_dir():
        raise UserError(f"--photos {root}: not a folder")
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in ENDINGS)[:count]
    if len(found) < 2 * CLASSES:
        raise UserError(f"{root} has {len(found)} JPEG files: at least {2 * CLASSES} are needed")
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


class Build:
    """Runs build_lmdb.py table when called. memory: peak memory of all calls, bytes."""

    def __init__(self, root, photos, folder, made, jobs):
        table = folder / "photos.csv"
        with open(table, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "class", "split"))
            for number, path in enumerate(photos):
                split = "test" if number < CLASSES else "train"
                writer.writerow((path.relative_to(root), f"class {number % CLASSES}", split))
        self.memory = 0
        self._command = [
            sys.executable,
            ROOT / "data_prep/build_lmdb.py",
            "table",
            "--table",
            table,
            "--root",
            root,
            "--out",
            made,
            "--size",
            SIZE,
            "--jobs",
            jobs,
        ]

    def __call__(self):
        process = subprocess.Popen(
            [*map(str, self._command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        message = process.stderr.read().decode(errors="replace")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise UserError(f"build_lmdb.py failed: {message.strip().splitlines()[-1]}")
        self.memory = max(self.memory, 1024 * usage.ru_maxrss)


def _converter(root, photos, folder, made):
    """A function that runs the convert_imageset of the Caffe that `caffe` belongs to."""
    caffe = Path(caffe_program.path()).resolve()
    command = caffe.with_name("convert_imageset")
    if not command.is_file():
        raise UserError(
            f"convert_imageset, one of Caffe's tools, is not beside {caffe}: run `make setup`"
        )
    listed = folder / "photos.txt"
    listed.write_text(
        "".join(
            f"{path.relative_to(root)} {number % CLASSES}\n" for number, path in enumerate(photos)
        ),
        encoding="utf-8",
    )

    def convert():
        done = subprocess.run(
            [
                command,
                "--encoded",
                "--encode_type=jpg",
                f"--resize_width={SIZE}",
                f"--resize_height={SIZE}",
                f"{root}/",
                listed,
                made,
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise UserError(f"convert_imageset failed: {done.stderr.strip().splitlines()[-1]}")

    return convert


def _bare(photos, folder, jobs):
    """A function that runs bare_loop.py."""
    listed = folder / "bare.txt"
    listed.write_text("".join(f"{path}\n" for path in photos), encoding="utf-8")
    command = [sys.executable, "-m", "tools.benchmarks.bare_loop", listed, SIZE, jobs]
    return lambda: subprocess.run([*map(str, command)], cwd=ROOT, check=True)
