"""Runs short trainings on a small LMDB of noise, to compare the curves of different commands."""

import os
import subprocess
import sys
from pathlib import Path

import lmdb
import numpy as np
from google.protobuf import text_format

from tools import caffe_log, solver_net
from tools.nets import rules
from tools.training_net import even_tree

from .nets import without_dropout

RECORDS, BATCH = 64, 8
RATE = 1e-3


def write_data(folder, side, sizes, seed=0):
    """LMDBs images and labels of RECORDS images of noise, raw pixels.

    sizes: classes per level, fine to coarse.
    """
    from tools.pycaffe import caffe_pb2

    rng = np.random.default_rng(seed)
    levels = even_tree(sizes)[rng.integers(sizes[0], size=RECORDS)]
    datums = {
        "images": lambda: caffe_pb2.Datum(
            channels=3, height=side, width=side, data=rng.bytes(3 * side * side)
        ),
        "labels": lambda: caffe_pb2.Datum(
            channels=len(sizes), height=1, width=1, float_data=levels[record]
        ),
    }
    for name, make in datums.items():
        with lmdb.open(f"{folder}/{name}", map_size=1 << 28) as env, env.begin(write=True) as txn:
            for record in range(RECORDS):
                txn.put(b"%08d" % record, make().SerializeToString())


def write_solver(folder, original, iterations):
    """Write a solver for the net of the solver file `original` and write_data's data in `folder`.

    Without dropout, mirroring and tests, so that training is deterministic. Returns its path.
    """
    from tools.pycaffe import caffe, caffe_pb2

    source = solver_net.read_solver(original)
    net = without_dropout(
        rules.select(solver_net.read_net(source), caffe.TRAIN, source.train_state.stage)
    )
    sizes = {
        layer.name: layer.inner_product_param.num_output
        for layer in net.layer
        if layer.type == "InnerProduct" and layer.name.endswith(("_fine", "_coarse"))
    }
    side = 0  # of the images; the layer of the labels names none
    for layer in net.layer:
        del layer.include[:]  # the stages have been applied
        if layer.type == "Data":
            kind = "images" if layer.top[0] == "data" else "labels"
            layer.data_param.source = f"{folder}/{kind}"
            layer.data_param.batch_size = BATCH
            layer.transform_param.mirror = False
            side = layer.transform_param.crop_size or side
    write_data(folder, side, list(sizes.values()))
    (folder / "net.prototxt").write_text(text_format.MessageToString(net))
    solver = caffe_pb2.SolverParameter(
        net=f"{folder}/net.prototxt",
        base_lr=RATE,
        momentum=0.9,
        lr_policy="fixed",
        display=1,
        max_iter=iterations,
        random_seed=1,
        snapshot_prefix=f"{folder}/model",
        snapshot_after_train=False,
    )
    path = folder / "solver.prototxt"
    path.write_text(text_format.MessageToString(solver))
    return path


def caffe_train(solver, gpu):
    """The losses of `caffe train`, one per iteration."""
    return _losses(
        ["caffe", "train", "-solver", str(solver), *(["-gpu", "0"] if gpu else [])], solver
    )


def parallel_train(solver, gpu):
    """The losses of tools/train_parallel.py with one rank."""
    return _losses(
        [
            sys.executable,
            "tools/train_parallel.py",
            "--solver",
            str(solver),
            *(["--gpus", "0"] if gpu else ["--processes", "1"]),
        ],
        solver,
    )


def _losses(command, solver):
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        env=os.environ | {"GLOG_minloglevel": "0"},
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-3:]
        raise RuntimeError(
            f"{Path(command[0]).name} ended with status {done.returncode}: " + " / ".join(last)
        )
    log = Path(solver).parent / "train.log"
    log.write_text(done.stderr, encoding="utf-8")
    return caffe_log.read(log).series["train", caffe_log.TOTAL][1]


def difference(one, two):
    """The largest |one - two| / |one| over the iterations."""
    if len(one) != len(two):
        raise RuntimeError(f"the logs have {len(one)} and {len(two)} iterations")
    return float(np.max(np.abs(one - two) / np.abs(one)))
