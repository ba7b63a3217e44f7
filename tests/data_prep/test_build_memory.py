"""A whole build stays within the memory that data_prep/README.md states, whatever the files."""

import re
import subprocess
import sys

import numpy as np
import pytest
from archive import ROOT

Image = pytest.importorskip("PIL.Image", reason="Pillow writes the files (matplotlib brings it)")

from image_bytes import encoded, jpeg  # noqa: E402

# Runs a program, and prints its peak at the end. The peak that a parent is given of its child,
# ru_maxrss, begins with the parent's own.
MEASURED = """
import atexit, re, runpy, sys
status = lambda: open("/proc/self/status").read()
atexit.register(lambda: print(re.search(r"VmHWM:\\s+(\\d+) kB", status())[1]))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def stated(size):
    """Bytes that the README allows for a --size."""
    text = (ROOT / "data_prep/README.md").read_text()
    some, most = re.search(r"(\d+) MB of memory up to `--size 1024`, and (\d+) MB", text).groups()
    return int(some if size <= 1024 else most) << 20


@pytest.mark.parametrize("size", [1024, 2048])
def test_the_bound(tmp_path, size):
    """Large images that are nearly refused, among others, in more threads than processors."""
    rng, root = np.random.default_rng(0), tmp_path / "photos"
    large = encoded(Image.new("RGB", (7000, 7000), (9, 200, 30)), "PNG")
    noise = Image.fromarray(rng.integers(0, 256, (1100, 1200, 3), np.uint8))
    files = [large, jpeg(5000, 5000, progressive=True)] + [encoded(noise, "JPEG")] * 8
    for name in ("crow", "rook"):
        (root / name).mkdir(parents=True)
        for number, data in enumerate(files):
            (root / name / str(number)).write_bytes(data)
    command = [sys.executable, "-c", MEASURED, ROOT / "data_prep/build_lmdb.py", "folder"]
    command += ["--root", root]
    command += ["--out", tmp_path / "out", "--size", size, "--encoded", "raw", "--jobs", 8]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.split()[-1]) << 10
    assert peak <= stated(size), peak
