"""Facts about the machine of a check: GPUs, from the driver's own interface, and versions."""

import ctypes
import datetime
import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path

from data_prep.common.cores import cores_of_process
from tools import caffe_program

PACKAGES = ("numpy", "cupy-cuda13x", "cupy-cuda12x", "torch", "mpi4py")
COMPUTE_CAPABILITY = 75, 76  # CUdevice_attribute: major, minor


def gpus():
    """[{name, memory_gib, compute}] of the visible GPUs.

    Raises OSError, with one sentence, if there is no driver or no GPU.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise OSError("NVIDIA's driver is not installed (no libcuda.so.1)") from None
    count, found = ctypes.c_int(0), []
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        raise OSError("NVIDIA's driver finds no GPU")
    for number in range(count.value):
        name, memory, device = ctypes.create_string_buffer(100), ctypes.c_size_t(0), ctypes.c_int(0)
        capability = [ctypes.c_int(0), ctypes.c_int(0)]
        driver.cuDeviceGet(ctypes.byref(device), number)
        driver.cuDeviceGetName(name, len(name), device)
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        for value, attribute in zip(capability, COMPUTE_CAPABILITY):
            driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        found.append(
            dict(
                name=name.value.decode(),
                memory_gib=round(memory.value / 2**30, 1),
                compute=".".join(str(value.value) for value in capability),
            )
        )
    return found


def facts():
    """Facts about the machine for the results file, without versions that are not found."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return dict(
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        gpus=gpus(),
        driver=_driver(),
        cores=cores_of_process(),
        python=platform.python_version(),
        packages=versions,
        caffe=_caffe(),
    )


def _driver():
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    return re.search(r"(\d+\.\d+(?:\.\d+)?)", text)[1]


def prefix():
    """The folder that Caffe is installed in, by the caffe that is found; None without one."""
    found = caffe_program.find()
    return Path(found).resolve().parents[1] if found else None


def _caffe():
    """{version, mode, and the numbers in the names of its CUDA libraries}."""
    where = prefix()
    if where is None:
        return {}
    command = [caffe_program.path(), "-version"]
    version = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    found = {"version": version.removeprefix("caffe version ")}
    build = where / "BUILD"
    if build.is_file():
        found |= re.findall(r"^(mode): (.*)$", build.read_text(encoding="utf-8"), re.MULTILINE)
    for name, call in (
        ("cudnn", "cudnnGetVersion"),
        ("cudart", "cudaRuntimeGetVersion"),
        ("nccl", "ncclGetVersion"),
    ):
        for library in sorted((where / "cuda" / "lib").glob(f"lib{name}.so.*"))[:1]:
            found[name] = _library_version(library, call)
    return found


def _library_version(library, call):
    """The number that a CUDA library gives for its version, such as 91900 for cuDNN 9.19.0."""
    function = getattr(ctypes.CDLL(str(library)), call)
    if call == "cudnnGetVersion":
        function.restype = ctypes.c_size_t
        return function()
    version = ctypes.c_int(0)
    function(ctypes.byref(version))
    return version.value
