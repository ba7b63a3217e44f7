"""The checks of tools/gpu/check.py, in order.

Each function checks one thing, in its own process, and returns (passed, sentence, numbers).
"""

import importlib.util
import tempfile
from pathlib import Path

from tools.gpu import nets, speed, suites, training

NETS = "prototxt"
DEVICE_TESTS = "tests/python_layers/test_gpu.py"
# Networks of the paper, with batch sizes that fit any GPU of 12 GB.
SPEED = {"alexnet": 128, "googlenet": 64, "vgg16": 32}
MEASURED = 3.0  # seconds per network, engine and precision
ROUNDS = 2
CURVE = "prototxt/cards_squeezenet_ours_solver.prototxt"
ITERATIONS = 30
CURVE_TOLERANCE = 0.01


class Skipped(Exception):
    """A requirement of the check is missing; the message names it."""


def caffe_tests(gpu):
    """Caffe's own CUDA tests of the layers that the nets use, and of cuDNN's layers"""
    found = suites.gtest_program()
    if not found:
        raise Skipped("Caffe's test program is not built: `docker/build_caffe.sh --cuda 13 --test`")
    passed, failed = suites.gtests(*found, *([] if gpu else ["FlattenLayerTest/0.*"]))
    return not failed, f"{passed} passed, {len(failed)} failed", dict(passed=passed, failed=failed)


def solvers():
    """The solver with most layers of each net, and all variants of the smallest net."""
    folder = Path(NETS)
    ours = [path for path in folder.glob("*_ours_solver.prototxt") if "_bbox_" not in path.name]
    return sorted({*ours, *folder.glob("cards_squeezenet_*_solver.prototxt")})


def agreement(gpu, paths=None, batch=4):
    """Every net forward and backward, in CPU mode and in GPU mode"""
    errors = {}
    for path in paths or solvers():
        expected = nets.outcome(path, batch, gpu=False)
        error, where = nets.worst(expected, nets.outcome(path, batch, gpu))
        errors[path.name.removesuffix("_solver.prototxt")] = dict(error=error, blob=where)
    worst = max(errors, key=lambda name: errors[name]["error"])
    return (
        errors[worst]["error"] <= nets.TOLERANCE,
        f"{len(errors)} nets; largest difference {errors[worst]['error']:.1e} of a gradient's "
        f"length ({worst}, {errors[worst]['blob']})",
        errors,
    )


def losses(gpu):
    """GLM, the other losses and bilinear pooling on CuPy against NumPy, with no transfer"""
    if not importlib.util.find_spec("cupy"):
        raise Skipped("CuPy is not installed: docker/requirements-cupy.txt")
    passed, skipped, failed = suites.pytests(DEVICE_TESTS)
    well = not failed and (passed > 0 or not gpu)
    return (
        well,
        f"{passed} passed, {len(failed)} failed, {skipped} skipped; a copy to the host "
        "inside a pass would fail",
        dict(passed=passed, skipped=skipped, failed=failed),
    )


def curves(gpu, iterations=ITERATIONS):
    """`caffe train` in CPU mode and in GPU mode, one solver, the loss of each iteration"""
    with tempfile.TemporaryDirectory() as folder:
        solver = training.write_solver(Path(folder), CURVE, iterations)
        one, two = (training.caffe_train(solver, mode) for mode in (False, gpu))
    return _curves_agree(one, two)


def parallel(gpu, iterations=ITERATIONS):
    """tools/train_parallel.py with one rank (NCCL) against `caffe train`; more ranks need more
    GPUs"""
    with tempfile.TemporaryDirectory() as folder:
        solver = training.write_solver(Path(folder), CURVE, iterations)
        one, two = training.caffe_train(solver, gpu), training.parallel_train(solver, gpu)
    return _curves_agree(one, two)


def _curves_agree(one, two):
    error = training.difference(one, two)
    return (
        error <= CURVE_TOLERANCE,
        f"{len(one)} iterations, loss {one[0]:.3f} to {one[-1]:.3f}; "
        f"largest difference {error:.1e} of it",
        dict(one=list(one), two=list(two)),
    )


def images_per_second(
    gpu,
    isolated,
    sizes=None,
    solver="prototxt/cub_{}_sm_solver.prototxt",
    seconds=MEASURED,
    rounds=ROUNDS,
):
    """Training passes of the paper's networks, in Caffe and in PyTorch, float32 and TF32"""
    engines = ["caffe", *(["torch"] if importlib.util.find_spec("torch") else [])]
    found = {}
    for _ in range(rounds):
        for name, batch in (sizes or SPEED).items():
            for tf32 in (False, True):
                for engine in engines:
                    rate = isolated(
                        speed.measure, engine, solver.format(name), batch, tf32, gpu, seconds
                    )
                    best = found.setdefault(name, {"batch": batch})
                    key = f"{engine}_{'tf32' if tf32 else 'float32'}"
                    best[key] = max(rate, best.get(key, 0))
    return True, "; ".join(_rates(name, rates) for name, rates in found.items()), found


def _rates(name, rates):
    text = f"{name} {rates['caffe_float32']:.0f}/s, TF32 {rates['caffe_tf32']:.0f}/s"
    if "torch_float32" not in rates:
        return text + " (no PyTorch here)"
    ratios = [rates[f"caffe_{kind}"] / rates[f"torch_{kind}"] for kind in ("float32", "tf32")]
    return text + " ({:.2f}x and {:.2f}x PyTorch's)".format(*ratios)


def glm_share(gpu, net="cub_alexnet", batch=SPEED["alexnet"], seconds=MEASURED / 2, rounds=5):
    """The GLM loss's part of an AlexNet training step: OURS beside the same net without it"""
    part, step = speed.share(
        f"prototxt/{net}_ours_solver.prototxt",
        f"prototxt/{net}_sc_csm_solver.prototxt",
        batch,
        gpu,
        rounds,
        seconds,
    )
    return True, f"{part:.1%} of {1e3 * step:.1f} ms (batch {batch})", dict(share=part, step=step)


# name: function; in the order of running, what fails first where something is wrong first
SECTIONS = {
    "caffe-tests": caffe_tests,
    "nets": agreement,
    "losses": losses,
    "curves": curves,
    "nccl": parallel,
    "glm-share": glm_share,
    "speed": images_per_second,
}
