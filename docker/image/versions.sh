#!/usr/bin/env bash
# Prints what an image holds: kind, name and version, tab-separated, one item a line.
#
# Usage: docker/image/versions.sh PREFIX REVISION   (PREFIX: Caffe's; REVISION: of this repository)
#
# Caffe's lines include the SHA-256 of its source and of the recipe that built it (PREFIX/BUILD);
# NVIDIA's are the packages that it was built with, whose libraries are in PREFIX/cuda.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$(dirname "$here")")

printf 'kind\tname\tversion\n'
printf 'repository\t%s\t%s\n' "$(basename "$root")" "$2"
sed -n 's/^\([a-z_]*\): \(.\)/caffe\t\1\t\2/p' "$1/BUILD"
cuda=$(sed -n 's/^mode: CUDA \([0-9]*\).*/\1/p' "$1/BUILD")
if [ -n "$cuda" ]; then
  sed -n 's/^\([a-z0-9-]*\)==\([0-9.]*\).*/nvidia\t\1\t\2/p' "$here/../requirements-cuda$cuda.txt"
fi
"$root/.venv/bin/python" - <<'END' | LC_ALL=C sort
from importlib.metadata import distributions
for package in distributions():
    print("python", package.metadata["Name"], package.version, sep="\t")
END
# ${...} are dpkg's fields, not the shell's
# shellcheck disable=SC2016
dpkg-query -W -f 'debian\t${Package}\t${Version}\n'
