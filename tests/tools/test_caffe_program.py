"""tools/caffe_program.py: which caffe the commands run."""

import sys

import pytest

from data_prep.common.errors import UserError
from tools import caffe_program


def program(folder):
    folder.mkdir()
    made = folder / "caffe"
    made.write_text('#!/bin/sh\necho "caffe version of $0" >&2\n')
    made.chmod(0o755)
    return made


def test_the_caffe_on_path_comes_before_the_one_beside_this_python(tmp_path, monkeypatch):
    on_path, beside = program(tmp_path / "bin"), program(tmp_path / "venv")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))
    assert caffe_program.path() == str(on_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert caffe_program.path() == str(beside)
    assert caffe_program.run("-version") == (0, f"caffe version of {beside}")


def test_no_caffe(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(UserError, match="no caffe on PATH or beside this Python: run `make setup`"):
        caffe_program.path()
