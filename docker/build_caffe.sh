#!/usr/bin/env bash
# Builds BVLC Caffe, for the CPU or for CUDA, from upstream's source and the patches here.
set -euo pipefail

CMAKE_OPTIONS=(-DCMAKE_BUILD_TYPE=Release -DCPU_ONLY=ON -DBLAS=open -DUSE_LEVELDB=OFF
               -DBUILD_docs=OFF -Dpython_version=3)
# Caffe's tests that need a GPU: by name, and by type for tests that run for several types (0 and 1:
# float and double on the CPU, 2 and 3: on a GPU)
readonly GPU_TESTS='*GPU*:*/2.*:*/3.*:*CuDNN*:Im2colKernelTest/*:PlatformTest.*'

# the patches of --stock: those without which Caffe's own code neither compiles nor runs today
readonly STOCK_PATCHES='000[1-5]-*.patch'

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=docker/caffe_source.sh
. "$here/caffe_source.sh"

usage() {
  cat <<END
Usage: docker/build_caffe.sh [--prefix DIR] [--source DIR|TARBALL] [--python EXE] [--jobs N]
                             [--test] [--stock]
                             [--cuda 13|12 [--cuda-arch LIST] [--cuda-home DIR]]

Builds Caffe and installs it into DIR; does nothing if DIR already holds this exact build.

  --prefix DIR          installation folder (default: that of .venv's Caffe, else ~/.local/caffe; for
                        --cuda 13 ~/.local/caffe-cuda13, for --stock ~/.local/caffe-stock); sources,
                        objects and the log stay in DIR.build, which may be deleted
  --source DIR|TARBALL  a tarball of exactly the files of upstream's commit ${COMMIT:0:7}, such as Debian's
                        $TARBALL, or any source
                        tree that the patches fit (default: the first available of: the copy kept by
                        an earlier build, this machine's mirror, Debian's archives, upstream's
                        repository)
  --python EXE          interpreter to build pycaffe for; it needs NumPy, protobuf and six
                        (default: .venv/bin/python of this repository)
  --jobs N              parallel compilations (default: one per processor)
  --test                also build and run Caffe's own C++ and Python tests (several minutes more),
                        including the GPU tests of a CUDA build if the machine has a GPU
  --stock               BVLC's Caffe for the CPU with only the patches that it needs to compile and
                        run ($STOCK_PATCHES), for comparisons; the commands of this
                        repository need the other patches, too (default: as the build in DIR)
  --cuda 13|12          build for GPUs, with cuDNN 9 and NCCL 2; the build also runs on the CPU. CUDA 13
                        (Turing and later, driver 580 and later) comes from NVIDIA's Python wheels,
                        1.3 GB; CUDA 12 (Pascal and later, driver 525 and later) needs its toolkit
                        (default: as the build in DIR, else CPU)
  --cuda-arch LIST      GPU architectures to compile for, as in '75 80 90' (default: those of
                        docker/cuda.sh)
  --cuda-home DIR       use the machine's own CUDA toolkit instead of the wheels (default for CUDA 12:
                        the newest /usr/local/cuda-12*)

Example: docker/build_caffe.sh --prefix /opt/caffe --source ~/Downloads/$TARBALL
         docker/build_caffe.sh --cuda 13 --cuda-arch 90
         docker/build_caffe.sh --stock
END
}

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
usage_error() { printf 'error: %s (--help shows the options)\n' "$*" >&2; exit 2; }
minutes() { printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); }
# lap NAME: appends the time since the last lap to `laps`
lap() { laps+=("$1 $(minutes $((SECONDS - lap_start)))"); lap_start=$SECONDS; }

check_packages() {
  local missing
  missing=$("$here/packages.sh" --missing caffe | xargs)
  [ -z "$missing" ] || die "Caffe's build lacks the packages $missing: install them with" \
    "'docker/packages.sh caffe' or 'apt-get install $missing'"
}

# --- Build

# python_facts EXE: version, include folder, library, missing packages, NumPy's version, one a line
python_facts() {
  "$1" - <<'END'
import importlib.metadata, os, sys, sysconfig

def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

needed = {package: version(package) for package in ("numpy", "protobuf", "six")}
missing = ", ".join(package for package, found in needed.items() if not found)
variables = sysconfig.get_config_vars()
print("%d.%d" % sys.version_info[:2], sysconfig.get_paths()["include"],
      os.path.join(variables["LIBDIR"], variables["LDLIBRARY"]), missing, needed["numpy"], sep="\n")
END
}

# hash_configuration: one hash over everything that configures a build folder, except its source; of
# the scripts, only the functions that build (rewording a message must not cause a rebuild)
hash_configuration() {
  { declare -f configure build
    say "$VERSION" "${CMAKE_OPTIONS[@]}" "$python_version" "${numpy_version%%.*}" "$prefix"
    uname -m
    grep -E '^(ID|VERSION_ID)=' /etc/os-release || true
    [ -z "${cuda:-}" ] || cuda_recipe; } | sha256sum | cut -d ' ' -f 1
}

# list_patches: the patches of docker/patches that this build applies, in order
list_patches() {
  if [ -n "${stock:-}" ]; then
    find "$here/patches" -name "$STOCK_PATCHES" | LC_ALL=C sort
  else
    find "$here/patches" -name '*.patch' | LC_ALL=C sort
  fi
}

# hash_recipe: one hash over everything that determines the build
hash_recipe() {
  { hash_configuration
    declare -f apply_patches
    list_patches | xargs -d '\n' cat
    [ -z "${cuda:-}" ] || cat "$here"/patches-cuda/*.patch; } | sha256sum | cut -d ' ' -f 1
}

# source_id [SOURCE]: the hash of a source tree; a tarball is refused unless it holds the expected one
source_id() {
  if [ -d "${1:-}" ]; then tree_hash "$1"; else echo "$TREE_SHA256"; fi
}

# built: a value from the file BUILD that a finished build leaves in the prefix
built() { sed -n "s/^$1: //p" "$prefix/BUILD" 2>/dev/null; }

starts() { "$prefix/bin/caffe" -version >/dev/null 2>&1; }

# up_to_date: the prefix holds this exact build (of --source, if given), and it still starts (no
# library of the system was removed)
up_to_date() {
  [ "$(built recipe)" = "$recipe" ] &&
    { [ -z "$source" ] || [ "$(built source)" = "$(source_id "$source")" ]; } &&
    starts
}

# show_percent: reduces make's output to a line every ten percent
show_percent() {
  local line next=0
  while IFS= read -r line; do
    if [[ $line =~ ^\[\ *([0-9]+)%\] ]] && [ "${BASH_REMATCH[1]}" -ge $next ]; then
      say "  ${BASH_REMATCH[1]} %, $(minutes $SECONDS)"
      next=$((BASH_REMATCH[1] / 10 * 10 + 10))
    fi
  done
}

compile() {  # TARGET...
  say "compiling $* ($jobs at a time, log: $log)"
  make -C "$work/build" -j "$jobs" "$@" 2>&1 | tee -a "$log" | show_percent || {
    grep -m 5 -E '(error:|Error [0-9]|undefined reference)' "$log" >&2 || true
    die "compiling failed: see $log"
  }
}

# start_or_resume: makes $work/source, with the patched source, and $work/build. Keeps what an earlier
# build with the same configuration compiled, so that only files with changes are compiled.
start_or_resume() {
  local id fresh=$work/source.new configuration
  id="$recipe $(source_id "$source")"
  if [ "$(cat "$work/started" 2>/dev/null)" = "$id" ]; then
    say "resuming in $work"
    return
  fi
  rm -rf "$work/started" "$fresh"
  if [ -n "$source" ]; then take_source "$source" "$fresh"; else fetch_source "$fresh"; fi
  rm -rf "$work/patches"
  mkdir "$work/patches"
  list_patches | xargs -d '\n' cp -t "$work/patches"
  apply_patches "$fresh" "$work/patches"
  [ -z "$cuda" ] || apply_patches "$fresh" "$here/patches-cuda"
  configuration="$(hash_configuration) $python"
  if [ "$(cat "$work/configured" 2>/dev/null)" = "$configuration" ] && [ -d "$work/source" ]; then
    update_tree "$fresh" "$work/source"
  else
    rm -rf "$work/configured" "$work/source" "$work/build"
    list_files "$fresh" >"$work/files"
    mv "$fresh" "$work/source"
    mkdir "$work/build"
    echo "$configuration" >"$work/configured"
  fi
  echo "$id" >"$work/started"
}

# apply_patches TREE FOLDER
apply_patches() {
  local patch
  for patch in "$2"/*.patch; do
    patch -d "$1" -p1 --forward --no-backup-if-mismatch <"$patch" >>"$log" 2>&1 ||
      die "$(basename "$patch") does not apply: see $log"
  done
  say "$(find "$2" -name '*.patch' | wc -l) patches of docker/$(basename "$2") applied"
}

list_files() { (cd "$1" && find . -type f | LC_ALL=C sort); }

# update_tree NEW TREE: gives TREE the content of NEW. Unchanged files keep their modification time, so
# that make does not recompile them; files made by the build stay.
update_tree() {
  local file changed=0
  list_files "$1" >"$work/files.new"
  while IFS= read -r file; do
    cmp -s "$1/$file" "$2/$file" && continue
    mkdir -p "$(dirname "$2/$file")"
    cp "$1/$file" "$2/$file"
    touch "$2/$file"
    changed=$((changed + 1))
  done <"$work/files.new"
  while IFS= read -r file; do
    rm -f "${2:?}/$file"
    changed=$((changed + 1))
  done < <(LC_ALL=C comm -23 "$work/files" "$work/files.new")
  mv "$work/files.new" "$work/files"
  rm -rf "$1"
  say "files that differ from the last build's source: $changed; compiling only what depends on them"
}

configure() {
  say "configuring for Python $python_version, NumPy $numpy_version"
  cmake -S "$work/source" -B "$work/build" "${CMAKE_OPTIONS[@]}" -DCMAKE_INSTALL_PREFIX="$prefix" \
      -DPYTHON_EXECUTABLE="$python" -DPYTHON_INCLUDE_DIR="$python_include" \
      -DPYTHON_LIBRARY="$python_library" >>"$log" 2>&1 || {
    grep -A 4 -E 'CMake Error|Could NOT' "$log" | head -n 20 >&2 || true
    die "CMake could not configure Caffe: see $log"
  }
}

build() {
  compile all
  (cd "$work/source/python" && "$python" -c 'import caffe; caffe.set_mode_cpu()') >>"$log" 2>&1 || {
    tail -n 3 "$log" >&2
    die "the pycaffe just built cannot be imported: see $log"
  }
  rm -rf "$work/stage"
  make -C "$work/build" install DESTDIR="$work/stage" >>"$log" 2>&1 ||
    die "installing failed: see $log"
}

# install_stage: replaces the content of the prefix by the finished build
install_stage() {
  printf '%s\n' "recipe: $recipe" "source: $(source_id "$source")" "version: $VERSION" \
    "mode: $mode" "python: $python_version" "numpy: $numpy_version" "cuda: $cuda" \
    "cuda_arch: $cuda_arch" "cuda_home: $cuda_home" "stock: $stock" >"$work/stage$prefix/BUILD"
  rm -rf "$prefix.old"
  [ ! -e "$prefix" ] || mv "$prefix" "$prefix.old"
  mv "$work/stage$prefix" "$prefix"
  rm -rf "$prefix.old" "$work/stage"
}

run_tests() {
  compile test.testbin
  local filter=-$GPU_TESTS
  [ -z "$cuda" ] || ! "$prefix/bin/caffe" device_query >/dev/null 2>&1 || filter='*'
  say "Caffe's C++ tests ($([ "$filter" = '*' ] && echo 'CPU and GPU' || echo CPU))"
  (cd "$work/source" && "$work/build/test/test.testbin" --gtest_filter="$filter" 2>&1) |
    tee "$work/test_cpp.log" | grep -E '^\[(==========|  PASSED  |  FAILED  )\]' ||
    die "C++ tests failed: see $work/test_cpp.log"
  say "pycaffe's tests"
  (cd "$work/source/python" && "$python" -m unittest discover -s caffe/test 2>&1) |
    tee "$work/test_python.log" | grep -E '^(Ran|OK|FAILED|ERROR|FAIL)' ||
    die "Python tests failed: see $work/test_python.log"
}

# default_prefix: without --prefix
default_prefix() {
  local caffe
  caffe=$(readlink -f "$(dirname "$here")/.venv/bin/caffe" || true)
  if [ -n "$cuda" ]; then
    echo "$HOME/.local/caffe-cuda$cuda"
  elif [ -n "$stock" ]; then
    echo "$HOME/.local/caffe-stock"
  elif [ -n "$caffe" ]; then
    echo "${caffe%/bin/caffe}"
  else
    echo "$HOME/.local/caffe"
  fi
}

main() {
  local jobs prefix="" source="" python="" test=no stock="" cuda="" cuda_arch="" cuda_home=""
  local option
  jobs=$(nproc)
  while [ $# -gt 0 ]; do
    case $1 in
      --prefix|--source|--python|--jobs|--cuda|--cuda-arch|--cuda-home)
        [ -n "${2:-}" ] || usage_error "$1 needs a value"
        option=${1#--}
        printf -v "${option/-/_}" %s "$2"; shift 2 ;;
      --test) test=yes; shift ;;
      --stock) stock=yes; shift ;;
      --help|-h) usage; return ;;
      *) usage_error "unknown argument $1" ;;
    esac
  done
  [[ $jobs =~ ^[1-9][0-9]*$ ]] || usage_error "--jobs $jobs is not a positive number"
  [ -n "$cuda" ] || [ -z "$cuda_arch$cuda_home" ] ||
    usage_error "--cuda-arch and --cuda-home are for --cuda"
  [ -z "$cuda" ] || [ -z "$stock" ] || usage_error "--stock is for the CPU: leave out --cuda"
  prefix=$(realpath -m "${prefix:-$(default_prefix)}")
  [ -z "$source" ] || [ -e "$source" ] || die "--source $source does not exist"
  [ -z "$source" ] || source=$(realpath "$source")
  if [ -z "$python" ]; then
    python=$(dirname "$here")/.venv/bin/python
    [ -x "$python" ] ||
      die "$python not found, which pycaffe is built for: run 'make setup', or use --python"
  fi
  if [ -z "$cuda$stock" ] && [ -f "$prefix/BUILD" ]; then  # a folder stays what it is
    cuda=$(built cuda) cuda_arch=$(built cuda_arch) cuda_home=$(built cuda_home)
    stock=$(built stock)
  fi
  local facts python_version python_include python_library numpy_version packages_missing
  facts=$(python_facts "$python") || die "$python does not run"
  { read -r python_version; read -r python_include; read -r python_library
    read -r packages_missing; read -r numpy_version; } <<<"$facts"
  [ -z "$packages_missing" ] ||
    die "$python lacks $packages_missing: run 'make setup', or give it docker/requirements.txt"

  local work=$prefix.build recipe mode=CPU
  [ -z "$stock" ] || mode="CPU, stock"
  if [ -n "$cuda" ]; then
    # shellcheck source=docker/cuda.sh
    . "$here/cuda.sh"
    use_cuda
    mode="CUDA $cuda (sm_${cuda_arch// / sm_})"
  fi
  recipe=$(hash_recipe)
  if [ $test = no ] && up_to_date; then
    say "Caffe: up to date in $prefix"
    return
  fi
  [ ! -e "$prefix" ] || [ -f "$prefix/BUILD" ] || [ -z "$(ls -A "$prefix")" ] ||
    die "$prefix exists and was not built by this script: choose a new folder with --prefix"

  check_packages
  local file
  for file in "$python_include/Python.h" "$python_library"; do
    [ -f "$file" ] || die "Python $python_version has no $file: install python3-dev (Debian) or" \
      "name another interpreter with --python"
  done
  mkdir -p "$work"
  exec 9>"$work/lock"
  flock -n 9 || { say "another build into $prefix is running: waiting for it"; flock 9; }
  local log=$work/build.log laps=() lap_start=$SECONDS
  if [ $test = yes ] || ! up_to_date; then
    : >"$log"
    say "building Caffe $VERSION for ${mode/#CPU/the CPU} (log: $log)"
    # the same build no longer starts, because a library of the system changed: start from scratch
    [ "$(built recipe)" != "$recipe" ] || starts || rm -f "$work/started" "$work/configured"
    start_or_resume
    lap source
    if [ -n "$cuda" ]; then
      "$python" -m pip --version >/dev/null 2>&1 || die "$python has no pip to fetch CUDA's wheels"
      assemble_toolkit
      check_architectures
      lap "CUDA toolkit"
    fi
    configure
    lap configuring
    build
    [ -z "$cuda" ] || install_cuda_libraries "$work/stage$prefix"
    install_stage
    lap compiling
    say "Caffe: built into $prefix ($(printf '%s, ' "${laps[@]}" | sed 's/, $//'))"
  fi
  [ $test = no ] || run_tests
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  main "$@"
  exit  # bash reads a script as it goes
fi
