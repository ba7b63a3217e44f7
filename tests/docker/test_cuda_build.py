"""A build of docker/build_caffe.sh --cuda, if there is one: its behavior without a GPU.

CAFFE_CUDA_PREFIX names it; without that, the newest ~/.local/caffe-cuda*. What it does on a GPU is
for Caffe's own tests (build_caffe.sh --test) and tools/gpu/check.py.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOLVER = """
net: "net.prototxt" base_lr: 0.05 momentum: 0.9 lr_policy: "fixed" max_iter: 12 display: 1
random_seed: 1 snapshot_prefix: "s" snapshot_after_train: false
"""

# a layer of each kind that cuDNN has
NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
    shape { dim: 8 dim: 4 dim: 12 dim: 12 } shape { dim: 8 }
    data_filler { type: "gaussian" } data_filler { type: "uniform" max: 2.9 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {
    num_output: 8 kernel_size: 3 group: 2 weight_filler { type: "xavier" } } }
layer { name: "deconv" type: "Deconvolution" bottom: "conv" top: "deconv" convolution_param {
    num_output: 4 kernel_size: 2 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "deconv" top: "deconv" }
layer { name: "lrn" type: "LRN" bottom: "deconv" top: "lrn" }
layer { name: "lcn" type: "LRN" bottom: "lrn" top: "lcn"
        lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 } }
layer { name: "pool" type: "Pooling" bottom: "lcn" top: "pool"
        pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "sigmoid" type: "Sigmoid" bottom: "pool" top: "sigmoid" }
layer { name: "tanh" type: "TanH" bottom: "sigmoid" top: "tanh" }
layer { name: "dropout" type: "Dropout" bottom: "tanh" top: "tanh" }
layer { name: "fc" type: "InnerProduct" bottom: "tanh" top: "fc"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""


def cuda_prefix():
    if "CAFFE_CUDA_PREFIX" in os.environ:
        return Path(os.environ["CAFFE_CUDA_PREFIX"])
    builds = (Path.home() / ".local").glob("caffe-cuda*/BUILD")
    return max((path.parent for path in builds), key=os.path.getmtime, default=None)


PREFIX = cuda_prefix()
pytestmark = pytest.mark.skipif(PREFIX is None, reason="no build for CUDA: ~/.local/caffe-cuda*")


def run(*command, cwd=None, **variables):
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "GLOG_minloglevel": "0", **variables},
    )


def pycaffe(code, **variables):
    return run(sys.executable, "-c", code, PYTHONPATH=str(PREFIX / "python"), **variables)


@pytest.fixture
def no_gpu():
    if run(PREFIX / "bin" / "caffe", "device_query").returncode == 0:
        pytest.skip("there is a GPU here")


def curve(caffe, folder):
    """Losses that `caffe train` prints on the CPU."""
    (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text(SOLVER)
    done = run(caffe, "train", "-solver", "solver.prototxt", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Use CPU." in done.stderr and not re.search("^E", done.stderr, re.MULTILINE)
    return re.findall(r"Iteration \d+.*, loss = (\S+)", done.stderr)


def test_every_library_is_found_without_help():
    files = [
        PREFIX / "bin" / "caffe",
        PREFIX / "lib" / "libcaffe.so",
        PREFIX / "python" / "caffe" / "_caffe.so",
        *(PREFIX / "cuda" / "lib").glob("*.so*"),
    ]
    for path in files:
        done = run("ldd", path, LD_LIBRARY_PATH="")
        assert "not found" not in done.stdout, path
    linked = run("ldd", files[0], LD_LIBRARY_PATH="").stdout
    for name in ["cudart", "cublas", "curand", "cudnn", "nccl"]:
        path = re.search(rf"lib{name}\.so\.\d+ => (\S+)", linked).group(1)
        assert Path(path).resolve().parent == (PREFIX / "cuda" / "lib").resolve()


def test_training_on_the_cpu_needs_no_gpu_and_gives_the_cpu_builds_curve(tmp_path):
    losses = curve(PREFIX / "bin" / "caffe", tmp_path)
    assert len(losses) == 13
    assert losses == curve(shutil.which("caffe"), tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        ["device_query"],
        ["train", "-solver", "s", "-gpu", "0"],
        ["train", "-solver", "s", "-gpu", "all"],
        ["test", "-model", "n", "-weights", "w", "-gpu", "0"],
        ["time", "-model", "n", "-gpu", "0"],
        ["train", "-solver", "gpu"],
    ],
    ids=" ".join,
)
def test_gpu_flag_without_a_gpu(no_gpu, tmp_path, command):
    (tmp_path / "s").write_text(SOLVER)
    (tmp_path / "gpu").write_text(SOLVER + "solver_mode: GPU")
    done = run(PREFIX / "bin" / "caffe", *command, cwd=tmp_path)
    assert done.returncode == 1
    assert "There is no GPU to use: " in done.stderr and "Check failed" not in done.stderr


def test_nccl_id_is_whole():
    done = pycaffe("import caffe; assert caffe.has_nccl(); print(caffe.NCCL.new_uid().hex())")
    assert done.returncode == 0, done.stderr
    uid = bytes.fromhex(done.stdout.strip())
    assert len(uid) == 128
    assert uid.rstrip(b"\0").count(0) > 0  # a C string of it would be shorter


@pytest.mark.parametrize(
    "value, limit",
    [
        (None, 256 << 20),
        ("", 256 << 20),
        ("0", 0),
        ("4096", 4 << 30),
        ("-1", None),
        ("1e3", None),
        ("65537", None),
    ],
)
def test_workspace_limit(value, limit):
    variables = {} if value is None else {"CAFFE_CUDNN_WORKSPACE_MB": value}
    done = pycaffe(
        "import ctypes; "
        f"f = ctypes.CDLL('{PREFIX}/lib/libcaffe.so')._ZN5caffe19CuDNNWorkspaceLimitEv; "
        "f.restype = ctypes.c_size_t; print(f())",
        **variables,
    )
    if limit is not None:
        assert done.stdout.strip() == str(limit), done.stderr
    else:
        assert done.returncode != 0 and not done.stdout
        assert f"variable CAFFE_CUDNN_WORKSPACE_MB is '{value}'" in done.stderr


@pytest.fixture(scope="module")
def cudnn_choices(tmp_path_factory):
    """The program of cudnn_choices.cpp, with the build's libcaffe."""
    program = tmp_path_factory.mktemp("cudnn") / "choices"
    done = run(
        "g++",
        "-O0",
        "-w",
        "-rdynamic",
        "-DUSE_CUDNN",
        f"-I{PREFIX}/include",
        f"-I{PREFIX}/cuda/include",
        Path(__file__).with_name("cudnn_choices.cpp"),
        f"-L{PREFIX}/lib",
        f"-Wl,-rpath,{PREFIX}/lib:{PREFIX}/cuda/lib",
        f"-Wl,-rpath-link,{PREFIX}/cuda/lib",
        "-lcaffe",
        "-lboost_thread",
        "-lglog",
        "-o",
        program,
    )
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.parametrize("switch", [None, "CAFFE_TF32", "CAFFE_CUDNN_FIND"])
def test_choice_of_convolution_algorithms(cudnn_choices, switch):
    done = run(cudnn_choices, **({switch: "1"} if switch else {}))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "for the workspace of a convolution" in done.stderr
