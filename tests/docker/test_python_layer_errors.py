"""An exception in a Python layer ends the real caffe binary with its traceback and one sentence."""

import os
import signal
import subprocess

import caffe
import pytest

NET = """
name: "failing"
layer {{ name: "data" type: "DummyData" top: "data"
        dummy_data_param {{ shape {{ dim: 2 dim: 3 }} }} }}
layer {{ name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
        inner_product_param {{ num_output: 2 }} }}
layer {{ name: "failing" type: "Python" bottom: "fc" top: "loss" loss_weight: 1
        python_param {{ module: "{module}" layer: "{layer}" param_str: '{hook}' }} }}
"""

SOLVER = """
net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 100000 display: 1
snapshot_prefix: "s"
"""

STOPPED = "] caffe {} stopped: a Python layer raised {}"

LAYERS = """
import sys
import caffe

class Failing(caffe.Layer):
    failure = ValueError("seven is not allowed")

    def fail_in(self, hook):
        if self.param_str == hook:
            raise self.failure

    def setup(self, bottom, top):
        self.fail_in("setup")

    def reshape(self, bottom, top):
        self.fail_in("reshape")
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.fail_in("forward")

    def backward(self, top, propagate_down, bottom):
        self.fail_in("backward")

class Exiting(Failing):
    failure = SystemExit(0)

class Unprintable(Failing):
    class failure(Exception):
        def __str__(self):
            raise RuntimeError("no")

class Empty(Failing):
    failure = AssertionError()

class Unborn(caffe.Layer):
    def __init__(self, *arguments):
        raise OSError("no room")

class Waiting(Failing):
    # says when it is in Python code, and stays there until its standard input ends
    def forward(self, bottom, top):
        print("in forward", flush=True)
        sys.stdin.readline()
"""


def start(folder, command="train", module="layers", layer="Failing", hook="none"):
    (folder / "layers.py").write_text(LAYERS)
    (folder / "net.prototxt").write_text(NET.format(module=module, layer=layer, hook=hook))
    (folder / "solver.prototxt").write_text(SOLVER)
    arguments = {
        "train": ["-solver", "solver.prototxt"],
        "time": ["-model", "net.prototxt", "-iterations", "100000"],
    }[command]
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "GLOG_minloglevel": "0"}
    # A job that a script starts in the background inherits an ignored Ctrl-C; a user's does not.
    return subprocess.Popen(
        ["caffe", command, *arguments],
        cwd=folder,
        env=env,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def outcome(*arguments, **options):
    """(exit status, lines printed)"""
    process = start(*arguments, **options)
    output = process.communicate()[0]
    return process.returncode, output.strip().splitlines()


@pytest.mark.parametrize("hook", ["setup", "reshape", "forward", "backward"])
def test_every_hook_ends_with_traceback_and_sentence(tmp_path, hook):
    status, lines = outcome(tmp_path, hook=hook)
    assert status == 1
    assert lines[-1].endswith(STOPPED.format("train", "ValueError: seven is not allowed"))
    assert "Traceback (most recent call last):" in lines
    assert any(f"in {hook}" in line for line in lines)
    assert lines[-2] == "ValueError: seven is not allowed"  # the traceback, once, right before


@pytest.mark.parametrize(
    "options, sentence",
    [
        (dict(module="no_such_module"), "ModuleNotFoundError: No module named 'no_such_module'"),
        (
            dict(layer="NoSuchLayer"),
            "AttributeError: module 'layers' has no attribute 'NoSuchLayer'",
        ),
        (dict(layer="Unborn"), "OSError: no room"),
        (dict(layer="Exiting", hook="forward"), "SystemExit: 0"),  # no exit with status 0
        (dict(layer="Empty", hook="forward"), "AssertionError"),
        (dict(layer="Unprintable", hook="forward"), "failure (its message cannot be shown)"),
    ],
)
def test_import_constructor_and_odd_exceptions(tmp_path, options, sentence):
    status, lines = outcome(tmp_path, **options)
    assert status == 1
    assert lines[-1].endswith(STOPPED.format("train", sentence))


def test_other_commands_name_themselves(tmp_path):
    status, lines = outcome(tmp_path, command="time", hook="forward")
    assert status == 1
    assert lines[-1].endswith(STOPPED.format("time", "ValueError: seven is not allowed"))


def test_pycaffe_gets_the_exception_itself(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET.format(module="no_such_module", layer="X", hook=""))
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        caffe.Net(str(tmp_path / "net.prototxt"), caffe.TRAIN)


@pytest.mark.parametrize(
    "command, status, last",
    [
        ("train", 0, "Optimization Done."),  # Caffe's own handler: stop after the iteration
        ("time", -signal.SIGINT, None),
    ],
)
def test_ctrl_c_stays_caffes_own(tmp_path, command, status, last):
    process = start(tmp_path, command=command, layer="Waiting")
    for line in process.stdout:
        if line == "in forward\n":
            break
    process.send_signal(signal.SIGINT)
    output = process.communicate()[0]
    assert process.returncode == status
    assert "Traceback" not in output
    if last:
        assert output.strip().endswith(last)
        assert list(tmp_path.glob("s_iter_*.caffemodel"))
