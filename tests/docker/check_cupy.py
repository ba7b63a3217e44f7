#!/usr/bin/env python3
"""CuPy without a GPU, as far as it goes: its libraries load, kernels compile for several GPUs."""

from pathlib import Path

import cupy
from cuda.pathfinder import find_nvidia_header_directory
from cupy.cuda import cublas, nccl, nvrtc, runtime

ARCHITECTURES = 75, 90, 120

KERNEL = """
#include <cuda_fp16.h>
#include <cupy/complex.cuh>
extern "C" __global__ void twice(__half* x) { x[0] = x[0] + x[0]; }
"""

print(
    f"CuPy {cupy.__version__}, NVRTC {nvrtc.getVersion()}, NCCL {nccl.get_version()}, "
    f"cuBLAS of {cublas.__name__}"
)
own = Path(cupy.__file__).parent / "_core" / "include"
includes = [own, *(own / "cupy" / "_cccl").glob("*/"), find_nvidia_header_directory("cudart")]
for arch in ARCHITECTURES:
    program = nvrtc.createProgram(KERNEL, "twice.cu", (), ())
    nvrtc.compileProgram(program, (f"-arch=sm_{arch}", *(f"-I{folder}" for folder in includes)))
    assert nvrtc.getCUBIN(program)
try:
    print(f"GPUs: {runtime.getDeviceCount()}")
except runtime.CUDARuntimeError as error:
    print(f"no GPU: {error}")
