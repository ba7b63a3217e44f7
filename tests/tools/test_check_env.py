"""tools/check_env.py: what it finds, what it reports as missing, and the command it names."""

import os
import shutil
import subprocess
from pathlib import Path

import programs
import pytest
import tiny
from caffe.proto import caffe_pb2

from tools import check_env, inputs

ROOT = Path(__file__).resolve().parent.parent.parent

NET = """
layer { name: "data" type: "Data" top: "data" include { phase: TRAIN }
        transform_param { mean_file: "data/cards/mean.binaryproto" }
        data_param { source: "data/cards/train_images" backend: LMDB batch_size: 1 } }
layer { name: "data" type: "Data" top: "data" include { phase: TEST }
        data_param { source: "elsewhere/test_images" backend: LMDB batch_size: 1 } }
layer { name: "extra" type: "Data" top: "extra" include { stage: "extra" }
        data_param { source: "elsewhere/extra" backend: LMDB batch_size: 1 } }
"""


COMMAND = "tools/check_env.py"


def check(folder, *arguments, python=None, **variables):
    """(exit status, what it prints) of the command, of this Python unless another one is given."""
    if python is None:
        done = programs.run(COMMAND, *arguments, cwd=folder, **variables)
    else:
        done = subprocess.run(
            [python, ROOT / COMMAND, *arguments],
            cwd=folder,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
        )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done.returncode, done.stdout


def solver(folder, text):
    (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text(text)
    return check(folder, "--solver", "solver.prototxt")


def test_this_environment_is_complete():
    status, output = check(ROOT, fresh=True)
    assert status == 0, output
    assert "everything required is installed" in output
    for item in ["numpy", "protobuf", "caffe", "Python layers", "pycaffe", "GPU"]:
        assert f"\nok       {item} " in output


def test_every_data_set_and_its_command_is_listed():
    output = check(ROOT)[1]
    for line in output.splitlines():
        if line.startswith("note") and "data/" in line.split()[1]:
            assert "data_prep/build_lmdb.py" in line
    assert "data/cub" in output and "data/cards" in output


def test_solver_lists_each_missing_file_with_its_command(tmp_path):
    status, output = solver(
        tmp_path,
        'net: "net.prototxt" weights: "w/squeezenet_v1.1.caffemodel" '
        'snapshot_prefix: "snapshots/x/model"',
    )
    assert status == 1
    lines = [line for line in output.splitlines() if line.startswith("missing")]
    assert [line.split(maxsplit=2)[1:] for line in lines] == [
        ["LMDB", "data/cards/train_images: data_prep/build_lmdb.py cards"],
        [
            "LMDB",
            "elsewhere/test_images: data_prep/build_lmdb.py DATASET --out elsewhere "
            "(data_prep/build_lmdb.py --help lists the data sets)",
        ],
        ["mean", "data/cards/mean.binaryproto: data_prep/build_lmdb.py cards"],
        ["weights", "w/squeezenet_v1.1.caffemodel: tools/convert_squeezenet.py"],
        ["snapshots", "folder snapshots/x: mkdir -p snapshots/x"],
    ]
    assert output.endswith("5 missing\n")


def test_solver_with_everything_there(tmp_path):
    for name in ["data/cards/train_images", "elsewhere/test_images"]:
        (tmp_path / name).mkdir(parents=True)
        tiny.write_lmdb(tmp_path / name, [caffe_pb2.Datum()])
    (tmp_path / "data/cards/mean.binaryproto").touch()
    status, output = solver(tmp_path, 'net: "net.prototxt"')
    assert status == 0, output
    status, output = solver(tmp_path, 'net: "net.prototxt" train_state { stage: "extra" }')
    assert status == 1 and "elsewhere/extra" in output  # a layer of the solver's own stage counts


@pytest.mark.parametrize(
    "text, sentence",
    [
        ('net: "none.prototxt"', "net none.prototxt not found"),
        ("base_lr: 0.1", "solver.prototxt names no net"),
        ("base_lr: [", "solver.prototxt is not a solver"),
    ],
)
def test_solver_that_cannot_be_used(tmp_path, text, sentence):
    status, output = solver(tmp_path, text)
    assert status == 1 and sentence in output


def test_bare_python_is_told_what_to_do(tmp_path):
    empty = tmp_path / "bin"
    empty.mkdir()
    status, output = check(tmp_path, python="/usr/bin/python3", PATH=str(empty), PYTHONPATH="")
    assert status == 1
    lines = {line[9:33].strip(): line for line in output.splitlines()}
    assert lines["lmdb"].startswith("missing") and "make setup" in lines["lmdb"]
    assert lines["repository"].startswith("missing") and ".venv/bin/activate" in lines["repository"]


def test_layer_that_the_binary_cannot_import(tmp_path, capsys, monkeypatch):
    broken = check_env.LAYER_NET.replace("python_layers.glm_loss", "no.such")
    monkeypatch.setattr(check_env, "LAYER_NET", broken)
    report = check_env.Report()
    check_env.check_caffe(report)
    assert report.missing == 1
    assert "No module named 'no'" in capsys.readouterr().out


def test_build_commands_come_from_the_tables():
    assert inputs.build_command("data/cards") == "data_prep/build_lmdb.py cards"
    assert inputs.build_command("data/cub").startswith("data_prep/build_lmdb.py cub --root ")
    assert inputs.weights_command("weights/bvlc_googlenet.caffemodel").startswith("download it")


@pytest.fixture
def fitting(tmp_path):
    """(folder, solver) of a net and a data set that belong together: 12 test images in 3 x 4."""
    tiny.data_set(tmp_path / "data", list(range(6)), list(range(6)), "train")
    tiny.data_set(tmp_path / "data", list(range(6)) * 2, list(range(6)) * 2, "test")
    path = tiny.solver(tmp_path, tmp_path / "data", ("csm",))
    path.write_text(path.read_text() + "test_iter: 3\n")
    return tmp_path, path


def lines_of(output, status):
    return [line.split(maxsplit=1)[1] for line in output.splitlines() if line.startswith(status)]


def test_a_net_and_data_that_belong_together(fitting):
    folder, path = fitting
    status, output = check(folder, "--solver", path)
    assert status == 0, output
    assert lines_of(output, "ok")[-1].split(maxsplit=1) == [
        "data",
        "classes and image counts match the net",
    ]


def test_the_last_test_batch_may_begin_again(fitting):
    folder, path = fitting
    net = folder / "tiny_train_val.prototxt"
    net.write_text(net.read_text().replace("batch_size: 4", "batch_size: 5"))  # 15 of 12
    status, output = check(folder, "--solver", path)
    assert status == 0 and not lines_of(output, "note"), output


def change_sizes(fine, group):
    """The net is made for other numbers of classes than the data set has."""

    def change(folder):
        tiny.solver(folder, folder / "data", ("csm",), sizes=(fine, group, 2))
        (folder / "tiny_csm_solver.prototxt").write_text(
            (folder / "tiny_csm_solver.prototxt").read_text() + "test_iter: 3\n"
        )

    return change


def drop_images(folder):
    """The image LMDB has fewer records than that of the labels."""
    shutil.rmtree(folder / "data" / "test_images")
    shutil.copytree(folder / "data" / "train_images", folder / "data" / "test_images")


def cut_lmdb(folder):
    (folder / "data" / "test_images" / "data.mdb").write_bytes(b"")


@pytest.mark.parametrize(
    "change, item, says",
    [
        (change_sizes(5, 3), "classes", "fc8_fine has 5 outputs, and {}/data has 6 classes of"),
        (change_sizes(7, 3), "classes", "fc8_fine has 7 outputs, and {}/data has 6 classes of"),
        (change_sizes(6, 4), "classes", "fc9_coarse has 4 outputs, and {}/data has 3 classes of"),
        (drop_images, "images", "test_images has 6, {}/data/test_labels has 12 records"),
        (cut_lmdb, "LMDB", "{}/data/test_images can't be read"),
    ],
)
def test_a_net_that_is_for_other_data(fitting, change, item, says):
    folder, path = fitting
    change(folder)
    status, output = check(folder, "--solver", path)
    assert status == 1, output
    (found,) = lines_of(output, "wrong")
    assert found.startswith(item) and says.format(folder) in found
    assert output.endswith("1 wrong\n")


@pytest.mark.parametrize(
    "count, says",
    [
        (2, "2 x 4 per batch = 8 of 12 test images: the last 4 are not counted"),
        (4, "4 x 4 per batch = 16 of 12 test images: the first 4 are counted twice"),
    ],
)
def test_a_test_iter_that_is_not_that_of_the_images_is_noted(fitting, count, says):
    folder, path = fitting
    path.write_text(path.read_text().replace("test_iter: 3", f"test_iter: {count}"))
    status, output = check(folder, "--solver", path)
    assert status == 0, output
    (note,) = lines_of(output, "note")
    assert note.startswith("test_iter") and says in note


def test_the_snapshot_to_go_on_from_is_named(fitting):
    folder, path = fitting
    for iteration in (5, 10):
        tiny.snapshot(folder, iteration)
    (folder / "model_iter_10.solverstate").write_bytes(b"")
    status, output = check(folder, "--solver", path)
    assert status == 0, output
    passed, taken = lines_of(output, "note")
    assert "iteration 10 is skipped" in passed and "is empty (0 bytes)" in passed
    assert f"-snapshot {folder}/model_iter_5.solverstate" in taken
