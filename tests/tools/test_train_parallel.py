"""tools/train_parallel.py on CPUs: N ranks with batch B make the steps of one process with N x B.

What GPUs add, NCCL in place of MPI, takes GPUs: tools/gpu/check.py.
"""

import os
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import caffe
import numpy as np
import patience
import pytest
import tiny
from caffe.proto import caffe_pb2
from commands import ROOT, run
from google.protobuf import text_format

from data_prep.common.errors import UserError
from tools import caffe_log, train_parallel
from tools.nets import head, losses, tables
from tools.parallel import rank, transports

BATCH = 6  # of one process; the ranks' are BATCH / 2
ITERATIONS = 12
# So low that the trainings here do not magnify differences of rounding.
WEIGHTS = dict(contrastive=0.05, triplet=0.1, center=0.003, minmax=0.01)
GLM = dict(margins=[0.5] * 3, normalize=True, memory=12)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """LMDBs of 54 images of noise, of 6 classes: no two alike, or which of two equal distances
    counts would depend on the order of the samples."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        classes = rng.permutation(np.repeat(np.arange(6), 9))
        tiny.write_lmdb(
            folder / f"{split}_images",
            (
                caffe_pb2.Datum(channels=3, height=8, width=8, data=rng.bytes(192), label=label)
                for label in classes
            ),
        )
        tiny.write_lmdb(
            folder / f"{split}_labels",
            (
                caffe_pb2.Datum(
                    channels=3, height=1, width=1, float_data=tiny.LABELS[label], label=label
                )
                for label in classes
            ),
        )
    return folder


def write_solver(folder, data, stages, batch, iter_size=1, iterations=ITERATIONS, **fields):
    """A net with the repository's head over a small trained layer, and its solver."""
    folder.mkdir(exist_ok=True)
    net = caffe_pb2.NetParameter(name="tiny")
    for phase, split in ((caffe.TRAIN, "train"), (caffe.TEST, "test")):
        for top, kind in (("data", "images"), ("label", "labels")):
            net.layer.add(
                name=top,
                type="Data",
                top=[top],
                include=[dict(phase=phase)],
                transform_param=dict(scale=1 / 255 if top == "data" else 1),
                data_param=dict(
                    source=f"{data}/{split}_{kind}",
                    batch_size=batch,
                    backend=caffe_pb2.DataParameter.LMDB,
                ),
            )
    head.add_slice(net, len(tiny.TREE.sizes))
    filler = dict(type="gaussian", std=0.1)
    net.layer.add(
        name="fc",
        type="InnerProduct",
        bottom=["data"],
        top=["feature"],
        inner_product_param=dict(num_output=16, weight_filler=filler),
    )
    net.layer.add(name="relu", type="ReLU", bottom=["feature"], top=["feature"])
    metric = losses.net_losses(
        tables.Labels(tiny.TREE.sizes, ""), weights=WEIGHTS, given={"glm": GLM}
    )
    head.add_head(net, "feature", "feature", tiny.TREE.sizes, filler, metric, False)
    (folder / "net.prototxt").write_text(str(net))
    solver = caffe_pb2.SolverParameter(
        net=f"{folder}/net.prototxt",
        snapshot_prefix=f"{folder}/model",
        base_lr=0.01,
        momentum=0.9,
        weight_decay=0.001,
        lr_policy="step",
        gamma=0.5,
        stepsize=6,
        display=2,
        test_iter=[2],
        test_interval=4,
        max_iter=iterations,
        iter_size=iter_size,
        random_seed=3,
        **fields,
    )
    for state in (solver.train_state, solver.test_state.add()):
        state.stage.extend(stages)
    path = folder / "solver.prototxt"
    path.write_text(text_format.MessageToString(solver))
    return path


def parallel(*arguments, **environment):
    return run("train_parallel", *arguments, GLOG_minloglevel="0", **environment)


def weights(path):
    net = caffe_pb2.NetParameter.FromString(path.read_bytes())
    return {
        f"{layer.name}[{i}]": np.array(blob.data)
        for layer in net.layer
        for i, blob in enumerate(layer.blobs)
    }


def assert_same(folder, other):
    """The weights of two trainings agree to float32's rounding, and have moved from the start."""
    one, two = (weights(path / f"model_iter_{ITERATIONS}.caffemodel") for path in (folder, other))
    assert one.keys() == two.keys()
    for name, values in one.items():
        assert np.abs(values).max() > 0
        assert np.abs(values - two[name]).max() <= 1e-6 * max(1, np.abs(values).max()), name


def train_alone(solver, *options):
    done = subprocess.run(
        [shutil.which("caffe"), "train", "-solver", solver, *options],
        text=True,
        env=os.environ | {"GLOG_minloglevel": "0"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


def series(text, path):
    path.write_text(text)
    return caffe_log.read(path).series


@pytest.mark.parametrize(
    "stages, iter_size, start",
    [
        (["csm", "skip", "glm"], 2, None),
        (["center"], 2, "snapshot"),
        (["contrastive", "triplet", "minmax"], 1, "weights"),
    ],
)
def test_two_ranks_take_the_steps_of_one_process_with_twice_the_batch(
    tmp_path, data, stages, iter_size, start
):
    """The log too: rank 0 alone prints, and its metric losses are those of all samples."""
    options = []
    if start:
        train_alone(write_solver(tmp_path / "first", data, stages, BATCH, iterations=5))
        kind = {"snapshot": "solverstate", "weights": "caffemodel"}[start]
        options = [start, tmp_path / f"first/model_iter_5.{kind}"]
    alone = write_solver(tmp_path / "alone", data, stages, BATCH, iter_size)
    both = write_solver(tmp_path / "both", data, stages, BATCH // 2, iter_size)
    text = train_alone(alone, *["-" * (i == 0) + str(part) for i, part in enumerate(options)])
    expected = series(text, tmp_path / "alone.log")
    done = parallel(
        "--solver",
        both,
        "--processes",
        2,
        *["--" * (i == 0) + str(part) for i, part in enumerate(options)],
    )
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "alone", tmp_path / "both")
    found = series(done.stderr, tmp_path / "both.log")
    assert found.keys() == expected.keys()
    for key, (iterations, values) in expected.items():
        assert list(found[key][0]) == list(iterations)
        if key[0] == "train" and key[1].removesuffix("_loss") in stages:
            assert found[key][1] == pytest.approx(values, rel=1e-4, abs=1e-5)
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == sorted(
        path.name for path in (tmp_path / "alone").iterdir()
    )


@pytest.fixture
def endless(tmp_path, data):
    """A training by two ranks that has begun: (process, its solver, lines of its log so far)."""
    solver = write_solver(tmp_path, data, ["glm"], 3, iterations=10**6, snapshot=5)
    process = subprocess.Popen(
        [sys.executable, "tools/train_parallel.py", "--solver", solver, "--processes", "2"],
        cwd=ROOT,
        env=os.environ | {"GLOG_minloglevel": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if "Iteration 8 " in line:
            break
    yield process, solver
    process.kill()


def ranks(solver):
    """{rank: process id} of a training."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(solver).encode() in (folder / "cmdline").read_bytes():
                for entry in (folder / "environ").read_bytes().split(b"\0"):
                    if entry.startswith(b"PMI_RANK="):
                        found[int(entry[9:])] = int(folder.name)
        except OSError:  # it has ended
            continue
    return found


def test_ctrl_c_saves_and_ends_all_ranks(endless):
    process, solver = endless
    process.send_signal(signal.SIGINT)
    _, text = process.communicate()
    assert process.returncode == 0, text
    iteration = int(re.search(r"stopped before iteration (\d+), and saved", text)[1])
    assert iteration > 8
    for kind in ("caffemodel", "solverstate"):
        assert (solver.parent / f"model_iter_{iteration}.{kind}").stat().st_size
    assert not ranks(solver)


def test_ranks_end_with_who_started_them(endless):
    """A killed mpiexec can't pass the signal on; the ranks end by themselves."""
    process, solver = endless
    alive = [os.pidfd_open(number) for number in ranks(solver).values()]
    assert len(alive) == 2
    process.kill()
    process.communicate()
    for rank_of in alive:
        select.select([rank_of], [], [])  # readable when the process has ended
        os.close(rank_of)
    assert not ranks(solver)
    assert len(list(solver.parent.glob("model_iter_*.solverstate"))) > 1


def test_the_death_of_one_rank_ends_all_and_says_how_to_go_on(endless):
    process, solver = endless
    os.kill(ranks(solver)[1], signal.SIGKILL)
    mpi, text = process.communicate()
    assert process.returncode == 1 and "Killed (signal 9)" in mpi
    last = re.search(
        r"^error: a rank failed, see above, and with it the training: "
        r"--snapshot (\S+\.solverstate) resumes from there$",
        text,
        re.MULTILINE,
    )
    assert Path(last[1]).is_file()
    assert not ranks(solver)


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_the_death_of_mpis_process_manager_ends_all_and_says_how_to_go_on(endless):
    """mpiexec alone would wait forever, pass on no signal, and leave the ranks spinning."""
    process, solver = endless
    (manager,) = {parent_of(pid) for pid in ranks(solver).values()}
    assert Path(f"/proc/{manager}/comm").read_text().strip() == rank.PROXY
    os.kill(manager, signal.SIGKILL)
    _, text = process.communicate(timeout=patience.SECONDS)
    assert process.returncode == 1
    assert re.search(  # mpiexec may notice, and end by itself
        r"^error: (MPI's process manager .hydra_pmi_proxy. has ended before the ranks|a rank "
        r"failed, see above), and with it the training: --snapshot \S+ resumes from there$",
        text,
        re.MULTILINE,
    ), text
    assert not ranks(solver)


def test_what_a_layer_says_of_a_batch_ends_the_training(tmp_path, data):
    solver = write_solver(tmp_path, data, ["glm"], 3)
    net = tmp_path / "net.prototxt"
    net.write_text(re.sub(r"scale: 0\.0039\d*", "scale: 1e38", net.read_text()))  # inf
    done = parallel("--solver", solver, "--processes", 2)
    assert done.returncode == 1
    assert re.search(
        r"^error: rank \d of 2: GLMLossLayer: the features of ", done.stderr, re.MULTILINE
    ), done.stderr
    assert "Traceback" not in done.stderr


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path, data):
    solver = write_solver(tmp_path, data, [], 3)
    solver.write_text(solver.read_text().replace("base_lr: 0.01", "base_lr: 1e30"))
    done = parallel("--solver", solver, "--processes", 2)
    assert done.returncode == 1
    assert re.search(
        r"^error: rank \d of 2: iteration \d+: the loss is nan: was -weights forgotten",
        done.stderr,
        re.MULTILINE,
    ), done.stderr[-2000:]
    assert not list(tmp_path.glob("model*"))


@pytest.mark.parametrize(
    "options",
    [
        ["--gpus", "0,0"],
        ["--gpus", "-1"],
        ["--gpus", "a"],
        ["--gpus", ""],
        ["--processes", "0"],
        ["--processes", "two"],
        [],
        ["--gpus", "0", "--processes", "2"],
        ["--processes", "2", "--weights", "w", "--snapshot", "s"],
    ],
)
def test_wrong_usage_is_refused(monkeypatch, capsys, options):
    monkeypatch.setattr(sys, "argv", ["train_parallel.py", "--solver", "s.prototxt", *options])
    with pytest.raises(SystemExit) as ended:
        train_parallel.main()
    assert ended.value.code == 2 and "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, says",
    [
        (["--solver", "none.prototxt"], "none.prototxt not found"),
        (["--weights", "none.caffemodel"], "none.caffemodel not found"),
        (["--snapshot", "none.solverstate"], "none.solverstate not found"),
        (["--gpus", "0,1"], "trains on the CPU" if not caffe.has_nccl() else "GPU"),
    ],
)
def test_what_would_end_every_rank_is_said_once(tmp_path, data, monkeypatch, options, says):
    where = [] if "--gpus" in options else ["--processes", "2"]
    solver = str(write_solver(tmp_path, data, [], 3))
    monkeypatch.setattr(sys, "argv", ["train_parallel.py", "--solver", solver, *where, *options])
    with pytest.raises(UserError, match=says):
        train_parallel.main()


@pytest.mark.parametrize(
    "seen, gpus, place, expected",
    [
        (None, [0, 1], 1, "1"),
        ("", [3, 2], 0, "3"),
        ("4,5", [0, 1], 1, "5"),
        ("GPU-a,GPU-b", [1, 0], 0, "GPU-b"),
    ],
)
def test_every_rank_sees_its_own_gpu_only(monkeypatch, seen, gpus, place, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen or "")
    if seen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    rank.own_gpu(gpus, place)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected


def test_a_gpu_that_is_hidden_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with pytest.raises(UserError, match="names GPU 2, but CUDA_VISIBLE_DEVICES shows 2"):
        rank.own_gpu([0, 2], 1)


@pytest.mark.parametrize(
    "iter_size, shared, early", [(1, False, True), (2, False, False), (1, True, False)]
)
def test_gradients_travel_early_only_where_they_are_final(iter_size, shared, early):
    solver = caffe_pb2.SolverParameter(iter_size=iter_size)
    net = caffe_pb2.NetParameter()
    net.layer.add(param=[dict(name="shared" if shared else "")])
    assert rank.own_solver(solver, net, 0).layer_wise_reduce is early


def test_batches_that_differ_are_refused():
    comm = SimpleNamespace(rank=0, size=2, allgather=lambda shape: [shape, (4, 8)])
    with pytest.raises(ValueError, match="the ranks' batches differ in shape: 3x8, 4x8"):
        transports.Mpi(comm).gather(np.zeros((3, 8), np.float32))
