"""Truncated, empty and incomplete snapshots: which one each tool uses, and what it reports."""

import os
import re
import resource
import shutil
import signal
import subprocess

import caffe
import pytest
import tiny
from caffe.proto import caffe_pb2
from commands import ROOT, assert_error, run
from google.protobuf import text_format

from data_prep.common.errors import UserError
from tools import results, snapshots, solver_net
from tools.nets import head

TRUE = [0, 1, 2, 3, 4, 5]
FORMATS = {"BINARYPROTO": "", "HDF5": ".h5"}


def train(solver, *arguments, **options):
    """`caffe train`; its log in .stderr."""
    return subprocess.run(
        [shutil.which("caffe"), "train", "-solver", solver, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"GLOG_logtostderr": "1", "GLOG_minloglevel": "0"},
        capture_output=True,
        text=True,
        **options,
    )


def write_solver(folder, kind, **fields):
    tiny.data_set(folder / "data", TRUE, TRUE, "train")
    tiny.data_set(folder / "data", TRUE, TRUE, "test")
    solver = tiny.solver(folder, folder / "data", ())
    values = {"max_iter": 6, "snapshot": 2, "random_seed": 1, "snapshot_format": kind}
    values |= {"test_iter": 1, "test_interval": 100, "test_initialization": "false"} | fields
    with open(solver, "a") as file:
        file.writelines(f"{name}: {value}\n" for name, value in values.items())
    return solver


@pytest.fixture(scope="module", params=FORMATS)
def trained(request, tmp_path_factory):
    """(folder of a training that has left snapshots of iterations 2, 4 and 6; a copy; suffix)."""
    folder = tmp_path_factory.mktemp("trained")
    done = train(write_solver(folder, request.param))
    assert done.returncode == 0, done.stderr
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    return folder, copy, FORMATS[request.param]


@pytest.fixture
def whole(trained):
    """(folder, suffix, solver) of the training, to damage: states name models by their paths."""
    folder, copy, suffix = trained
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    return folder, suffix, folder / "tiny_sm_solver.prototxt"


def empty(path):
    path.write_bytes(b"")


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path):
    """As long as before, but never written: what some file systems leave after a crash."""
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES = {
    "empty": (empty, "is empty (0 bytes)"),
    "half": (halve, "or is truncated"),
    "zeros": (zero, "or is truncated"),
    "missing": (os.unlink, "is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("part", ["caffemodel", "solverstate"])
def test_the_newest_whole_pair_is_taken_and_the_others_named(whole, part, damage, capsys):
    folder, suffix, solver = whole
    change, says = DAMAGES[damage]
    change(folder / f"model_iter_6.{part}{suffix}")
    found = snapshots.newest(solver_net.read_solver(solver))
    assert found.iteration == 4
    assert found.model == folder / f"model_iter_4.caffemodel{suffix}"
    assert found.state == folder / f"model_iter_4.solverstate{suffix}"
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("note: the snapshot of iteration 6 is skipped: ") and says in note
    assert f"model_iter_6.{part}{suffix}" in note


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("part", ["caffemodel", "solverstate"])
def test_a_file_cut_anywhere_is_seen(whole, part, share):
    folder, suffix, _ = whole
    path = folder / f"model_iter_6.{part}{suffix}"
    assert snapshots.problem(path) is None
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert "truncated" in snapshots.problem(path)


def test_evaluate_scores_the_newest_whole_snapshot(whole):
    folder, suffix, solver = whole
    halve(folder / f"model_iter_6.solverstate{suffix}")
    done = run("evaluate", "--solver", solver, "--out", folder / "r.json")
    assert done.returncode == 0, done.stderr
    assert results.read(folder / "r.json").weights.endswith(f"model_iter_4.caffemodel{suffix}")
    assert done.stderr.startswith("note: the snapshot of iteration 6 is skipped: ")


def test_evaluate_without_any_whole_snapshot(whole):
    folder, suffix, solver = whole
    for path in folder.glob("*.solverstate*"):
        path.unlink()
    done = run("evaluate", "--solver", solver)
    assert done.returncode == 1
    *notes, last = done.stderr.splitlines()
    assert len(notes) == 3 and all("is missing" in note for note in notes)
    assert last.startswith("error: no snapshot") and "--weights" in last
    model = folder / f"model_iter_6.caffemodel{suffix}"
    assert (
        run(
            "evaluate", "--solver", solver, "--weights", model, "--out", folder / "r.json"
        ).returncode
        == 0
    )


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("part", ["caffemodel", "solverstate"])
def test_a_damaged_snapshot_cannot_be_resumed_from(whole, part, damage):
    folder, suffix, _ = whole
    change, says = DAMAGES[damage]
    state = folder / f"model_iter_6.solverstate{suffix}"
    snapshots.check_resumable(state)
    change(folder / f"model_iter_6.{part}{suffix}")
    with pytest.raises(UserError, match=re.escape(says)):
        snapshots.check_resumable(state)


def test_train_parallel_says_so_once_and_not_by_each_rank(whole):
    folder, suffix, solver = whole
    halve(folder / f"model_iter_6.caffemodel{suffix}")
    state = folder / f"model_iter_6.solverstate{suffix}"
    done = run("train_parallel", "--solver", solver, "--processes", 2, "--snapshot", state)
    assert_error(done, f"training can't resume from {state}: ")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("part", ["caffemodel", "solverstate"])
def test_caffe_says_in_one_sentence_why_it_cannot_go_on(whole, part, damage):
    folder, suffix, solver = whole
    DAMAGES[damage][0](folder / f"model_iter_6.{part}{suffix}")
    state = folder / f"model_iter_6.solverstate{suffix}"
    done = train(solver, "-snapshot", state)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert f"training cannot go on from snapshot {state}: " in last
    assert "Check failure stack trace" not in done.stderr and "HDF5-DIAG" not in done.stderr


def test_a_model_without_a_layer_of_the_net_is_refused(whole):
    """Caffe alone would leave the layer at its random values, and train on."""
    folder, suffix, solver = whole
    net = caffe_pb2.NetParameter()
    text_format.Parse((folder / "tiny_train_val.prototxt").read_text(), net)
    for layer in net.layer:
        layer.name = layer.name.replace(head.scores(1), "other")
    (folder / "other.prototxt").write_text(str(net))
    other = caffe.Net(str(folder / "other.prototxt"), caffe.TRAIN)
    model = str(folder / f"model_iter_6.caffemodel{suffix}")
    (other.save_hdf5 if suffix else other.save)(model)
    done = train(solver, "-snapshot", folder / f"model_iter_6.solverstate{suffix}")
    assert done.returncode == 1 and "holds no layer 'fc8_fine'" in done.stderr.splitlines()[-1]


def test_a_whole_snapshot_resumes(whole):
    folder, suffix, solver = whole
    done = train(solver, "-snapshot", folder / f"model_iter_4.solverstate{suffix}")
    assert done.returncode == 0, done.stderr
    assert not list(folder.glob("*.unfinished"))


def _limit_files(size):
    """No file of more bytes can be written: as on a full disk, `write` fails."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("size", [100, 3000])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_full_disk_ends_training_and_leaves_the_earlier_snapshots(tmp_path, kind, size):
    solver = write_solver(tmp_path, kind)
    assert train(solver).returncode == 0
    before = {path: path.read_bytes() for path in tmp_path.glob("model_iter_*")}
    assert len(before) == 6
    done = train(solver, preexec_fn=lambda: _limit_files(size))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "caffe train stopped: the snapshot of iteration 2 was not saved (" in last
    assert "File too large" in last and "earlier snapshots are as they were" in last
    assert {path: path.read_bytes() for path in tmp_path.glob("model_iter_*")} == before


@pytest.mark.parametrize("kind", FORMATS)
def test_names_of_layers_may_hold_slashes(tmp_path, kind):
    """Names with slashes, as GoogLeNet's, and names that begin another name."""
    solver = write_solver(tmp_path, kind)
    net_file = tmp_path / "tiny_train_val.prototxt"
    net = solver_net.read_net(solver_net.read_solver(solver))
    for name, bottom in (("inception_3a/1x1", "data"), ("inception_3a", "inception_3a/1x1")):
        net.layer.add(
            name=name,
            type="InnerProduct",
            bottom=[bottom],
            top=[name],
            inner_product_param=dict(num_output=5, weight_filler=dict(type="gaussian", std=1)),
        )
    net.layer.add(name="silence", type="Silence", bottom=["inception_3a"])
    net_file.write_text(str(net))
    assert train(solver).returncode == 0
    model = str(tmp_path / f"model_iter_6.caffemodel{FORMATS[kind]}")
    one, two = (caffe.Net(str(net_file), caffe.TEST) for _ in range(2))
    for name in (head.scores(1), "inception_3a/1x1", "inception_3a"):
        for net in (one, two):
            net.params[name][0].data[...] = -1
    for net in (one, two):
        net.copy_from(model)
    for name in (head.scores(1), "inception_3a/1x1", "inception_3a"):
        assert not (one.params[name][0].data == -1).any()
        assert (one.params[name][0].data == two.params[name][0].data).all()
    done = train(solver, "-snapshot", tmp_path / f"model_iter_4.solverstate{FORMATS[kind]}")
    assert done.returncode == 0, done.stderr


def test_empty_weights_are_refused(tmp_path):
    solver = write_solver(tmp_path, "BINARYPROTO")
    empty(tmp_path / "w.caffemodel")
    done = train(solver, "-weights", tmp_path / "w.caffemodel")
    assert done.returncode == 1 and "holds no layers" in done.stderr.splitlines()[-1]
    done = run("evaluate", "--solver", solver, "--weights", tmp_path / "w.caffemodel")
    assert_error(done, "is empty (0 bytes)")
