#!/usr/bin/env python3
"""Follow the log of a running `caffe train`: speed, time left, losses, accuracies.

A line is printed when something has changed, until the training ends. The log is what
`caffe train ... 2>&1 | tee LOG` or tools/study.py (snapshots/<cell>/train.log) writes. With
--tensorboard, TensorBoard shows the curves while they grow: `tensorboard --logdir DIR`.

Example:
    tools/watch_log.py train.log --solver prototxt/cards_squeezenet_ours_solver.prototxt
"""

import argparse
import time
from pathlib import Path

from data_prep.common import files
from data_prep.common.arguments import within
from data_prep.common.command import command
from tools import event_files, live, solver_net


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path, help="output of `caffe train`")
    parser.add_argument(
        "--solver", type=Path, help="solver of the training: tells the time left, by its max_iter"
    )
    parser.add_argument(
        "--tensorboard", type=Path, metavar="DIR", help="also write event files into DIR/NAME"
    )
    parser.add_argument(
        "--every",
        type=within(float, 0.1, 3600),
        default=5.0,
        metavar="SECONDS",
        help="between two looks (default: %(default)s)",
    )
    parser.add_argument("--once", action="store_true", help="say how far it is, and end")
    args = parser.parse_args()
    files.existing(args.log, "the log")
    max_iter = solver_net.read_solver(args.solver).max_iter if args.solver else None
    follower = live.Follower(args.log, max_iter)
    events = event_files.EventFiles(args.tensorboard) if args.tensorboard else None
    said = None
    while True:
        if follower.look() and events:
            events.update(args.log.stem, follower.log)
        if follower.text() != said:
            said = follower.text()
            print(said, flush=True)
        if args.once or follower.done or follower.reader.stopped:
            break
        time.sleep(args.every)
    if follower.reader.stopped:
        print(f"Caffe stopped: {follower.reader.stopped}")
    if events:
        events.close()
        print(f"wrote event files into {args.tensorboard}; tensorboard --logdir shows them")


if __name__ == "__main__":
    command(main)
