"""tools/bench.py step --peers and parallel: that they compare equal work. No times are asserted."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import assert_error, run

from data_prep.common.errors import UserError
from tools.benchmarks import contest, engines, parallel, peer_nets, peers

NET = """
name: "tiny"
layer { name: "data" type: "Data" top: "data" include { phase: TRAIN }
        transform_param { crop_size: 8 } data_param { source: "none" batch_size: 4 } }
layer { name: "label" type: "Data" top: "label" include { phase: TRAIN }
        data_param { source: "none" batch_size: 4 } }
layer { name: "labels" type: "Slice" bottom: "label" top: "label_1" top: "label_2"
        slice_param { axis: 1 } }
layer { name: "unused" type: "Silence" bottom: "label_2" }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 8 kernel_size: 3 pad: 1 } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv"
        batch_norm_param { use_global_stats: true } }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "branch" type: "Convolution" bottom: "conv" top: "branch"
        convolution_param { num_output: 8 kernel_size: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "conv" bottom: "branch" top: "sum" }
layer { name: "loss1/conv" type: "Convolution" bottom: "sum" top: "loss1/conv"
        convolution_param { num_output: 6 kernel_size: 8 } }
layer { name: "loss1/loss" type: "SoftmaxWithLoss" bottom: "loss1/conv" bottom: "label_1"
        top: "loss1/loss" loss_weight: 0.3 }
layer { name: "pool" type: "Pooling" bottom: "sum" top: "pool"
        pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: "drop" type: "Dropout" bottom: "pool" top: "drop" }
layer { name: "fc8_fine" type: "InnerProduct" bottom: "drop" top: "fc8_fine"
        param { lr_mult: 10 } param { lr_mult: 20 decay_mult: 0 }
        inner_product_param { num_output: 6 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc8_fine" bottom: "label_1" top: "loss" }
"""
CAFFE = Path(shutil.which("caffe")).resolve().parents[1]
# What a pycaffe says that is the real one, up to the lines after it.
OTHER = """
__path__ = [{real!r}]
exec(compile(open({real!r} + "/__init__.py").read(), "caffe", "exec"))
"""
NO_UPDATE = "SGDSolver.step = lambda self, n: (self.net.clear_param_diffs(), self.net.forward())"
NO_LAST_LAYER = """
whole = Net._forward
Net._forward = lambda self, first, last: whole(self, first, last - 1)
"""
DIES = "raise SystemExit('no such library')"


@pytest.fixture
def solver(tmp_path):
    net, path = tmp_path / "tiny_train_val.prototxt", tmp_path / "tiny_solver.prototxt"
    net.write_text(NET)
    path.write_text(
        f'net: "{net}" base_lr: 0.01 momentum: 0.9 weight_decay: 0.1 lr_policy: "step" '
        f'stepsize: 1 gamma: 0.1 snapshot_prefix: "{tmp_path}/model"'
    )
    return path


def bench(solver, *more, stock=CAFFE):
    options = "--runs 1 --batch 3 --threads 1 --seconds 100".split()
    return run("bench", "step", "--peers", "--solver", solver, *options, "--stock", stock, *more)


def other_caffe(folder, change):
    """A prefix whose pycaffe is ours with a change."""
    package = folder / "other/python/caffe"
    package.mkdir(parents=True)
    text = OTHER.format(real=str(CAFFE / "python/caffe")) + change + "\n"
    (package / "__init__.py").write_text(text)
    return folder / "other"


def test_pairs_are_measured_and_not_measured_again(solver, tmp_path):
    """Our own Caffe in stock's place: the pairs, the tables, and what --out has of them."""
    out = tmp_path / "results/peers.json"
    done = bench(solver, "--peer", "stock", "--peer", "opencv", "--out", out)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert [(pair["work"], pair["peer"]) for pair in report["pairs"]] == [
        ("train", "stock"),
        ("infer", "stock"),
        ("infer", "opencv"),
    ]
    for pair in report["pairs"]:
        assert len(pair["ours"]) == len(pair["theirs"]) == 1 and pair["error"] < 1e-4
        assert min(pair["ours"] + pair["theirs"]) > 0 and min(pair["memory"]) > 1 << 20
    assert set(report["engines"]) == {"ours", "stock", "opencv"}
    assert report["engines"]["stock"]["threading"] == "pthreads"
    assert str(CAFFE) in report["engines"]["ours"]["version"]
    assert "openblas" in report["engines"]["ours"]["blas"]
    assert report["machine"]["cores"] >= 1
    assert "forward, backward and update" in done.stdout and str(out) in done.stdout
    assert "ours, 1 thread" not in done.stdout  # with one thread there is no such pair
    for pair in report["pairs"]:
        pair["others"] = 0.0
    report["pairs"][0]["others"], report["pairs"][0]["theirs"] = 1.0, [9e9]
    out.write_text(json.dumps(report))
    again = bench(solver, "--peer", "stock", "--peer", "opencv", "--out", out)
    pairs = json.loads(out.read_text())["pairs"]
    assert again.returncode == 0 and pairs[:2] == report["pairs"][1:]
    assert pairs[2]["work"] == "train" and pairs[2]["theirs"] != [9e9]


@pytest.mark.parametrize(
    "work, change, says",
    [
        ("train", NO_UPDATE, "it does other work: its losses differ from ours"),
        ("infer", NO_LAST_LAYER, "it does other work: its scores differ from ours"),
        ("infer", DIES, "stock Caffe: no such library"),
    ],
    ids=["no update", "no last layer", "dies"],
)
def test_other_work_does_not_win(solver, tmp_path, work, change, says):
    out = tmp_path / "peers.json"
    stock = other_caffe(tmp_path, change)
    done = bench(solver, "--peer", "stock", "--work", work, "--out", out, stock=stock)
    assert done.returncode == 1 and says in done.stderr, done.stderr
    assert "failed: tiny" not in done.stdout and not out.exists()


def test_absent_peers_are_named(solver, tmp_path):
    done = bench(solver, "--work", "infer", stock=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"skipped: stock Caffe: no Caffe in {tmp_path}: docker/build_caffe.sh" in done.stderr
    options = SimpleNamespace(packages=None)
    for name in ("torch", "onnxruntime"):
        reason = peers._missing(name, options)
        assert (f"skipped: {peers.PEERS[name].title}: {reason}" in done.stderr) == bool(reason)
    assert "OpenCV" in done.stdout
    done = bench(solver, "--peer", "stock", stock=tmp_path)
    assert done.returncode == 1 and "error: no engine to compare with is here" in done.stderr


def test_stock_runs_on_the_blas_of_a_stock_user(tmp_path):
    one = peers.Run(SimpleNamespace(out=None), {}, tmp_path, peers.Report({}))
    one._identify("stock", peers.Engine("1", "openblas pthreads", "pthreads"))
    with pytest.raises(contest.EngineError, match="on openblas openmp, not on the one of libopen"):
        one._identify("stock", peers.Engine("1", "openblas openmp", "openmp"))
    with pytest.raises(UserError, match="was measured with ours"):
        one._identify("ours", peers.Engine("1", "a"))
        one._identify("ours", peers.Engine("2", "a"))


@pytest.mark.parametrize("threads", [1, 2])
def test_an_engine_with_more_threads_is_found(solver, tmp_path, threads):
    peer_nets.write(solver, 2, tmp_path / "net")
    one = engines.Specification("caffe", "infer", str(tmp_path / "net"), 2, threads)
    with contest.Runner(one, {}) as runner:
        runner.ask("values")
        runner.ask = lambda command: {"seconds": [0.2, 0.1, 0.3], "cores": 1.9, "memory": 1}
        if threads == 1:
            with pytest.raises(contest.EngineError, match="uses 1.9 cores with 1 threads"):
                runner.turn()
        else:
            assert runner.turn()["seconds"] == 0.2


@pytest.mark.parametrize(
    "work, expected, found, error",
    [
        ("train", [2, 4], [2, 4.2], 0.05),
        ("train", [4, 0], [4, 0.4], 0.1),
        ("train", [0, 0], [0, 0.4], float("inf")),
        ("infer", [3, 4], [3, 4.5], 0.1),
        ("train", [2, 4], [2], float("inf")),
        ("infer", [2, 4], [2, float("nan")], float("inf")),
    ],
)
def test_difference(work, expected, found, error):
    assert contest.difference(work, expected, found) == pytest.approx(error)
    with pytest.raises(contest.EngineError, match="does other work"):
        contest.check_equal(work, expected, found)


def test_turns_alternate_and_the_first_is_not_counted():
    order = []

    class Fake:
        def __init__(self, name, fails=None):
            self.name, self.fails, self.turns = name, fails, 0

        def turn(self):
            order.append(self.name)
            self.turns += 1
            if self.turns == self.fails:
                raise contest.EngineError("it ended")
            return self.turns

    runners = {"a": Fake("a"), "b": Fake("b"), "c": Fake("c", fails=2)}
    assert contest.alternate(runners, 2) == ({"a": [2, 3], "b": [2, 3]}, {"c": "it ended"})
    assert "".join(order) == "abcabcab"


@pytest.mark.parametrize(
    "more, says",
    [
        (["--net", "alexnet"], "--net is for --peers"),
        (["--seconds", "3"], "--seconds is for --peers"),
        (["--batch", "1,2"], "several --batch are for --peers"),
        (["--peers", "--ours", "/"], "--ours / holds no Caffe"),
        (["--peers", "--packages", "/none"], "--packages /none: not a folder"),
        (["--peers", "--net", "alexnet", "--solver", "x"], "names one net of your own"),
    ],
)
def test_options_that_do_not_fit(more, says):
    assert_error(run("bench", "step", *more), says)


@pytest.mark.parametrize(
    "content, says",
    [
        ("no JSON", "is no report of this command"),
        ("[]", "is not an object"),
        ('{"machine": {"cores": 1000}, "engines": {}, "pairs": []}', "on another machine"),
    ],
)
def test_out_that_is_no_report(solver, tmp_path, content, says):
    out = tmp_path / "out.json"
    out.write_text(content)
    assert_error(bench(solver, "--peer", "opencv", "--out", out), says)
    assert out.read_text() == content


@pytest.mark.parametrize("name", ["torch", "torch_last"])
def test_torch_takes_the_same_steps(solver, tmp_path, name):
    """Normalization with its scale, a sum, and the rates of each layer; in both layouts."""
    pytest.importorskip("torch", reason="PyTorch isn't installed")
    peer_nets.write(solver, 4, tmp_path / "net")
    for work in ("train", "infer"):
        values = []
        for engine in ("caffe", name):
            one = engines.Specification(engine, work, str(tmp_path / "net"), 4, 1)
            with contest.Runner(one, {}) as runner:
                values.append(runner.ask("values")["values"])
        assert contest.difference(work, *values) < 1e-5


def test_parallel(solver):
    """Real trainings of both kinds, of a tiny net."""
    done = run(
        *("bench", "parallel", "--solver", solver, "--processes", 2, "--batch", 2),
        *("--iterations", 2, "--runs", 1),
    )
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()[2:]
    assert [row.split()[:2] for row in rows] == [
        ["2", name] for name in ("caffe", "train_parallel.py,")
    ]
    done = run("bench", "parallel", "--solver", solver, "--processes", 2, "--batch", "3")
    assert_error(done, "--batch 3 can't be divided among 2 processes")


def test_seconds_of_iterations_are_those_of_the_log():
    line = "I1128 {} 1 solver.cpp:239] Iteration {} (2 iter/s, 1s/1 iters), loss = 1"
    times = ["23:59:59.250000", "00:00:00.000000", "00:00:00.500000"]
    log = "\n".join(line.format(time, number) for number, time in enumerate(times))
    assert parallel._iterations(f"other\n{log}\nI1128 00:00:09.0 1 x] lr = 1") == [0.75, 0.5]
