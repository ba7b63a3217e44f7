#!/usr/bin/env python3
"""The whole method on playing cards: data, plain softmax beside OURS, accuracies, pictures.

Prints every command before it runs it, as one would type it. A finished training is not repeated
unless its solver or its data have changed since.

Example:
    make demo
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

from data_prep.common.command import command
from data_prep.common.errors import UserError
from tools import caffe_log, solver_net

NET, VARIANTS = "cards_squeezenet", ("sm", "ours")
DATA = Path("data/cards")
WEIGHTS = Path("weights/squeezenet_v1.1.caffemodel")
CURVES, SAMPLES = f"results/{NET}_curves.png", f"results/{NET}_predictions.png"


def show(arguments, redirection=""):
    print(f"\n$ {shlex.join(map(str, arguments))}{redirection}", flush=True)


def run(*arguments):
    """Run one command of this repository; its own message explains a failure."""
    show(arguments)
    status = subprocess.run([sys.executable, *map(str, arguments)]).returncode
    if status:
        raise UserError(
            f"{arguments[0]} ended with status {status}; `make demo` goes on from there"
        )


def train(variant):
    """Train one variant from the ImageNet weights. Returns (log, final weights)."""
    path = Path(f"prototxt/{NET}_{variant}_solver.prototxt")
    solver = solver_net.read_solver(path)
    log = Path(f"snapshots/{NET}_{variant}/train.log")
    final = Path(f"{solver.snapshot_prefix}_iter_{solver.max_iter}.caffemodel")
    arguments = ["caffe", "train", "-solver", path, "-weights", WEIGHTS]
    inputs = [path, Path(solver.net), WEIGHTS, DATA / "manifest.json"]
    if final.exists() and all(final.stat().st_mtime > file.stat().st_mtime for file in inputs):
        print(f"\n{final} is there: not trained again")
        return log, final
    show(arguments, f" 2> {shlex.quote(str(log))}")
    log.parent.mkdir(parents=True, exist_ok=True)
    # Caffe's own log level here: its report of the iterations is what the pictures are made from.
    environment = {**os.environ, "GLOG_minloglevel": "0"}
    with (
        open(log, "w", encoding="utf-8") as file,
        tqdm(total=solver.max_iter, unit="it", desc=f"{NET}_{variant}", mininterval=1) as bar,
    ):
        process = subprocess.Popen(
            list(map(str, arguments)), stderr=subprocess.PIPE, text=True, env=environment
        )
        try:
            for line in process.stderr:
                file.write(line)
                file.flush()
                if found := caffe_log.LOSS.search(line):
                    bar.set_postfix_str(f"loss {float(found[2]):.3f}", refresh=False)
                    bar.update(int(found[1]) - bar.n)
            status = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
        if status == 0:
            bar.update(solver.max_iter - bar.n)
    if status:
        raise UserError(f"caffe train ended with status {status}; the end of {log} says why")
    return log, final


def main():
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    start = time.monotonic()
    run("data_prep/build_lmdb.py", "cards")
    run("tools/convert_squeezenet.py", "--out", WEIGHTS)
    logs, results = [], []
    for variant in VARIANTS:
        log, weights = train(variant)
        logs.append(log)
        results.append(f"results/{NET}_{variant}.json")
        run(
            "tools/evaluate.py",
            "--solver",
            f"prototxt/{NET}_{variant}_solver.prototxt",
            "--weights",
            weights,
            "--out",
            results[-1],
        )
    run("tools/plot_log.py", *logs, "--out", CURVES)
    run("tools/draw_predictions.py", results[-1], "--out", SAMPLES)
    run("tools/compare.py", *results)
    print(
        f"\nloss curves        {CURVES}\nsample predictions {SAMPLES}"
        f"\ndone in {(time.monotonic() - start) / 60:.1f} minutes"
    )


if __name__ == "__main__":
    command(main)
