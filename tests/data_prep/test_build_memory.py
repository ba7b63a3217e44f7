"""A whole build stays within the memory that data_prep/README.md states, whatever the files."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from archive import ROOT

Image = pytest.importorskip("PIL.Image", reason="Pillow writes the files (matplotlib brings it)")

from image_bytes import encoded, jpeg  # noqa: E402


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
    command = [sys.executable, ROOT / "data_prep/build_lmdb.py", "folder", "--root", root]
    command += ["--out", tmp_path / "out", "--size", size, "--encoded", "raw", "--jobs", 8]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0 and usage.ru_maxrss << 10 <= stated(size), usage.ru_maxrss
