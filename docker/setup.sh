#!/usr/bin/env bash
# Sets up system packages, the Python environment .venv, Caffe, and the links between them; this is
# `make setup`. A second run only checks them.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
readonly LOCK=docker/requirements.lock  # versions and checksums of docker/requirements.txt

usage() {
  cat <<END_OF_USAGE
Usage: docker/setup.sh    (what 'make setup' runs)

Installs the system packages (docker/packages.sh), the Python packages of $LOCK
into .venv, and Caffe (docker/build_caffe.sh). Environment variables:

  CAFFE_PREFIX=DIR            where Caffe goes (default: where .venv has it, else ~/.local/caffe)
  CAFFE_SOURCE=DIR|TARBALL    Caffe's source (docker/build_caffe.sh --source)
  ANY_SYSTEM=1                also run on a system that docker/systems.txt does not list

Example: CAFFE_PREFIX=/opt/caffe docker/setup.sh
END_OF_USAGE
}

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
minutes() { printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); }

# make_venv: creates .venv with exactly the packages of $LOCK. Uses Debian's python3, even if another
# one comes first on PATH, because Boost.Python is built for Debian's.
make_venv() {
  local version
  version=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  if [ -e .venv ] && [ ! -e .venv/requirements.lock ] && [ ! -e .venv/unfinished ] &&
     [ ! -e .venv/requirements.txt ]; then
    die ".venv exists, but 'make setup' did not make it: move it away"
  fi
  if [ -e .venv ] && ! .venv/bin/python -c "
import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" 2>/dev/null; then
    say "Python packages: .venv is not for this system's Python $version: recreating it"
    rm -rf .venv
  fi
  ! cmp -s $LOCK .venv/requirements.lock || return 0
  say "Python packages: installing those of $LOCK into .venv"
  mkdir -p .venv
  touch .venv/unfinished
  /usr/bin/python3 -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: \
    --require-hashes -r $LOCK >.venv/pip.log 2>&1 || {
    grep -m 3 '^ERROR' .venv/pip.log >&2 || true
    die "pip could not install the packages of $LOCK for Python $version ($(uname -m)):" \
      "see .venv/pip.log; where a package has no wheel for them, use the CPU image ('make image-cpu')"
  }
  cp $LOCK .venv/requirements.lock
  rm .venv/unfinished
}

# install_repository: in place, so that commands and Caffe's Python layers find it from any folder
install_repository() {
  local wanted
  wanted=$(cat pyproject.toml && echo "# installed from $root")
  [ "$(cat .venv/pyproject.toml 2>/dev/null)" != "$wanted" ] || return 0
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable . \
    >.venv/pip.log 2>&1 || {
    grep -m 3 '^ERROR' .venv/pip.log >&2 || true
    die "pip could not install this repository into .venv: see .venv/pip.log"
  }
  echo "$wanted" >.venv/pyproject.toml
}

# link_caffe PREFIX: makes pycaffe and the caffe binary available in .venv
link_caffe() {
  echo "$1/python" >"$(echo .venv/lib/python3*/site-packages)/caffe.pth"
  ln -sfn "$1/bin/caffe" .venv/bin/caffe
  docker/snapshot_folders.sh
}

main() {
  [ $# -eq 0 ] || { usage; [ "$1" = --help ] || [ "$1" = -h ] || exit 2; return; }
  cd "$root"
  local start=$SECONDS packages python prefix=${CAFFE_PREFIX:-} caffe
  if [ -z "$prefix" ]; then
    caffe=$(readlink -f .venv/bin/caffe || true)
    prefix=${caffe%/bin/caffe}
  fi
  prefix=$(realpath -m "${prefix:-$HOME/.local/caffe}")
  docker/packages.sh
  packages=$((SECONDS - start)) start=$SECONDS
  make_venv
  install_repository
  python=$((SECONDS - start)) start=$SECONDS
  docker/build_caffe.sh --prefix "$prefix" ${CAFFE_SOURCE:+--source "$CAFFE_SOURCE"}
  link_caffe "$prefix"
  [ $SECONDS -lt 10 ] || say "set-up took $(minutes $SECONDS): system packages $(minutes $packages)," \
    "Python packages $(minutes $python), Caffe $(minutes $((SECONDS - start)))"
  say "ready: '. .venv/bin/activate' in each new shell gives caffe and python"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  main "$@"
  exit  # bash reads a script as it goes
fi
