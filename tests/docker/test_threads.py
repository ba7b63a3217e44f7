"""Caffe on several threads: the same bits for any number of them, bounded memory, no spinning."""

import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import caffe
import numpy as np
import pytest

# A net of every layer that computes in parallel: strips of a large image, several small images at
# once, groups, strides, dilation, 1 x 1, and batches that are divided for the weights' gradients.
NET = """
name: "threads"
layer { name: "data" type: "Input" top: "data" top: "label"
        input_param { shape { dim: 6 dim: 3 dim: 67 dim: 67 } shape { dim: 6 } } }
layer { name: "c1" type: "Convolution" bottom: "data" top: "c1"
        convolution_param { num_output: 32 kernel_size: 7 stride: 2 pad: 3
          weight_filler { type: "xavier" } } }
layer { name: "r1" type: "ReLU" bottom: "c1" top: "c1" }
layer { name: "n1" type: "LRN" bottom: "c1" top: "n1"
        lrn_param { local_size: 5 alpha: 0.01 beta: 0.75 } }
layer { name: "p1" type: "Pooling" bottom: "n1" top: "p1"
        pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "c2" type: "Convolution" bottom: "p1" top: "c2"
        convolution_param { num_output: 64 kernel_size: 3 pad: 1 group: 2
          weight_filler { type: "xavier" } } }
layer { name: "b2" type: "BatchNorm" bottom: "c2" top: "b2" }
layer { name: "s2" type: "Scale" bottom: "b2" top: "s2" scale_param { bias_term: true } }
layer { name: "c3" type: "Convolution" bottom: "p1" top: "c3"
        convolution_param { num_output: 64 kernel_size: 1
          weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Eltwise" bottom: "s2" bottom: "c3" top: "sum" }
layer { name: "p2" type: "Pooling" bottom: "sum" top: "p2"
        pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "c4" type: "Convolution" bottom: "p2" top: "c4"
        convolution_param { num_output: 160 kernel_size: 3 pad: 2 dilation: 2
          weight_filler { type: "xavier" } } }
layer { name: "c5" type: "Convolution" bottom: "p2" top: "c5"
        convolution_param { num_output: 160 kernel_size: 1
          weight_filler { type: "xavier" } } }
layer { name: "cat" type: "Concat" bottom: "c4" bottom: "c5" top: "cat" }
layer { name: "f1" type: "InnerProduct" bottom: "cat" top: "f1"
        inner_product_param { num_output: 512 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "f1" top: "f1" }
layer { name: "f2" type: "InnerProduct" bottom: "f1" top: "f2"
        inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "f2" bottom: "label" top: "loss" }
"""

# The digest of all weights and gradients after two steps.
TRAIN = """
import hashlib, sys
import caffe, numpy as np
solver = caffe.get_solver(sys.argv[1])
rng = np.random.default_rng(5)
for step in range(2):
    solver.net.blobs["data"].data[...] = rng.standard_normal((6, 3, 67, 67))
    solver.net.blobs["label"].data[...] = rng.integers(0, 7, 6)
    solver.step(1)
digest = hashlib.sha256()
for layer in solver.net.layers:
    for blob in layer.blobs:
        digest.update(blob.data.tobytes() + blob.diff.tobytes())
for blob in solver.net.blobs.values():
    digest.update(blob.data.tobytes() + blob.diff.tobytes())
assert np.isfinite(solver.net.blobs["loss"].data)
print(digest.hexdigest())
"""


def run(code, *arguments, **environment):
    """What a Python program prints that uses Caffe with these variables alone."""
    clean = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env=clean | {"GLOG_minloglevel": "1"} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def write_solver(folder):
    (folder / "net.prototxt").write_text(NET)
    solver = folder / "solver.prototxt"
    solver.write_text(
        f'net: "{folder}/net.prototxt" base_lr: 0.01 momentum: 0.9 weight_decay: 0.001\n'
        'lr_policy: "fixed" random_seed: 3 max_iter: 9 snapshot_after_train: false\n'
    )
    return solver


def test_the_same_bits_for_any_number_of_threads(tmp_path):
    solver = write_solver(tmp_path)
    digests = [
        run(TRAIN, solver, OMP_NUM_THREADS=number)[0] for number in ("1", "2", "2", "3", "5", "16")
    ]
    assert len(digests[0]) == 2 * hashlib.sha256().digest_size
    assert len(set(digests)) == 1


# input, outputs, kernel, stride, pad, dilation, groups
SHAPES = {
    "strips": ((2, 16, 90, 70), 24, 3, 1, 1, 1, 1),
    "strips of a strided layer": ((3, 3, 131, 99), 40, 7, 2, 3, 1, 1),
    "no padding": ((2, 8, 40, 33), 16, 5, 1, 0, 1, 1),
    "large stride": ((2, 3, 63, 63), 96, 11, 4, 0, 1, 1),
    "dilation": ((3, 6, 30, 31), 12, 3, 1, 2, 2, 1),
    "small images at once": ((11, 160, 7, 7), 130, 3, 1, 1, 1, 1),
    "small images, 1 x 1": ((9, 96, 5, 6), 70, 1, 1, 0, 1, 1),
    "one pixel": ((5, 40, 1, 1), 9, 3, 1, 1, 1, 1),
    "wide padding": ((4, 5, 3, 4), 6, 3, 2, 4, 1, 1),
    "1 x 1": ((2, 32, 61, 67), 16, 1, 1, 0, 1, 1),
    "1 x 1, strided": ((2, 32, 31, 27), 16, 1, 2, 0, 1, 1),
    "groups": ((3, 12, 27, 27), 18, 5, 1, 2, 1, 3),
    "depthwise": ((2, 24, 19, 19), 24, 3, 1, 1, 1, 24),
    "many weights": ((1, 256, 9, 9), 512, 3, 1, 1, 1, 1),
}


def convolve(x, w, bias, stride, pad, dilation, groups, top_diff):
    """Top, and the gradients of bottom, weights and bias, of a convolution in float64."""
    n, channels, height, width = x.shape
    outputs, depth, kernel, _ = w.shape
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    out_h, out_w = top_diff.shape[2:]
    top = np.zeros(top_diff.shape) + bias[:, None, None]
    padded_diff, w_diff = np.zeros(padded.shape), np.zeros(w.shape)
    for group in range(groups):
        ins = slice(group * depth, (group + 1) * depth)
        outs = slice(group * outputs // groups, (group + 1) * outputs // groups)
        for i in range(kernel):
            for j in range(kernel):
                rows = slice(i * dilation, i * dilation + (out_h - 1) * stride + 1, stride)
                columns = slice(j * dilation, j * dilation + (out_w - 1) * stride + 1, stride)
                part = padded[:, ins, rows, columns]
                weights = w[outs, :, i, j]
                top[:, outs] += np.einsum("oc,nchw->nohw", weights, part)
                w_diff[outs, :, i, j] += np.einsum("nohw,nchw->oc", top_diff[:, outs], part)
                padded_diff[:, ins, rows, columns] += np.einsum(
                    "oc,nohw->nchw", weights, top_diff[:, outs]
                )
    bottom_diff = padded_diff[:, :, pad : pad + height, pad : pad + width]
    return top, bottom_diff, w_diff, top_diff.sum((0, 2, 3))


@pytest.mark.parametrize("shape", SHAPES)
def test_convolution_against_float64(shape, tmp_path):
    size, outputs, kernel, stride, pad, dilation, groups = SHAPES[shape]
    net = tmp_path / "net.prototxt"
    dims = " ".join(f"dim: {one}" for one in size)
    net.write_text(
        f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}\n'
        'layer { name: "y" type: "Convolution" bottom: "x" top: "y" convolution_param {\n'
        f"  num_output: {outputs} kernel_size: {kernel} stride: {stride} pad: {pad}\n"
        f"  dilation: {dilation} group: {groups} }} }}\n"
        "force_backward: true\n"
    )
    net = caffe.Net(str(net), caffe.TRAIN)
    rng = np.random.default_rng(len(shape))
    weights, bias = net.params["y"]
    for blob in (weights, bias, net.blobs["x"]):
        blob.data[...] = rng.standard_normal(blob.data.shape)
    net.blobs["y"].diff[...] = rng.standard_normal(net.blobs["y"].diff.shape)
    for blob in (weights, bias):  # gradients of weights are added
        blob.diff[...] = 1
    net.forward()
    net.backward()
    top, bottom_diff, w_diff, bias_diff = convolve(
        *(blob.data.astype(float) for blob in (net.blobs["x"], weights, bias)),
        stride,
        pad,
        dilation,
        groups,
        net.blobs["y"].diff.astype(float),
    )
    found_and_expected = [
        (net.blobs["y"].data, top),
        (net.blobs["x"].diff, bottom_diff),
        (weights.diff, w_diff + 1),
        (bias.diff, bias_diff + 1),
    ]
    for found, expected in found_and_expected:
        assert np.abs(found - expected).max() < 1e-5 * max(1, np.abs(expected).max())


COUNT = """
import os, sys
import caffe
net = caffe.Net(sys.argv[1], caffe.TRAIN)
net.forward()
print(sum(open(f"/proc/self/task/{one}/comm").read() == "caffe compute\\n"
          for one in os.listdir("/proc/self/task")))
"""


@pytest.mark.parametrize(
    "environment, threads",
    [
        ({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "4"}, 1),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"OPENBLAS_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "many", "OPENBLAS_NUM_THREADS": "3"}, 3),
        ({}, len(os.sched_getaffinity(0))),
    ],
)
def test_number_of_threads(environment, threads, tmp_path):
    write_solver(tmp_path)
    out, errors = run(COUNT, tmp_path / "net.prototxt", **environment)
    assert int(out) == threads - 1  # beside the calling one
    assert ("OMP_NUM_THREADS='many' is no number of threads" in errors) == (
        environment.get("OMP_NUM_THREADS") == "many"
    )


def test_memory_of_column_buffers_is_bounded(tmp_path):
    """A layer like VGG-16's second: the columns of one image are 115 MB, blobs 103 MB."""
    net = tmp_path / "net.prototxt"
    net.write_text(
        'layer { name: "x" type: "Input" top: "x"\n'
        "  input_param { shape { dim: 4 dim: 64 dim: 224 dim: 224 } } }\n"
        'layer { name: "y" type: "Convolution" bottom: "x" top: "y"\n'
        "  convolution_param { num_output: 64 kernel_size: 3 pad: 1 } }\n"
    )
    code = """
    import sys
    import caffe
    def peak():
        return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
    net = caffe.Net(sys.argv[1], caffe.TRAIN)
    for blob in net.blobs.values():
        blob.data[...] = 1
    before = peak()
    net.forward()
    print(peak() - before)
    """
    grown, _ = run(code, net, OMP_NUM_THREADS="4")
    assert float(grown) < 60


def test_waiting_threads_sleep_and_children_have_their_own(tmp_path):
    write_solver(tmp_path)
    code = """
    import os, sys, time
    import caffe
    net = caffe.Net(sys.argv[1], caffe.TRAIN)
    net.forward()
    before = time.process_time()
    time.sleep(0.5)
    print(time.process_time() - before)
    sys.stdout.flush()
    child = os.fork()
    if not child:
        net.forward()
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    seconds, status = run(code, tmp_path / "net.prototxt", OMP_NUM_THREADS="3")[0].split()
    assert float(seconds) < 0.05 and status == "7"


@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler: the loops are not tested alone")
def test_loops(tmp_path):
    """parallel_loops.cpp, against the library that `caffe` on PATH uses."""
    prefix = Path(shutil.which("caffe")).resolve().parents[1]
    program = tmp_path / "loops"
    subprocess.run(
        [
            "g++",
            f"-I{prefix}/include",
            str(Path(__file__).with_name("parallel_loops.cpp")),
            "-o",
            str(program),
            f"-L{prefix}/lib",
            f"-Wl,-rpath,{prefix}/lib",
            "-lcaffe",
            "-lpthread",
        ],
        check=True,
    )
    done = subprocess.run(
        [program], env=os.environ | {"OMP_NUM_THREADS": "4"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
