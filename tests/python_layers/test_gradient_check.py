"""Caffe's GradientChecker, compiled against the installed Caffe, over the real Python layers."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from batches import smooth_batch
from caffe.proto import caffe_pb2
from google.protobuf import text_format

SOURCE = Path(__file__).with_name("gradient_check.cpp")
LIBRARIES = ["caffe", "protobuf", "glog", "gflags", "gtest", "boost_system", "pthread"]

STEP, THRESHOLD = 0.005, 0.005


@pytest.fixture(scope="session")
def gradient_check(request):
    """The compiled checker; kept between runs for the same source and Caffe."""
    binary = shutil.which("caffe")
    assert binary, "caffe is not on PATH: run `. .venv/bin/activate`"
    prefix = Path(binary).resolve().parent.parent
    library = (prefix / "lib" / "libcaffe.so").resolve()
    stamp = f"{SOURCE.read_text()}{library}{library.stat().st_mtime_ns}"
    name = "gradient_check_" + hashlib.sha256(stamp.encode()).hexdigest()[:16]
    program = Path(request.config.cache.mkdir("gradient_check")) / name
    if not program.exists():
        beside = program.with_suffix(".new")
        subprocess.run(
            ["g++", "-std=c++14", "-O1", "-DCPU_ONLY", f"-I{prefix}/include", str(SOURCE),
             "-o", str(beside), f"-L{prefix}/lib", f"-Wl,-rpath,{prefix}/lib",
             *(f"-l{library}" for library in LIBRARIES)], check=True)
        os.replace(beside, program)
    return program


def check(program, tmp_path, levels, **parameters):
    parameters["margins"] = [3] * levels
    features, labels = smooth_batch(STEP, levels, **parameters)
    bottoms = caffe_pb2.BlobProtoVector()
    for values in (features, *labels):
        bottoms.blobs.add(data=values.ravel()).shape.dim.extend(values.shape)
    (tmp_path / "bottoms").write_bytes(bottoms.SerializeToString())
    layer = caffe_pb2.LayerParameter(name="glm", type="Python", top=["loss"], loss_weight=[1])
    layer.bottom.extend(["features"] + [f"label_{level + 1}" for level in range(levels)])
    layer.python_param.module, layer.python_param.layer = "python_layers.glm_loss", "GLMLossLayer"
    layer.python_param.param_str = json.dumps(parameters)
    (tmp_path / "layer.prototxt").write_text(text_format.MessageToString(layer))
    return subprocess.run(
        [program, tmp_path / "layer.prototxt", tmp_path / "bottoms", str(STEP), str(THRESHOLD)],
        capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_exact_gradient_passes(gradient_check, tmp_path, levels, k, normalize):
    result = check(gradient_check, tmp_path, levels, k=k, normalize=normalize,
                   within_gradient="exact")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "[  PASSED  ] 1 test" in result.stdout


@pytest.mark.parametrize("normalize", [False, True])
def test_gradient_as_printed_does_not_pass(gradient_check, tmp_path, normalize):
    """Eq. (20) is no derivative, and the checker sees it: so the checks above can fail."""
    result = check(gradient_check, tmp_path, 2, within_gradient="paper", normalize=normalize)
    assert result.returncode == 1
    assert "exceeds threshold_ * scale" in result.stdout
