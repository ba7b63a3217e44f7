"""A training that is killed and resumed is, bit for bit, the one that was not disturbed (CPU)."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import caffe
import cv2
import numpy as np
import patience
import pytest
import test_train_parallel as two_ranks
from caffe.proto import caffe_pb2
from commands import ROOT
from google.protobuf import text_format

records = two_ranks.data  # the fixture: LMDBs of noise

SNAPSHOT = 3
ENDLESS = 10**6
AFTER = 10  # iterations that are compared behind the snapshot


def write(folder, records, stages, iterations, iter_size=1, memory=0, seed=3):
    """The solver of a net with random crops, mirrors and dropout, in train and test net.

    Five images of 54 in a batch, so that epochs end within batches; each test scores ten.
    """
    path = two_ranks.write_solver(
        folder, records, stages, 5, iter_size, iterations, snapshot=SNAPSHOT
    )
    solver = text_format.Parse(path.read_text(), caffe_pb2.SolverParameter())
    solver.display = 1
    solver.random_seed = seed
    path.write_text(text_format.MessageToString(solver))
    net = text_format.Parse((folder / "net.prototxt").read_text(), caffe_pb2.NetParameter())
    layers = list(net.layer)
    del net.layer[:]
    for layer in layers:
        if layer.name == "data":
            layer.transform_param.crop_size = 6
            layer.transform_param.mirror = True
        elif layer.name == "glm":
            parameters = json.loads(layer.python_param.param_str)
            layer.python_param.param_str = json.dumps(parameters | {"memory": memory})
        net.layer.add().CopyFrom(layer)
        if layer.name == "relu":
            net.layer.add(name="drop", type="Dropout", bottom=["feature"], top=["feature"])
    (folder / "net.prototxt").write_text(text_format.MessageToString(net))
    return path


def command(solver, processes, snapshot=None):
    """How a user trains; processes: None for `caffe train`."""
    if processes is None:
        words = [shutil.which("caffe"), "train", "-solver", solver]
        return words + (["-snapshot", snapshot] if snapshot else [])
    words = [sys.executable, "tools/train_parallel.py", "--solver", solver]
    words += ["--processes", str(processes)]
    return words + (["--snapshot", snapshot] if snapshot else [])


def environment():
    return os.environ | {"GLOG_minloglevel": "0"}


def train(solver, processes=None, snapshot=None):
    """Train to the end; what it printed."""
    done = subprocess.run(
        command(solver, processes, snapshot),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def stop_at(solver, iteration, processes, number):
    """Start a training and send it, or its first rank, a signal when it reports an iteration; the
    state of the newest snapshot that it left."""
    process = subprocess.Popen(
        command(solver, processes),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stderr:
            if f"Iteration {iteration} (" in line:
                break
        os.kill(process.pid if processes is None else two_ranks.ranks(solver)[0], number)
        process.communicate(timeout=patience.SECONDS)
    finally:
        process.kill()
    expected = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 0}[number]
    assert process.returncode == (expected if processes is None else 1)
    return newest_state(solver.parent)


def newest_state(folder):
    """The newest solverstate that was written to its end, whose model then was too."""
    for path in sorted(folder.glob("*.solverstate"), key=iteration_of, reverse=True):
        try:
            if caffe_pb2.SolverState.FromString(path.read_bytes()).iter == iteration_of(path):
                return path
        except Exception:  # the kill cut it: protobuf's DecodeError
            continue
    raise AssertionError(f"no snapshot in {folder}")


def iteration_of(path):
    return int(path.stem.rpartition("_")[2])


def reports(text, first):
    """What a log reports from an iteration on, without its times.

    And without the solver's own `loss`: Caffe updates it by differences (Solver::
    UpdateSmoothedLoss), so that its last digit depends on where a run began.
    """
    lines, iteration = [], 0
    for line in text.splitlines():
        line = line.partition("] ")[2]
        words = line.split()
        if words[:1] == ["Iteration"]:
            iteration = int(words[1].rstrip(","))
            line = re.sub(r" \(.* iters\)|, loss = .*", "", line)
        elif words[1:3] != ["net", "output"]:
            continue
        if iteration >= first:
            lines.append(line)
    return lines


def final(solver, iteration):
    """(the bytes of the model, the solver's state) of the last snapshot."""
    stem = f"{solver.parent}/model_iter_{iteration}"
    state = caffe_pb2.SolverState.FromString(Path(stem + ".solverstate").read_bytes())
    state.ClearField("learned_net")  # a path
    return Path(stem + ".caffemodel").read_bytes(), state


CASES = {  # stages, iter_size, processes of train_parallel.py
    "sm": ([], 1, None),
    "ours": (["csm", "skip", "glm"], 1, None),
    "center": (["center"], 1, None),
    "iter_size": (["csm", "glm", "center"], 2, None),
    "two_ranks": (["csm", "skip", "glm", "center"], 2, 2),
}


@pytest.mark.parametrize(
    "case, number", [*((case, signal.SIGKILL) for case in CASES), ("sm", signal.SIGINT)]
)
def test_killed_and_resumed_is_undisturbed(tmp_path, records, case, number):
    stages, iter_size, processes = CASES[case]
    solver = write(tmp_path / "killed", records, stages, ENDLESS, iter_size)
    state = stop_at(solver, random.randint(2 * SNAPSHOT, 30), processes, number)
    begin = iteration_of(state)
    solver = write(tmp_path / "killed", records, stages, begin + AFTER, iter_size)
    resumed = train(solver, processes, state)
    other = write(tmp_path / "undisturbed", records, stages, begin + AFTER, iter_size)
    undisturbed = train(other, processes)
    # At each iteration a batch's losses, and at some a part of the test data.
    assert reports(resumed, begin) == reports(undisturbed, begin), begin
    assert sum("Testing net" in line for line in reports(resumed, begin)) >= 2
    assert final(solver, begin + AFTER) == final(other, begin + AFTER), begin


@pytest.mark.parametrize("seed, begins_again", [(3, False), (-1, True)])
def test_a_training_without_a_seed_begins_at_the_first_record(
    tmp_path, records, seed, begins_again
):
    """As stock Caffe does; the comparison in this file distinguishes the two."""
    solver = write(tmp_path, records, [], 6, seed=seed)
    train(solver)
    labels = []
    for state in (None, f"{tmp_path}/model_iter_3.solverstate"):
        training = caffe.get_solver(str(solver))
        if state:
            training.restore(state)
        training.step(1)
        labels.append(training.net.blobs["label_1"].data.ravel().tolist())
    assert (labels[0] == labels[1]) is begins_again


def test_the_memory_says_that_it_starts_empty(tmp_path, records):
    solver = write(tmp_path, records, ["glm"], 6, memory=12)
    says = "GLMLossLayer: a snapshot does not hold the memory of 12 samples, which starts empty"
    assert says not in train(solver)
    resumed = train(solver, snapshot=f"{tmp_path}/model_iter_3.solverstate")
    assert resumed.count(says) == 1


# --- Every layer that reads or draws data, within one process


def pictures(folder):
    """Paths of seven 8 x 8 images of noise."""
    rng = np.random.default_rng(1)
    paths = [folder / f"{i}.png" for i in range(7)]
    for path in paths:
        cv2.imwrite(str(path), rng.integers(256, size=(8, 8, 3), dtype=np.uint8))
    return paths


def image_data(folder, records, **options):
    listed = folder / "list.txt"
    listed.write_text("".join(f"{path} {i}\n" for i, path in enumerate(pictures(folder))))
    return dict(
        type="ImageData",
        top=["data", "label"],
        image_data_param=dict(source=str(listed), batch_size=3, **options),
        transform_param=dict(crop_size=5, mirror=True),
    )


def window_data(folder, records):
    lines = []
    for i, path in enumerate(pictures(folder)):
        boxes = ["1 0.9 0 0 5 6", "2 0.8 2 1 7 7", "0 0.1 1 1 6 6", "0 0 3 0 7 4"]
        lines += [f"# {i}", path, 3, 8, 8, len(boxes), *boxes]
    listed = folder / "windows.txt"
    listed.write_text("".join(f"{line}\n" for line in lines))
    return dict(
        type="WindowData",
        top=["data", "label"],
        window_data_param=dict(source=str(listed), batch_size=4, fg_fraction=0.5),
        transform_param=dict(crop_size=6, mirror=True),
    )


def hdf5_data(folder, records, shuffle, files=3):
    """Files of different lengths, written by Caffe itself: each row is its number."""
    listed, first = [], 0
    for i, rows in enumerate([5, 2, 4][:files]):
        listed.append(folder / f"{i}.h5")
        bottoms = "".join(
            f'layer {{ name: "{name}" type: "Input" top: "{name}" '
            f"input_param {{ shape {{ dim: {rows} dim: 1 }} }} }}\n"
            for name in ("data", "label")
        )
        path = folder / "rows.prototxt"
        path.write_text(
            f'{bottoms} layer {{ name: "rows" type: "HDF5Output" bottom: "data" bottom: "label" '
            f'hdf5_output_param {{ file_name: "{listed[-1]}" }} }}'
        )
        net = caffe.Net(str(path), caffe.TEST)
        for name in ("data", "label"):
            net.blobs[name].data[:, 0] = np.arange(first, first + rows)
        net.forward()
        del net  # it closes the file
        first += rows
    (folder / "files.txt").write_text("".join(f"{path}\n" for path in listed))
    return dict(
        type="HDF5Data",
        top=["data", "label"],
        hdf5_data_param=dict(source=f"{folder}/files.txt", batch_size=3, shuffle=shuffle),
    )


def lmdb_data(folder, records, **transform):
    return dict(
        type="Data",
        top=["data", "label"],
        data_param=dict(
            source=f"{records}/train_images", batch_size=7, backend=caffe_pb2.DataParameter.LMDB
        ),
        transform_param=transform,
    )


def dummy_data(folder, records):
    return dict(
        type="DummyData",
        top=["data"],
        dummy_data_param=dict(shape=[dict(dim=[2, 3])], data_filler=[dict(type="gaussian")]),
    )


LAYERS = {
    "Data": (lmdb_data, {}),
    "Data, crop and mirror": (lmdb_data, dict(crop_size=4, mirror=True)),
    "ImageData": (image_data, {}),
    "ImageData, shuffled": (image_data, dict(shuffle=True)),
    "ImageData, skipping": (image_data, dict(rand_skip=5)),
    "HDF5Data": (hdf5_data, dict(shuffle=False)),
    "HDF5Data, shuffled": (hdf5_data, dict(shuffle=True)),
    "HDF5Data, one file": (hdf5_data, dict(shuffle=True, files=1)),
    "WindowData": (window_data, {}),
    "DummyData": (dummy_data, {}),
}


def solver_of(folder, layer, test_initialization=True):
    net = caffe_pb2.NetParameter(name="reads")
    net.layer.add(name="data", **layer)
    net.layer.add(name="unused", type="Silence", bottom=layer["top"])
    (folder / "reads.prototxt").write_text(str(net))
    path = folder / "reads_solver.prototxt"
    path.write_text(
        f'net: "{folder}/reads.prototxt" base_lr: 0 lr_policy: "fixed" random_seed: 5 iter_size: 2 '
        f"test_iter: 3 test_interval: 2 test_initialization: {str(test_initialization).lower()} "
        f'snapshot_prefix: "{folder}/reads" max_iter: 100'
    )
    return caffe.get_solver(str(path))


def batches(solver, iterations):
    """The train and test net's last batch at each iteration."""
    seen = []
    for _ in range(iterations):
        solver.step(1)
        for net in (solver.net, solver.test_nets[0]):
            seen.append({name: blob.data.copy() for name, blob in net.blobs.items()})
    return seen


def same(one, other):
    return all(
        np.array_equal(values, theirs[name])
        for mine, theirs in zip(one, other, strict=True)
        for name, values in mine.items()
    )


@pytest.fixture
def dealt():
    yield lambda count, rank: (caffe.set_solver_count(count), caffe.set_solver_rank(rank))
    caffe.set_solver_count(1)
    caffe.set_solver_rank(0)


@pytest.mark.parametrize("test_initialization", [True, False])
@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_goes_on_where_it_was(tmp_path, records, layer, test_initialization):
    kind, options = LAYERS[layer]
    layer = kind(tmp_path, records, **options)
    solver = solver_of(tmp_path, layer, test_initialization)
    batches(solver, 9)
    solver.snapshot()
    expected = batches(solver, 12)
    assert not same(expected[:-4], expected[4:])
    resumed = solver_of(tmp_path, layer, test_initialization)
    for training in (resumed, solver):  # the second has to go back
        training.restore(f"{tmp_path}/reads_iter_9.solverstate")
        assert same(batches(training, 12)[2:], expected[2:])  # no test at iteration 9
        assert training.iter == 21


@pytest.mark.parametrize("layer", ["Data", "HDF5Data, shuffled"])
def test_a_rank_goes_on_with_its_own_records(tmp_path, records, dealt, layer):
    kind, options = LAYERS[layer]
    layer = kind(tmp_path, records, **options)
    for rank in (0, 2):  # the first saves, for all
        dealt(3, rank)
        solver = solver_of(tmp_path, layer)
        batches(solver, 3)
        if rank == 0:
            solver.snapshot()
        expected = batches(solver, 8)[::2]  # the train net's
        resumed = solver_of(tmp_path, layer)
        resumed.restore(f"{tmp_path}/reads_iter_3.solverstate")
        assert same(batches(resumed, 8)[::2], expected)
