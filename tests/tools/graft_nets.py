"""Small nets for the tests of tools/graft.py, and the command on them in this process."""

import faulthandler
import gc
import io
import os
import sys
import tempfile
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from caffe.proto import caffe_pb2
from google.protobuf import text_format

from data_prep.common.command import command
from tools.graft import main
from tools.nets import cut, foreign, grafted, graph, set_up, sources

SIDE = 16
INPUT = """
layer { name: "in" type: "Input" top: "data"
        input_param { shape { dim: 1 dim: 3 dim: 16 dim: 16 } } }
"""
CONV = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 stride: 2 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
"""
RELU = 'layer { name: "relu1" type: "ReLU" bottom: "fc1" top: "fc1" }'
DROP = """
layer { name: "drop1" type: "Dropout" bottom: "fc1" top: "fc1"
        dropout_param { dropout_ratio: 0.3 } }
"""
FC = (
    """
layer { name: "fc1" type: "InnerProduct" bottom: "conv" top: "fc1"
        inner_product_param { num_output: 8 } }
"""
    + RELU
    + DROP
)
CLASSIFIER = """
layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2"
        inner_product_param { num_output: 10 weight_filler { type: "gaussian" std: 0.25 } } }
"""
PROB = 'layer { name: "prob" type: "Softmax" bottom: "fc2" top: "prob" }\n'
MINI = INPUT + CONV + FC + CLASSIFIER + PROB
OUTPUTS = """
layer { name: "accuracy" type: "Accuracy" bottom: "fc2" bottom: "label" top: "accuracy"
        include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc2" bottom: "label" top: "loss" }
"""
AUXILIARY = """
layer { name: "aux/fc" type: "InnerProduct" bottom: "conv" top: "aux/fc"
        inner_product_param { num_output: 10 } }
layer { name: "aux/loss" type: "SoftmaxWithLoss" bottom: "aux/fc" bottom: "label" top: "aux/loss"
        loss_weight: 0.3 }
layer { name: "aux/accuracy" type: "Accuracy" bottom: "aux/fc" bottom: "label" top: "aux/accuracy" }
"""
V0 = """
input: "data" input_dim: 1 input_dim: 3 input_dim: 16 input_dim: 16
layers { layer { name: "conv" type: "conv" num_output: 4 kernelsize: 3 stride: 2 }
         bottom: "data" top: "conv" }
layers { layer { name: "relu" type: "relu" } bottom: "conv" top: "conv" }
layers { layer { name: "fc1" type: "innerproduct" num_output: 8 } bottom: "conv" top: "fc1" }
layers { layer { name: "relu1" type: "relu" } bottom: "fc1" top: "fc1" }
layers { layer { name: "drop1" type: "dropout" dropout_ratio: 0.3 } bottom: "fc1" top: "fc1" }
layers { layer { name: "fc2" type: "innerproduct" num_output: 10 } bottom: "fc1" top: "fc2" }
layers { layer { name: "prob" type: "softmax" } bottom: "fc2" top: "prob" }
"""
V1 = """
layers { name: "data" type: DATA top: "data" top: "label"
         data_param { source: "there" batch_size: 5 scale: 0.5 crop_size: 16 mirror: true } }
layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv" blobs_lr: 1 blobs_lr: 2
         convolution_param { num_output: 4 kernel_size: 3 stride: 2 } }
layers { name: "relu" type: RELU bottom: "conv" top: "conv" }
layers { name: "fc1" type: INNER_PRODUCT bottom: "conv" top: "fc1"
         inner_product_param { num_output: 8 } }
layers { name: "relu1" type: RELU bottom: "fc1" top: "fc1" }
layers { name: "drop1" type: DROPOUT bottom: "fc1" top: "fc1" dropout_param { dropout_ratio: 0.3 } }
layers { name: "fc2" type: INNER_PRODUCT bottom: "fc1" top: "fc2"
         inner_product_param { num_output: 10 } }
layers { name: "loss" type: SOFTMAX_LOSS bottom: "fc2" bottom: "label" }
"""


def replaced(text, old, new):
    assert old in text
    return text.replace(old, new)


def data_layers(transform, kind="Data", param='data_param { source: "there" batch_size: 5 }'):
    """A layer for images and labels, in both phases."""
    return (
        f'layer {{ name: "data" type: "{kind}" top: "data" top: "label" '
        f"transform_param {{ {transform} }} {param} }}\n"
    )


ONE = ("--data", "data", "--out", "nets", "--variant", "ours", "--max-iter", 2, "--train-batch", 4)


def graft(text, *options):
    """The command on a prototxt, which is written to the current folder: status and output."""
    content = text if isinstance(text, bytes) else text.encode()
    Path("mini_deploy.prototxt").write_bytes(content)
    arguments = ["graft.py", "--net", "mini_deploy.prototxt", *map(str, options)]
    out, err = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())
    with mock.patch.object(sys, "argv", arguments), redirect_stdout(out), redirect_stderr(err):
        try:
            command(main)
        except SystemExit as end:
            status = end.code
    said = []
    for stream in (out, err):
        stream.flush()
        said.append(stream.buffer.getvalue().decode())
    return SimpleNamespace(returncode=status, stdout=said[0], stderr=said[1])


def written(done, name="nets/mine_mini_train_val.prototxt"):
    """NetParameter that the command wrote, having said so."""
    assert done.returncode == 0, done.stderr
    assert "wrote " in done.stdout and done.stderr == ""
    return text_format.Parse(Path(name).read_text(), caffe_pb2.NetParameter())


def backbone(tmp_path, text, feature=None, **options):
    """cut.Backbone of a prototxt, as the command makes it."""
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    read = foreign.read(path)
    nodes = graph.nodes(read.net)
    blob = feature or nodes[cut.find_classifier(nodes)].layer.bottom[0]
    found = cut.find_feature(nodes, blob)
    images = sources.find_images(nodes, cut.image_of(nodes, found))
    return grafted.graft(read, nodes, found, images, "mini", "", **options).backbone


def in_child(run):
    """CompletedProcess of run(), in a fork of this process, which has loaded Caffe already."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with warnings.catch_warnings():
            # Python 3.12 warns of locks of other threads; those of BLAS wait, and hold none
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            gc.disable()  # it would visit, and so copy, all objects of pytest
            faulthandler.disable()  # pytest's
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            status = 1
            try:
                run()
                status = 0
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return SimpleNamespace(returncode=status, stdout=texts[0], stderr=texts[1])


def set_up_in_child(path):
    """As foreign.set_up, without the start of a Python."""

    def run():
        with (
            os.fdopen(1, "w", closefd=False) as out,
            os.fdopen(2, "w", closefd=False) as err,
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            set_up.main(path, foreign.MEMORY)

    return in_child(run)
