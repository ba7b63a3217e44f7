"""Nets as found in the field: read, brought to Caffe's current format, run once for their shapes.

Caffe ends its process where a net is wrong. So it runs here as a process of its own, whose last
words become the error's sentence.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from data_prep.common import prototxt
from data_prep.common.errors import UserError
from tools.pycaffe import caffe, caffe_pb2

UPGRADE = "upgrade_net_proto_text"
_SHAPES = """
import json, sys, caffe
net = caffe.Net(sys.argv[1], caffe.TEST)
print(json.dumps([{name: list(blob.shape) for name, blob in net.blobs.items()},
                  {name: [list(blob.shape) for blob in blobs]
                   for name, blobs in net.params.items()}]))
"""


def _last_words(log):
    """The last error that a program logged with glog, or its last line."""
    logged = re.findall(r"^[EF]\d{4}.*?\] (.*)", log, re.MULTILINE)
    lines = log.strip().splitlines()
    return logged[-1] if logged else lines[-1] if lines else "no message"


def _upgrade_tool():
    """Path of Caffe's own upgrade program: installed with pycaffe, or on PATH."""
    installed = Path(caffe.__file__).resolve().parents[2] / "bin" / UPGRADE
    found = installed if installed.is_file() else shutil.which(UPGRADE)
    if not found:
        raise UserError(
            f"Caffe's program {UPGRADE} is neither at {installed} nor on PATH: run "
            "`make setup`, which builds it"
        )
    return str(found)


def read(path):
    """NetParameter of a prototxt in any format that Caffe has had, upgraded by Caffe itself.

    Fields `input`, `layers` (V0, V1) and the data layers' old parameters are then gone.
    """
    path = Path(path)
    net = prototxt.read(path, caffe_pb2.NetParameter())
    if net.layer or net.layers:
        with tempfile.TemporaryDirectory() as folder:
            new = Path(folder, "net.prototxt")
            done = subprocess.run(
                [_upgrade_tool(), str(path.resolve()), str(new)],
                capture_output=True,
                text=True,
                errors="replace",
            )
            if done.returncode or not new.is_file():
                raise UserError(f"{path} can't be upgraded by Caffe: {_last_words(done.stderr)}")
            net = prototxt.read(new, caffe_pb2.NetParameter())
    if not net.layer:
        raise UserError(f"{path} has no layers: it is no net")
    return net


def shapes(layers, inputs, name):
    """({blob: shape}, {layer with weights: [shapes]}) of layers in tests, as Caffe sets them up.

    layers  LayerParameters, whose rules are ignored
    inputs  {blob: shape} that they read
    name    of the net, for the UserError where Caffe refuses it
    """
    net = caffe_pb2.NetParameter()
    for blob, shape in inputs.items():
        net.layer.add(
            name=blob, type="Input", top=[blob], input_param=dict(shape=[dict(dim=shape)])
        )
    for layer in layers:
        copy = net.layer.add()
        copy.CopyFrom(layer)
        for field in ("include", "exclude"):
            copy.ClearField(field)
        for part in ("convolution_param", "inner_product_param"):
            if copy.HasField(part):  # random numbers take seconds, and are not looked at
                getattr(copy, part).ClearField("weight_filler")
    with prototxt.as_file(net) as path:
        done = subprocess.run(
            [sys.executable, "-c", _SHAPES, path],
            capture_output=True,
            text=True,
            errors="replace",
        )
    if done.returncode:
        raise UserError(f"Caffe refuses {name}: {_last_words(done.stderr)}")
    blobs, weights = json.loads(done.stdout.strip().splitlines()[-1])
    return (
        {blob: tuple(shape) for blob, shape in blobs.items()},
        {layer: [tuple(shape) for shape in found] for layer, found in weights.items()},
    )
