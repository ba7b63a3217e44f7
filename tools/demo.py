#!/usr/bin/env python3
"""Run the whole method on playing cards: data, plain softmax and OURS, accuracies, pictures, and
at last an exported model that recognizes a card of a deck that it has never seen.

Prints every command before running it, as it can be typed in a shell. A finished training is not
repeated unless its solver or data have changed; an interrupted one resumes from its newest snapshot
and ends with the same weights.

Example:
    make demo
"""

import argparse
import itertools
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from data_prep import lmdb_io
from data_prep.common import files, progress
from data_prep.common.command import command
from data_prep.common.errors import UserError
from data_prep.images import encode
from data_prep.label_tree import Hierarchy
from tools import caffe_log, caffe_program, live, snapshots, solver_net

NET, VARIANTS = "cards_squeezenet", ("sm", "ours")
DATA = Path("data/cards")
WEIGHTS = Path("weights/squeezenet_v1.1.caffemodel")
CURVES, SAMPLES = f"results/{NET}_curves.png", f"results/{NET}_predictions.png"
REPORT = f"results/{NET}_report.html"
MODEL = Path("models/cards")
CARD = Path("results/unseen_card.png")


def show(arguments, redirection=""):
    print(f"\n$ {shlex.join(map(str, arguments))}{redirection}", flush=True)


def run(*arguments):
    """Run one command of this repository; its own message explains a failure."""
    show(arguments)
    status = subprocess.run([sys.executable, *map(str, arguments)]).returncode
    if status:
        raise UserError(f"{arguments[0]} ended with status {status}; `make demo` resumes there")


def keep_log(log):
    """Rename the log of an earlier training, also of a manual one, to train.1.log and so on."""
    if log.exists():
        names = (log.with_suffix(f".{number}.log") for number in itertools.count(1))
        log.rename(next(name for name in names if not name.exists()))


@dataclass(frozen=True)
class Training:
    """One of the demo's trainings, from the ImageNet weights."""

    variant: str
    path: Path  # of the solver
    iterations: int
    log: Path
    final: Path  # its final weights
    inputs: tuple  # paths of its input files
    solver: object  # SolverParameter

    @classmethod
    def of(cls, variant):
        path = Path(f"prototxt/{NET}_{variant}_solver.prototxt")
        solver = solver_net.read_solver(path)
        return cls(
            variant,
            path,
            solver.max_iter,
            Path(f"snapshots/{NET}_{variant}/train.log"),
            Path(f"{solver.snapshot_prefix}_iter_{solver.max_iter}.caffemodel"),
            (path, Path(solver.net), WEIGHTS, DATA / "manifest.json"),
            solver,
        )

    def due(self):
        """Why it has to run, in one clause; None if its final weights are up to date."""
        if reason := snapshots.problem(self.final):
            return reason
        newer = self._newer_than(self.final)
        return f"{newer[0]} is newer than {self.final}" if newer else None

    def snapshot(self):
        """The newest complete Snapshot of an interrupted training; None if it has to start over."""
        if not self.log.exists():  # the curves would begin in the middle
            return None
        for found in snapshots.of_solver(self.solver):
            if found.iteration < self.iterations and not found.problem():
                if not self._newer_than(found.model) and not self._newer_than(found.state):
                    return found
        return None

    def _newer_than(self, made):
        """The inputs that are not older than a file."""
        time_made = made.stat().st_mtime
        return [path for path in self.inputs if path.stat().st_mtime >= time_made]


class Forecast:
    """Estimates the time of `iterations` from the first ones that Caffe reports."""

    def __init__(self, iterations):
        self._iterations, self._first = iterations, None

    def at(self, iteration, seconds):
        """The estimate in words at the second report, otherwise None. seconds: of any clock."""
        if self._first is None:
            self._first = iteration, seconds
            return None
        if not self._iterations:
            return None
        each = (seconds - self._first[1]) / (iteration - self._first[0])
        left, self._iterations = self._iterations - iteration, 0
        return f"{each:.2f} s an iteration: {left * each / 60:.0f} more minutes of training"


def train(training, later):
    """Run `caffe train`, from the newest snapshot of an interrupted run if there is one.

    Estimates the time, including `later` iterations of other trainings.
    """
    resumed = training.snapshot()
    start = ["-snapshot", resumed.state] if resumed else ["-weights", WEIGHTS]
    arguments = ["caffe", "train", "-solver", training.path, *start]
    program = [caffe_program.path(), *arguments[1:]]
    show(arguments, f" 2>{'>' if resumed else ''} {shlex.quote(str(training.log))}")
    training.log.parent.mkdir(parents=True, exist_ok=True)
    if not resumed:
        keep_log(training.log)
    forecast = Forecast(training.iterations + later)
    follower = live.Follower(training.log, training.iterations)
    # Caffe's own log level here: its report of the iterations is what the pictures are made from.
    environment = {**os.environ, "GLOG_minloglevel": "0"}
    name = f"{NET}_{training.variant}"
    with (
        open(training.log, "a", encoding="utf-8") as file,
        progress.bar(name, "iterations", training.iterations) as bar,
    ):
        bar.update(resumed.iteration if resumed else 0)
        process = subprocess.Popen(
            list(map(str, program)), stderr=subprocess.PIPE, text=True, env=environment
        )
        try:
            for line in process.stderr:
                file.write(line)
                file.flush()
                follower.line(line.rstrip("\n"))
                if found := caffe_log.LOSS.search(line):
                    if said := forecast.at(int(found[1]), time.monotonic()):
                        bar.write(said, file=sys.stderr)
                    bar.set_postfix_str(follower.figures(), refresh=False)
                    bar.update(int(found[1]) - bar.n)
            status = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
        if status == 0:
            bar.update(training.iterations - bar.n)
    if status:
        raise UserError(f"caffe train ended with status {status}; see the end of {training.log}")


def write_unseen_card():
    """Write CARD, the first image of the test split, as a file; returns the name of its class."""
    images = DATA / "test_images"
    key, value = next(iter(lmdb_io.items(images)))
    datum = lmdb_io.parse_datum(value, f"record {lmdb_io.key_text(key, images)} of {images}")
    files.write_whole(CARD, encode(lmdb_io.datum_image(datum), "png"))
    return Hierarchy.read(DATA / "hierarchy.tsv").names[0][datum.label]


def main():
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    start = time.monotonic()
    run("data_prep/build_lmdb.py", "cards")
    run("tools/convert_squeezenet.py", "--out", WEIGHTS)
    trainings, results = [Training.of(variant) for variant in VARIANTS], []
    for number, training in enumerate(trainings):
        if reason := training.due():
            print(f"\n{reason}: training")
            later = sum(one.iterations for one in trainings[number + 1 :] if one.due())
            train(training, later)
        else:
            print(f"\n{training.final} is up to date: not trained again")
        results.append(f"results/{NET}_{training.variant}.json")
        run(
            *("tools/evaluate.py", "--solver", training.path),
            *("--weights", training.final, "--out", results[-1], "--features"),
        )
    logs = [training.log for training in trainings]
    run("tools/plot_log.py", *logs, "--out", CURVES)
    run("tools/draw_predictions.py", results[-1], "--out", SAMPLES)
    run("tools/report.py", *results, "--log", *logs, "--out", REPORT)
    run("tools/compare.py", *results)
    ours = trainings[-1]
    run(*("tools/export.py", "--solver", ours.path, "--weights", ours.final, "--out", MODEL))
    print(f"\n{CARD} shows {write_unseen_card()}, of a deck that is not in training")
    run("tools/predict.py", "--model", MODEL, CARD)
    print(
        f"\nloss curves        {CURVES}\nsample predictions {SAMPLES}"
        f"\nreport             {REPORT}"
        f"\nexported model     {MODEL}/"
        f"\na page that answers: tools/serve.py --model {MODEL}"
        f"\ndone in {(time.monotonic() - start) / 60:.1f} minutes"
    )


if __name__ == "__main__":
    command(main)
