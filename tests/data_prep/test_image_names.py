"""Images are recognized by their first bytes, not their names, also in folders."""

import cv2
import numpy as np
import pytest
from archive import refused, run
from test_folder import BIRDS, photos

from data_prep import image_files


@pytest.mark.parametrize("name", ["a.jfif", "a.JPE", "a", "a.photo", "a.txt", "a.gif", "a.jpg.1"])
@pytest.mark.parametrize("kind", [".jpg", ".png", ".gif", ".webp", ".bmp", ".tif"])
def test_images_whatever_they_are_named(tmp_path, name, kind):
    picture = cv2.imencode(kind, np.zeros((9, 9, 3), np.uint8))[1].tobytes()
    (tmp_path / name).write_bytes(picture)
    assert image_files.looks_like_image(tmp_path / name)


@pytest.mark.parametrize("data", [b"", b"# notes", b"PK\x03\x04", b"P3 is a prime"])
def test_what_is_no_image(tmp_path, data):
    (tmp_path / "notes").write_bytes(data)
    assert not image_files.looks_like_image(tmp_path / "notes")


def test_photographs_under_other_names_are_built_and_others_named(tmp_path):
    """Formats that can't be read are reported, not skipped like other files."""
    root = photos(tmp_path / "photos", BIRDS)
    first = next(root.rglob("*.jpg"))
    first.rename(first.with_suffix(".jfif"))
    heic = first.with_name("phone.heic")
    heic.write_bytes(bytes(4) + b"ftypheic" + bytes(90))
    command = ("folder", "--root", root, "--size", 16, "--out", tmp_path / "out")
    refused(run("build_lmdb.py", *command), "1 of 19 ", heic, "format HEIF", "save it as JPEG")
    done = run("build_lmdb.py", *command, "--skip-bad")
    listed = "".join((tmp_path / f"out/{split}.tsv").read_text() for split in ("train", "test"))
    assert done.returncode == 0 and first.with_suffix(".jfif").name in listed
