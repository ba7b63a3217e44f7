"""tools/check_env.py: what it finds, what it calls missing, and the command it names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def check(folder, *arguments, python=sys.executable, **variables):
    command = [python, ROOT / "tools" / "check_env.py", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done.returncode, done.stdout


def solver(folder, text):
    (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text(text)
    return check(folder, "--solver", "solver.prototxt")


def test_this_environment_is_complete():
    status, output = check(ROOT)
    assert status == 0, output
    assert "nothing that is needed is missing" in output
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
        (tmp_path / name / "data.mdb").touch()
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
