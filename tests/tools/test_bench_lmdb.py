"""The benchmark of build_lmdb.py runs; times are not asserted."""

import cv2
import numpy as np
from commands import assert_error, run


def test_made_photographs():
    done = run("bench", "lmdb", "--runs", "1", "--count", "30", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    first, _, *rows = done.stdout.splitlines()
    assert first.startswith("30 photographs")
    assert [row.rsplit(None, 2)[0].strip() for row in rows[1:]] == ["convert_imageset", "bare loop"]
    assert all(float(number) > 0 for row in rows[1:] for number in row.split()[-2:])


def test_a_folder_of_too_few(tmp_path):
    cv2.imwrite(str(tmp_path / "one.jpg"), np.zeros((9, 9, 3), np.uint8))
    assert_error(run("bench", "lmdb", "--photos", tmp_path), "has 1 JPEG files")
    assert_error(run("bench", "lmdb", "--photos", tmp_path / "absent"), "not a folder")
