"""Caffe's GradientChecker, compiled against the installed Caffe, over the real Python layers."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from batches import (
    contrastive_choice,
    minmax_choice,
    random_batch,
    smooth_batch,
    steady_batch,
    triplet_choice,
)
from caffe.proto import caffe_pb2
from google.protobuf import text_format

SOURCE = Path(__file__).with_name("gradient_check.cpp")
GTEST = Path("/usr/include/gtest/gtest.h")
LIBRARIES = ["caffe", "protobuf", "glog", "gflags", "gtest", "pthread"]

STEP, THRESHOLD = 0.005, 0.005


@pytest.fixture(scope="session")
def gradient_check(request):
    """The compiled checker; kept between runs for the same source and Caffe.

    Skips the test where it can't be compiled, as in the images, which have no compiler.
    """
    if shutil.which("g++") is None:
        pytest.skip("no compiler: Caffe's gradient checker can't be built")
    if not GTEST.exists():
        pytest.skip("no gtest/gtest.h for Caffe's gradient checker: docker/packages.sh tests")
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
            [
                "g++",
                "-std=c++14",
                "-O1",
                "-DCPU_ONLY",
                f"-I{prefix}/include",
                str(SOURCE),
                "-o",
                str(beside),
                f"-L{prefix}/lib",
                f"-Wl,-rpath,{prefix}/lib",
                *(f"-l{library}" for library in LIBRARIES),
            ],
            check=True,
        )
        os.replace(beside, program)
    return program


def check(
    program,
    tmp_path,
    layer_class,
    parameters,
    features,
    labels,
    weights=(),
    unchecked=(),
    loss_weight=(1,),
):
    """layer_class: "<module of python_layers>.<class>"; labels: one array per level.

    loss_weight: None for a layer that is not a loss; `labels` are then more features, all checked.
    weights: the layer's own blobs; unchecked: at most one number, see gradient_check.cpp.
    """
    bottoms = caffe_pb2.BlobProtoVector()
    layer = caffe_pb2.LayerParameter(
        name="loss", type="Python", top=["loss"], loss_weight=loss_weight
    )
    for kept, arrays in ((bottoms, (features, *labels)), (layer, weights)):
        for values in arrays:
            kept.blobs.add(data=values.ravel()).shape.dim.extend(values.shape)
    (tmp_path / "bottoms").write_bytes(bottoms.SerializeToString())
    layer.bottom.extend(["features"] + [f"label_{level + 1}" for level in range(len(labels))])
    module, layer.python_param.layer = layer_class.split(".")
    layer.python_param.module = f"python_layers.{module}"
    layer.python_param.param_str = json.dumps(parameters)
    (tmp_path / "layer.prototxt").write_text(text_format.MessageToString(layer))
    return subprocess.run(
        [
            program,
            tmp_path / "layer.prototxt",
            tmp_path / "bottoms",
            str(STEP),
            str(THRESHOLD),
            *map(str, unchecked),
        ],
        capture_output=True,
        text=True,
    )


def check_glm(program, tmp_path, levels, **parameters):
    parameters["margins"] = [3] * levels
    return check(
        program,
        tmp_path,
        "glm_loss.GLMLossLayer",
        parameters,
        *smooth_batch(STEP, levels, **parameters),
    )


def assert_passed(result):
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "[  PASSED  ] 1 test" in result.stdout


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_exact_gradient_of_glm_passes(gradient_check, tmp_path, levels, k, normalize):
    assert_passed(
        check_glm(
            gradient_check, tmp_path, levels, k=k, normalize=normalize, within_gradient="exact"
        )
    )


@pytest.mark.parametrize("normalize", [False, True])
def test_gradient_of_glm_as_printed_does_not_pass(gradient_check, tmp_path, normalize):
    """Eq. (20) is not a derivative, and the checker detects it: the checks above can fail."""
    result = check_glm(gradient_check, tmp_path, 2, within_gradient="paper", normalize=normalize)
    assert result.returncode == 1
    assert "exceeds threshold_ * scale" in result.stdout


CONTRASTIVE = "contrastive_loss.ContrastiveLossLayer", contrastive_choice
TRIPLET = "triplet_loss.TripletLossLayer", triplet_choice
MINMAX = "minmax_loss.MinMaxLossLayer", minmax_choice


@pytest.mark.parametrize(
    "layer_class, choice, parameters",
    [
        (*CONTRASTIVE, {"margin": 3, "normalize": False}),
        (*CONTRASTIVE, {"margin": 1.2, "normalize": True}),
        (*CONTRASTIVE, {"margin": 3, "average": "kinds"}),
        *(
            (*TRIPLET, {"mining": mining, **space})
            for mining in ("all", "semihard", "hard")
            for space in ({"margin": 3, "normalize": False}, {"margin": 0.4, "average": "mined"})
        ),
        *(
            (*MINMAX, {"k1": k1, "k2": k2, "k2_per": per, "normalize": normalize})
            for k1, k2, per in ((1, 2, "class"), (5, 10, "class"), (1, 2, "sample"))
            for normalize in (False, True)
        ),
    ],
)
def test_gradient_passes(gradient_check, tmp_path, layer_class, choice, parameters):
    features, labels = steady_batch(STEP, 1, choice(**parameters))
    assert_passed(check(gradient_check, tmp_path, layer_class, parameters, features, labels))


def check_center(program, tmp_path, alpha):
    """With centers of components 1 and -1, unchecked, since their diff is not a derivative."""
    features, labels, _ = random_batch(0, 1, samples=12, dimensions=4)
    assert (abs(abs(features) - 1) > 1e-3).all()
    centers = np.random.default_rng(1).choice([-1.0, 1.0], size=(8, 4))
    return check(
        program,
        tmp_path,
        "center_loss.CenterLossLayer",
        {"num_classes": 8, "alpha": alpha},
        features,
        labels,
        [centers],
        [1],
    )


def test_gradient_of_center_passes_while_the_centers_stay(gradient_check, tmp_path):
    assert_passed(check_center(gradient_check, tmp_path, alpha=0))


def test_gradient_of_center_does_not_pass_while_they_move(gradient_check, tmp_path):
    """They move between the gradient and the differences, and the checker sees it."""
    result = check_center(gradient_check, tmp_path, alpha=0.5)
    assert result.returncode == 1 and "exceeds threshold_ * scale" in result.stdout


@pytest.mark.parametrize("signed_sqrt", [False, True])
@pytest.mark.parametrize("l2_normalize", [False, True])
@pytest.mark.parametrize("channels", [(3,), (2, 3)])
def test_gradient_of_bilinear_pooling_passes(
    gradient_check, tmp_path, channels, signed_sqrt, l2_normalize
):
    """Of one map and of both; no sum of products is near 0, where the square root is not smooth."""
    rng = np.random.default_rng(0)
    maps = [
        rng.uniform(0.5, 1.5, size=(2, c, 2, 2)) * rng.choice([-1, 1], size=(2, c, 1, 1))
        for c in channels
    ]
    assert_passed(
        check(
            gradient_check,
            tmp_path,
            "bilinear_pooling.BilinearPoolingLayer",
            {"signed_sqrt": signed_sqrt, "l2_normalize": l2_normalize},
            maps[0],
            maps[1:],
            loss_weight=(),
        )
    )
