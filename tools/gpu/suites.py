"""Test programs of others that a check runs: Caffe's CUDA tests, and this repository's on CuPy."""

import os
import re
import subprocess
import sys
from pathlib import Path

from . import machine

# Test cases of what the nets of prototxt/ and their training use. A case of layers exists four
# times: /0 and /1 in CPU mode, /2 and /3 in GPU mode, float and double. cuDNN's are apart. Cases
# that read files of Caffe's source, such as SGD's, run only where Caffe was built: left out.
LAYER_CASES = (
    "ConcatLayerTest",
    "ConvolutionLayerTest",
    "DataLayerTest",
    "EltwiseLayerTest",
    "FlattenLayerTest",
    "InnerProductLayerTest",
    "LRNLayerTest",
    "MaxPoolingDropoutTest",
    "NetTest",
    "NeuronLayerTest",
    "PoolingLayerTest",
    "PowerLayerTest",
    "ScaleLayerTest",
    "SliceLayerTest",
    "SoftmaxLayerTest",
    "SoftmaxWithLossLayerTest",
    "SolverTest",
    "SplitLayerTest",
    "AccuracyLayerTest",
    "BlobMathTest",
)
CUDNN_CASES = (
    "CuDNNConvolutionLayerTest",
    "CuDNNLRNLayerTest",
    "CuDNNNeuronLayerTest",
    "CuDNNPoolingLayerTest",
    "CuDNNSoftmaxLayerTest",
)
FILTER = ":".join(
    [f"{case}/{kind}.*" for case in LAYER_CASES for kind in (2, 3)]
    + [f"{case}/*" for case in CUDNN_CASES]
)


def gtest_program():
    """(test program, folder to run it in) of the build whose caffe is on PATH, or of the variable
    CAFFE_TESTS=PROGRAM:FOLDER; None if it was not built."""
    if given := os.environ.get("CAFFE_TESTS"):
        program, _, folder = given.partition(":")
        return Path(program), Path(folder)
    where = machine.prefix()
    work = where and Path(f"{where}.build")
    program = work and work / "build" / "test" / "test.testbin"
    return (program, work / "source") if program and program.is_file() else None


def gtests(program, folder, chosen=FILTER):
    """(passed, names of the failed) of Caffe's tests."""
    done = subprocess.run(
        [program, f"--gtest_filter={chosen}"],
        cwd=folder,
        text=True,
        capture_output=True,
        errors="replace",
    )
    failed = sorted(set(re.findall(r"^\[  FAILED  \] ([\w/]+\.\w+)", done.stdout, re.MULTILINE)))
    passed = re.search(r"^\[  PASSED  \] (\d+) test", done.stdout, re.MULTILINE)
    if not passed or (done.returncode and not failed):
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise RuntimeError(f"Caffe's tests ended with status {done.returncode}: {' '.join(last)}")
    return int(passed[1]), failed


def pytests(path):
    """(passed, skipped, names of the failed) of a file of this repository's tests."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-rfE",
            "--durations=0",
            "-p",
            "no:cacheprovider",
            path,
        ],
        text=True,
        capture_output=True,
    )
    counts = dict(
        (what, int(number))
        for number, what in re.findall(
            r"(\d+) (passed|skipped|failed|error)", done.stdout.strip().rpartition("\n")[2]
        )
    )
    failed = re.findall(r"^(?:FAILED|ERROR) \S+?::(\S+)", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1, 5) or not counts:  # 5: all of the file was skipped
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise RuntimeError(f"pytest ended with status {done.returncode}: {' '.join(last)}")
    return counts.get("passed", 0), counts.get("skipped", 0), failed
