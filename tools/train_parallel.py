#!/usr/bin/env python3
"""Train one net on several GPUs or CPU processes, also with Python layers.

(`caffe train -gpu 0,1` does not support Python layers.) Each process, a rank, trains on its own
share of the records with the batch size of the prototxt, and all ranks apply the mean of their
gradients: N ranks with batch B make the same steps as one process with batch N x B. The metric
losses see the samples of all ranks. Rank 0 prints the output of `caffe train` (for its own
batches), tests and saves; Ctrl-C makes it save and stop. The solver's settings are not changed:
with N ranks an epoch takes 1/N of the iterations.

Data and HDF5Data layers distribute their records among the ranks; all other inputs are read by
every rank. BatchNorm layers average over their own rank's batch.

Across machines, with the same files on all: start it under mpirun, with the GPUs of each machine,
or without for CPUs:
    mpirun -n 4 -ppn 2 -hosts a,b tools/train_parallel.py --solver S --gpus 0,1

Examples:
    tools/train_parallel.py --solver prototxt/cars_alexnet_ours_solver.prototxt \\
        --weights weights/bvlc_alexnet.caffemodel --gpus 0,1
    tools/train_parallel.py --solver prototxt/cards_squeezenet_ours_solver.prototxt --processes 2
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("GLOG_minloglevel", "0")  # Caffe's report of the iterations; read at its load

from data_prep.common.arguments import gpu_numbers
from data_prep.common.command import command
from tools.parallel import launch, rank


def process_count(text):
    if int(text) < 1:
        raise ValueError
    return int(text)


process_count.__name__ = "number of processes"  # argparse's message: "invalid ... value"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--solver", required=True, help="solver prototxt")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--gpus",
        type=gpu_numbers,
        metavar="0,1",
        help="numbers of this machine's GPUs, one process each",
    )
    where.add_argument(
        "--processes",
        type=process_count,
        metavar="N",
        help="number of CPU processes on this machine",
    )
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument(
        "--weights",
        metavar="A[,B]",
        help="caffemodels to start from, as for `caffe train -weights`",
    )
    begin.add_argument("--snapshot", metavar="FILE", help="solverstate to resume from")
    args = parser.parse_args()
    if rank.is_rank():
        rank.run(args)
    elif args.gpus or args.processes:
        launch.run(args, Path(__file__).resolve())
    else:
        parser.error("give --gpus or --processes, or start it under mpirun")


if __name__ == "__main__":
    command(main)
