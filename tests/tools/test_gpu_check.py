"""tools/gpu/check.py without a GPU: what it says, its tables, and its checks with a CPU's own mode
in the GPU's place, where both sides have to agree."""

import copy
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import assert_error, run
from google.protobuf import text_format

from data_prep.common.errors import UserError
from tools import solver_net, torch_net
from tools.gpu import check, machine, nets, report, sections, suites, training
from tools.training_net import training_net

SMALL = Path("prototxt/cards_squeezenet_ours_solver.prototxt")
RESULTS = {
    "machine": dict(
        date="2026-11-23 18:00 UTC",
        driver="580.1",
        cores=16,
        python="3.11.2",
        gpus=[dict(name="NVIDIA X", memory_gib=80.0, compute="9.0")],
        caffe=dict(version="1.0.0", cudnn=91900),
        packages=dict(torch="2.11.0"),
    ),
    "results": {
        "nets": dict(verdict="ok", seconds=12.4, summary="16 nets", values={}),
        "speed": dict(
            verdict="ok",
            seconds=100.0,
            summary="alexnet",
            values=dict(
                alexnet=dict(
                    batch=128, caffe_float32=900.0, torch_float32=1000.0, caffe_tf32=1500.0
                ),
                vgg16=dict(batch=32, caffe_float32=90.0, caffe_tf32=150.0),
            ),
        ),
    },
}


def has_gpu():
    try:
        return bool(machine.gpus())
    except OSError:
        return False


no_gpu = pytest.mark.skipif(has_gpu(), reason="there is a GPU")


@no_gpu
def test_without_a_gpu_it_says_so_and_does_nothing(tmp_path):
    done = run("gpu/check", "--out", tmp_path / "results.json")
    assert done.returncode == 0 and not list(tmp_path.iterdir())
    assert re.fullmatch(r"no GPU: .*; nothing was checked\n", done.stdout) and not done.stderr


@no_gpu
def test_a_caffe_that_cant_use_the_gpu_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "facts", lambda: RESULTS["machine"])
    monkeypatch.setattr(sys, "argv", ["check.py", "--out", str(tmp_path / "results.json")])
    with pytest.raises(
        UserError, match="the machine has a GPU, but the caffe on PATH can't use it"
    ):
        check.main()
    assert not list(tmp_path.iterdir())


def test_checks_in_turn_and_their_file(monkeypatch, tmp_path, capsys):
    """A failed check is reported, in the file too, and the others still run."""
    monkeypatch.setattr(machine, "facts", lambda: RESULTS["machine"])
    monkeypatch.setattr(check.caffe_program, "run", lambda *arguments: (0, ""))
    monkeypatch.setattr(check, "isolated", lambda function, *args: function(*args))
    monkeypatch.setattr(
        sections,
        "SECTIONS",
        {"bad": lambda gpu: (False, "ill", [1]), "good": lambda gpu: (True, "well", [2])},
    )
    out = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["check.py", "--out", str(out), "--only", "bad,good"])
    assert check.main() == 1
    assert re.search(
        r"^FAILED   bad  .*ill\nok       good .*well$", capsys.readouterr().out, re.MULTILINE
    )
    results = json.loads(out.read_text())["results"]
    assert results["bad"]["values"] == [1] and results["good"]["verdict"] == "ok"
    assert "| bad | FAILED | 0 | ill |" in report.tables(out)


def test_list_and_wrong_names():
    listed = run("gpu/check", "--list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(sections.SECTIONS)
    done = run("gpu/check", "--only", "nets,nonsense")
    assert (
        done.returncode == 2
        and "unknown check 'nonsense'; the checks are caffe-tests" in done.stderr
    )


def test_table(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(RESULTS))
    lines = run("gpu/check", "--table", path).stdout.splitlines()
    assert lines[0] == (
        "NVIDIA X (80.0 GiB, 9.0); driver 580.1, 16 cores, Python 3.11.2; Caffe "
        "version 1.0.0, cudnn 91900, torch 2.11.0. 2026-11-23 18:00 UTC."
    )
    assert "| nets | ok | 12 | 16 nets |" in lines
    assert "| alexnet | 128 | 900 | 1000 | 0.90 | 1500 | - | - |" in lines
    assert "| vgg16 | 32 | 90 | - | - | 150 | - | - |" in lines


@pytest.mark.parametrize(
    "text, says",
    [
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is nested too deeply"),
        *(
            (text, "is not a results file of")
            for text in ("[]", "{}", '{"machine": {}, "results": {}}')
        ),
    ],
)
def test_other_files_are_refused(tmp_path, text, says):
    path = tmp_path / "results.json"
    path.write_text(text)
    assert_error(run("gpu/check", "--table", path), f"{path} {says}")


@pytest.mark.parametrize(
    "function, verdict, summary",
    [
        (lambda gpu: (True, "well", {}), "ok", "well"),
        (lambda gpu: (False, "ill", {}), "FAILED", "ill"),
        (lambda gpu, isolated: (True, "well", {}), "ok", "well"),
        (lambda gpu: 1 / 0, "FAILED", "ZeroDivisionError: division by zero"),
    ],
)
def test_verdicts(monkeypatch, function, verdict, summary):
    monkeypatch.setitem(sections.SECTIONS, "one", function)
    monkeypatch.setattr(check, "isolated", lambda function, *args: function(*args))
    result = check.check("one")
    assert (result["verdict"], result["summary"]) == (verdict, summary)


def test_a_check_that_aborts_is_a_failed_one(monkeypatch):
    """The other checks still run: each has a process of its own."""
    monkeypatch.setitem(sections.SECTIONS, "one", os._exit)
    result = check.check("one")
    assert result["verdict"] == "FAILED" and "ended before it had a result" in result["summary"]


def test_every_net_has_its_solver():
    names = {path.name.split("_ours")[0] for path in sections.solvers() if "_ours_" in path.name}
    every = {
        path.name.removesuffix("_train_val.prototxt")
        for path in Path("prototxt").glob("*_train_val.prototxt")
    }
    assert names == every


def test_agreement_of_nets():
    well, summary, errors = sections.agreement(False, [SMALL], batch=2)
    assert well and errors["cards_squeezenet_ours"]["error"] == 0 and "1 nets" in summary


def test_disagreement_is_found():
    one = nets.outcome(SMALL, 2, False)
    assert {"loss_fine", "glm_loss", "conv1[0]", "fc9_coarse[1]"} <= one.keys()
    for name, change in (("conv1[0]", 1.05), ("glm_loss", np.nan)):
        other = copy.deepcopy(one)
        other[name] *= change
        error, where = nets.worst(one, other)
        assert where == name and error > nets.TOLERANCE


@pytest.mark.parametrize("section", [sections.curves, sections.parallel])
def test_curves(section):
    well, summary, values = section(False, iterations=3)
    assert well and len(values["one"]) == 4  # the last is that after the training
    assert len(set(values["one"])) > 1


def test_curves_that_part_are_found():
    one = np.array([2.0, 1.0])
    assert training.difference(one, one * [1, 1.02]) == pytest.approx(0.02)
    with pytest.raises(RuntimeError, match="2 and 1 iterations"):
        training.difference(one, one[:1])


def test_speed_and_share_are_measured():
    well, summary, rates = sections.images_per_second(
        False,
        lambda function, *args: function(*args),
        {"squeezenet": 1},
        "prototxt/cards_{}_sm_solver.prototxt",
        seconds=0.01,
        rounds=1,
    )
    assert well and rates["squeezenet"]["caffe_float32"] > 0 and "squeezenet" in summary
    well, summary, share = sections.glm_share(False, "cards_squeezenet", 2, 0.01, 1)
    assert well and share["share"] < 1 and share["step"] > 0


@pytest.mark.parametrize("name", ["cards_squeezenet", "cub_alexnet", "cub_googlenet"])
def test_torch_runs_the_same_net(name):
    """Losses and gradients of Caffe's and PyTorch's net with the same weights."""
    torch = pytest.importorskip("torch", reason="PyTorch isn't installed")
    solver = solver_net.read_solver(f"prototxt/{name}_sm_solver.prototxt")
    proto, tree = training_net(solver, 2)
    nets.without_dropout(proto)
    net = nets.random_net(proto, False, tree[:2])
    reference = torch_net.TorchNet(
        proto, {layer: [blob.data for blob in blobs] for layer, blobs in net.params.items()}, "cpu"
    )
    loss = reference(*(torch.tensor(net.blobs[blob].data) for blob in ("data", "label")))
    loss.backward()
    expected = sum(
        net.forward()[top] * (layer.loss_weight[0] if layer.loss_weight else 1)
        for layer in proto.layer
        if layer.type == "SoftmaxWithLoss"
        for top in layer.top
    )
    assert loss.item() == pytest.approx(float(expected), rel=1e-4)
    net.backward()
    for layer, blobs in net.params.items():
        for blob, tensor in zip(blobs, reference.parameters[layer], strict=True):
            gradient = tensor.grad.numpy()
            error = np.linalg.norm(gradient - blob.diff) / np.linalg.norm(blob.diff)
            assert error < nets.TOLERANCE, layer


def test_layers_without_a_counterpart_are_named():
    from caffe.proto import caffe_pb2

    net = text_format.Parse(
        'name: "n" layer { name: "a" type: "Python" }', caffe_pb2.NetParameter()
    )
    with pytest.raises(UserError, match="net n has layers that have no counterpart .*: Python"):
        torch_net.TorchNet(net, {}, "cpu")


@pytest.mark.parametrize(
    "body, expected",
    [
        ("echo '[  FAILED  ] A/2.b, where'; echo '[  PASSED  ] 3 tests.'; exit 1", (3, ["A/2.b"])),
        ("echo '[  PASSED  ] 3 tests.'", (3, [])),
        ("echo boom; exit 134", None),
    ],
)
def test_gtest_output(tmp_path, body, expected):
    program = tmp_path / "tests"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    if expected:
        assert suites.gtests(program, tmp_path) == expected
    else:
        with pytest.raises(RuntimeError, match="status 134: boom"):
            suites.gtests(program, tmp_path)


def test_pytest_output(tmp_path):
    path = tmp_path / "test_some.py"
    path.write_text(
        "import pytest\ndef test_a(): pass\ndef test_b(): assert 0\n"
        "@pytest.mark.skip\ndef test_c(): pass\n"
    )
    assert suites.pytests(path) == (1, 1, ["test_b"])
    path.write_text("import pytest\npytest.skip('no GPU', allow_module_level=True)\n")
    assert suites.pytests(path) == (0, 1, [])
    with pytest.raises(RuntimeError, match="status 4"):
        suites.pytests(tmp_path / "none.py")
