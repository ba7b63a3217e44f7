"""Damaged image files: no traceback, no abort, memory as planned, nothing half-written."""

import collections
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import programs
import pytest
from cases import count

pytest.importorskip("PIL.Image", reason="Pillow writes the files (matplotlib brings it)")

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SEED = 2021
SLACK = 6 << 20  # bytes: the decoders' own tables
CASES, FILES = count(1000), count(120)


def test_decoded_or_refused():
    """Each in the memory that was planned for it; the process lives on."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak of memory can't be measured here: /proc/self/clear_refs")
    command = [sys.executable, HERE / "decode_images.py", str(SEED), "0", str(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (lines[-1:], done.stderr[-2000:])
    reasons = collections.Counter()
    for line in lines:
        what, end = json.JSONDecoder().raw_decode(line)
        one = json.loads(line[end:])
        assert one["taken"] <= one["plan"] + one["size"] + SLACK, line
        reasons[one["reason"] is None] += 1
    print(f"{len(lines)} files: {reasons[True]} decoded, {reasons[False]} refused")
    assert len(lines) == CASES and min(reasons.values()) > CASES / 20


def test_built_or_named(tmp_path):
    """A build of damaged files names them all and writes nothing; --skip-bad leaves them out."""
    sys.path.insert(0, str(HERE))
    from decode_images import case, seeds

    files, root, out = seeds(), tmp_path / "photos", tmp_path / "out"
    for at in range(FILES):
        folder = root / f"class {at % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{at}.jpg").write_bytes(case(SEED + 1, at, files)[1])
    for at, data in enumerate(files.values()):
        (root / f"class {at % 3}" / f"whole {at}.jpg").write_bytes(data)
    command = ["data_prep/build_lmdb.py", "folder", "--root", root, "--size", 16, "--out", out]
    done = programs.run(*command)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "images can't be used, so nothing was built" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"photos"}
    done = programs.run(*command, "--skip-bad")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    skipped = json.loads((out / "manifest.json").read_text())["skipped"]
    listed = [line for split in ("train", "test") for line in (out / f"{split}.tsv").open()]
    assert len(listed) - 2 + len(skipped) == FILES + len(files) and skipped
    print(f"{FILES + len(files)} files: {len(skipped)} left out")
    shutil.rmtree(out)
