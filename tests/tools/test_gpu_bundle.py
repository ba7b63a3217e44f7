"""tools/gpu/bundle.py: how the parts are packed, which libraries stay behind, and the script that
finds NVIDIA's on the machine."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import assert_error, run

from data_prep.common.errors import UserError
from tools.gpu import bundle


def test_a_prefix_without_cuda_is_refused(tmp_path):
    done = run("gpu/bundle", "--prefix", tmp_path, "--out", tmp_path / "out" / "b.tar.xz")
    assert_error(done, f"{tmp_path} does not hold a CUDA build of Caffe")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not shutil.which("xz"), reason="no xz, which tar unpacks with, is here")
def test_parts_make_the_folder_again(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "PART", 1000)
    folder = tmp_path / "gpu_check"
    folder.mkdir()
    content = bytes(range(256)) * 20
    (folder / "file").write_bytes(content[::7] + content[::-3])
    parts = bundle.pack(folder, tmp_path / "b.tar.xz")
    assert [part.name for part in parts] == [f"b.tar.xz.{i:02}" for i in range(len(parts))]
    assert all(part.stat().st_size <= 1000 for part in parts)
    there = tmp_path / "there"
    there.mkdir()
    subprocess.run("cat ../b.tar.xz.* | tar xJ", shell=True, cwd=there, check=True)
    assert (there / "gpu_check/file").read_bytes() == (folder / "file").read_bytes()


def test_parts_that_exist_stay(tmp_path):
    """They may be of an older bundle, or something else; a name like a pattern is only a name."""
    (tmp_path / "b.tar.xz.07").write_text("mine")
    with pytest.raises(UserError, match="b.tar.xz.07 exists"):
        bundle.pack(tmp_path, tmp_path / "b.tar.xz")
    bundle.check_free(tmp_path / "*")
    assert [path.name for path in tmp_path.iterdir()] == ["b.tar.xz.07"]


def test_libraries_of_a_program():
    found = bundle.libraries(Path(sys.executable).resolve())
    assert all(path.is_file() for path in found.values()) and found
    own = {name for name in found if bundle.OF_THE_MACHINE.match(name)}
    assert {"libc.so.6", "libm.so.6"} <= own and "libexpat.so.1" not in own


@pytest.fixture
def unpacked(tmp_path):
    """A bundle whose python3 prints its environment, for two libraries of NVIDIA's."""
    for folder in ("repository", "python/bin", "caffe"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "run").write_text(bundle.RUN.replace("LIBRARIES", "libone.so.1 libtwo.so.2", 1))
    python = tmp_path / "python/bin/python3"
    python.write_text('#!/bin/sh\necho "$PWD $*"\n')
    python.chmod(0o755)
    return tmp_path


def test_run_finds_nvidias_libraries(unpacked, tmp_path):
    for library, folder in (("libone.so.1", "here"), ("libtwo.so.2", "site/nvidia/two/lib")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / library).write_text("")
    done = subprocess.run(
        ["sh", unpacked / "run", "tools/x.py", "a b"],
        text=True,
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", "CUDA_LIBRARIES": f"{tmp_path}/here {tmp_path}/site"},
    )
    assert done.stdout == f"{unpacked}/repository tools/x.py a b\n", done.stderr
    assert (
        unpacked / "caffe/cuda/lib/libtwo.so.2"
    ).resolve() == tmp_path / "site/nvidia/two/lib/libtwo.so.2"


def test_run_says_what_is_missing(unpacked):
    done = subprocess.run(
        ["sh", unpacked / "run"], text=True, capture_output=True, env={"PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith(
        "error: these CUDA libraries are not on this machine: libone.so.1 libtwo.so.2; "
    )
