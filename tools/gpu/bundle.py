#!/usr/bin/env python3
"""Pack `tools/gpu/check.py` for a GPU machine without network or Debian's libraries.

The bundle holds this repository's files, Caffe's CUDA build with its test program, their libraries,
and this Python with its packages. NVIDIA's own libraries are left out (1.5 GB): the bundle uses the
machine's, from pip packages such as PyTorch's or from the system.

On that machine, with the parts in one folder (glibc 2.36 or newer, x86-64):
    cat gpu_check.tar.xz.* | tar xJ
    gpu_check/run                             # the checks
    gpu_check/run tools/gpu/check.py --list   # or any command of the repository

Examples:
    pip install --target /tmp/cupy -r docker/requirements-cupy.txt
    tools/gpu/bundle.py --prefix ~/.local/caffe-cuda13 --add /tmp/cupy --out /tmp/gpu_check.tar.xz
"""

import argparse
import glob
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from data_prep.common import files
from data_prep.common.command import command
from data_prep.common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PART = 60_000_000  # bytes, for services that limit files to 60 MB
# Packages of .venv that no check imports.
LEFT_OUT = (
    "scipy*",
    "matplotlib*",
    "mpl_toolkits",
    "fontTools*",
    "fonttools*",
    "PIL",
    "pillow*",
    "contourpy*",
    "kiwisolver*",
    "pip*",
    "setuptools*",
    "pydot*",
    "__editable__*",
    "__pycache__",
    "tests",
    "*.ffmpeg",
)
LEFT_OUT_OF_PYTHON = (
    "test",
    "idlelib",
    "lib2to3",
    "ensurepip",
    "tkinter",
    "turtledemo",
    "__pycache__",
    "config-3*",
    "dist-packages",
    "site-packages",
)
# Libraries of the C library, which must be the machine's own, like its loader.
OF_THE_MACHINE = re.compile(r"(ld-linux|lib(c|m|dl|rt|pthread|util|resolv|cuda)\.so)")

RUN = r"""#!/bin/sh
# Runs a command of the repository with everything beside this script; default: the checks.
here=$(cd "$(dirname "$0")" && pwd)
cuda=$here/caffe/cuda/lib
mkdir -p "$cuda"
missing=
for library in LIBRARIES; do
  [ -e "$cuda/$library" ] && continue
  found=
  for folder in ${CUDA_LIBRARIES:-} $(python3 -c 'import sys; print(*sys.path)' 2>/dev/null) \
      /usr/local/cuda/lib64 /usr/lib/x86_64-linux-gnu /usr/lib64; do
    for one in "$folder/$library" "$folder"/nvidia/*/lib/"$library"; do
      [ -e "$one" ] && found=$one && break 2
    done
  done
  if [ "$found" ]; then ln -s "$found" "$cuda/$library"; else missing="$missing $library"; fi
done
if [ "$missing" ]; then
  echo "error: these CUDA libraries are not on this machine:$missing; name their folders in" \
    "CUDA_LIBRARIES" >&2
  exit 1
fi
export LD_LIBRARY_PATH="$here/lib:$here/caffe/lib:$cuda" CUDA_PATH="$here/caffe/cuda"
export PYTHONHOME="$here/python" PYTHONDONTWRITEBYTECODE=1
export PYTHONPATH="$here/repository:$here/packages:$here/caffe/python"
export PATH="$here/caffe/bin:$here/python/bin:$PATH"
export CAFFE_TESTS="$here/caffe/test.testbin:$here/caffe"
cd "$here/repository" || exit 1
[ $# -gt 0 ] || set -- tools/gpu/check.py
exec python3 "$@"
"""


def libraries(*programs):
    """{name: path} of all shared libraries that the programs load. Raises UserError if one is
    not found."""
    found = {}
    for program in programs:
        text = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
        for name, path in re.findall(r"^\s+(\S+) => (.+?)(?: \(0x|$)", text, re.MULTILINE):
            if path == "not found":
                raise UserError(f"{program} needs {name}, which is not found")
            found[name] = Path(path)
    return found


def copy(source, target, leave=("__pycache__",)):
    """Copy a file, or a folder without entries that match `leave`; merges into existing folders."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*leave), dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def collect(prefix, added, into):
    """Copy the bundle's content into the folder `into`; added: folders with more packages."""
    work = Path(f"{prefix}.build")
    caffe, test = into / "caffe", work / "build" / "test" / "test.testbin"
    if not test.is_file():
        raise UserError(
            f"{test} not found: `docker/build_caffe.sh --cuda 13 --prefix {prefix} --test` makes it"
        )
    for name in ("bin/caffe", "lib/libcaffe.so.1.0.0", "python/caffe", "BUILD", "cuda/include"):
        copy(prefix / name, caffe / name)
    (caffe / "lib" / "libcaffe.so").symlink_to("libcaffe.so.1.0.0")
    copy(test, caffe / "test.testbin")
    subprocess.run(["strip", caffe / "test.testbin"], check=True)

    version = "python" + sysconfig.get_python_version()
    python = Path(sys.executable).resolve()
    copy(python, into / "python" / "bin" / "python3")
    copy(Path(sysconfig.get_path("stdlib")), into / "python" / "lib" / version, LEFT_OUT_OF_PYTHON)
    for folder in (Path(sysconfig.get_path("purelib")), *added):
        copy(folder, into / "packages", LEFT_OUT)
    for name in ("bin/mpiexec", "bin/hydra_pmi_proxy", "lib/libmpi.so.12", "lib/mpich"):  # MPICH's
        copy(Path(sys.prefix) / name, into / "python" / name)

    needed = libraries(
        prefix / "bin" / "caffe", prefix / "python" / "caffe" / "_caffe.so", test, python
    )
    needed |= libraries(*Path(sysconfig.get_path("stdlib"), "lib-dynload").glob("*.so"))
    nvidia = sorted(path.name for path in (prefix / "cuda" / "lib").glob("lib*.so.[0-9]*"))
    for name, path in needed.items():
        if not OF_THE_MACHINE.match(name) and not {prefix, work} & set(path.parents):
            copy(path.resolve(), into / "lib" / name)
    (into / "run").write_text(RUN.replace("LIBRARIES", " ".join(nvidia), 1))
    (into / "run").chmod(0o755)

    listed = subprocess.run(
        [
            "git",
            "ls-files",
            "-z",
            "prototxt",
            "python_layers",
            "tools",
            "data_prep",
            "tests",
            "pyproject.toml",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        copy(ROOT / name, into / "repository" / name)


def check_free(out):
    """Raises UserError if a file with the name of a part exists; it is never overwritten."""
    there = sorted(out.parent.glob(f"{glob.escape(out.name)}.[0-9][0-9]"))
    if there:
        raise UserError(
            f"{there[0]} exists: remove {len(there)} such file(s), or choose another --out"
        )


def pack(folder, out):
    """Pack the folder into an archive in parts, written atomically; returns their paths."""
    check_free(out)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as beside:
        parts = _split(folder, Path(beside, out.name))
        return [part.rename(out.parent / part.name) for part in parts]


def _split(folder, out):
    tar = subprocess.Popen(
        ["tar", "-C", folder.parent, "--owner=0", "--group=0", "-c", folder.name],
        stdout=subprocess.PIPE,
    )
    xz = subprocess.Popen(["xz", "-4", "-T0", "-c"], stdin=tar.stdout, stdout=subprocess.PIPE)
    tar.stdout.close()
    subprocess.run(["split", "-b", str(PART), "-d", "-", f"{out}."], stdin=xz.stdout, check=True)
    if tar.wait() or xz.wait():
        raise UserError("tar or xz failed, see above")
    return sorted(out.parent.iterdir())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--prefix",
        type=Path,
        metavar="FOLDER",
        default=Path.home() / ".local" / "caffe-cuda13",
        help="Caffe for CUDA, as docker/build_caffe.sh --cuda installed it (default: %(default)s)",
    )
    parser.add_argument(
        "--add",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="more Python packages, such as CuPy; may be repeated",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results/gpu_check.tar.xz"),
        metavar="FILE",
        help="base name of the parts FILE.00, FILE.01, ... (default: %(default)s)",
    )
    args = parser.parse_args()
    prefix = args.prefix.resolve()
    if not (prefix / "cuda").is_dir():
        raise UserError(
            f"{prefix} does not hold a CUDA build of Caffe: make one with "
            "`docker/build_caffe.sh --cuda 13`"
        )
    for folder in args.add:
        if not folder.is_dir():
            raise UserError(f"--add {folder}: not a folder")
    files.make_way(args.out)
    check_free(args.out)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "gpu_check"
        whole.mkdir()
        collect(prefix, args.add, whole)
        parts = pack(whole, args.out)
    for part in parts:
        print(f"{part} {part.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    command(main)
