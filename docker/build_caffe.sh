#!/usr/bin/env bash
# Builds BVLC Caffe, for the CPU or for CUDA, from Debian's source package and the patches here.
set -euo pipefail

readonly PACKAGE=caffe VERSION=1.0.0+git20180821.99bd997-8 SUITE=bullseye
readonly TARBALL=${PACKAGE}_${VERSION%-*}.orig.tar.gz
readonly SHA256=e0eb3f06794f7402c77b7dec8e8480273ee1a1bb192e9122b621a69d4147ad0c
CMAKE_OPTIONS=(-DCMAKE_BUILD_TYPE=Release -DCPU_ONLY=ON -DBLAS=open -DUSE_LEVELDB=OFF
               -DBUILD_docs=OFF -Dpython_version=3)
# Caffe's tests that need a GPU: by name, and those that are run for several types (0 and 1: float
# and double on the CPU, 2 and 3: on a GPU)
readonly GPU_TESTS='*GPU*:*/2.*:*/3.*:*CuDNN*:Im2colKernelTest/*:PlatformTest.*'

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
  cat <<END
Usage: docker/build_caffe.sh [--prefix DIR] [--source DIR|TARBALL] [--python EXE] [--jobs N]
                             [--test] [--cuda 13|12 [--cuda-arch LIST] [--cuda-home DIR]]
       docker/build_caffe.sh --install-packages

Builds Caffe and installs it into DIR; does nothing where DIR already holds this very build.

  --prefix DIR          where Caffe goes (default: ~/.local/caffe, for CUDA ~/.local/caffe-cuda13);
                        sources, objects and the log stay in DIR.build, which may be deleted
  --source DIR|TARBALL  $TARBALL, whose checksum
                        is verified, or a source tree of that version, which is taken as it is
                        (default: fetched with apt-get from this machine's Debian mirror)
  --python EXE          the interpreter that pycaffe is for; it needs NumPy, protobuf and six
                        (default: .venv/bin/python of this repository)
  --jobs N              parallel compilations (default: one per processor)
  --test                also build and run Caffe's own C++ and Python tests (some minutes more);
                        for CUDA those for GPUs too where there is a GPU
  --cuda 13|12          build for GPUs, with cuDNN 9 and NCCL 2; it runs on the CPU as well. CUDA 13
                        (Turing and later, driver 580 and later) comes from NVIDIA's Python wheels,
                        1.3 GB; CUDA 12 (Pascal and later, driver 525 and later) needs its toolkit
                        (default: what DIR holds already, else the CPU)
  --cuda-arch LIST      GPU architectures to compile for, as in '75 80 90' (default: those of
                        docker/cuda.sh)
  --cuda-home DIR       the machine's own CUDA toolkit, in place of the wheels (default for CUDA 12:
                        the newest /usr/local/cuda-12*)
  --install-packages    only install the Debian packages of docker/packages.txt that are missing
                        (as root or through sudo)

Example: docker/build_caffe.sh --prefix /opt/caffe --source ~/Downloads/$TARBALL
         docker/build_caffe.sh --cuda 13 --cuda-arch 90
END
}

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
usage_error() { printf 'error: %s (--help shows the options)\n' "$*" >&2; exit 2; }
minutes() { printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); }

# --- Debian packages

# packages [GROUP]: the names listed in packages.txt, of one group or of all
packages() {
  awk -v want="${1:-}" '
    /^\[/ {group = substr($1, 2, length($1) - 2); next}
    NF && !/^#/ && (want == "" || want == group) {print $1}' "$here/packages.txt"
}

# missing_packages NAME...: those that are not installed
missing_packages() {
  command -v dpkg-query >/dev/null || return 0  # not Debian: the compiler will tell
  local name
  for name in "$@"; do
    # ${Status} is dpkg's field, not the shell's
    # shellcheck disable=SC2016
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || echo "$name"
  done
}

check_packages() {
  local missing
  # shellcheck disable=SC2046
  missing=$(missing_packages $(packages caffe) | tr '\n' ' ')
  [ -z "$missing" ] || die "Caffe's build lacks the Debian packages ${missing% }:" \
    "install them with 'docker/build_caffe.sh --install-packages' or 'apt-get install ${missing% }'"
}

install_packages() {
  local missing as_root=()
  # shellcheck disable=SC2046
  mapfile -t missing < <(missing_packages $(packages))
  [ ${#missing[@]} -gt 0 ] || { say "Debian packages: all there"; return; }
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "these Debian packages are missing and neither root nor" \
      "sudo is there to install them: ask for 'apt-get install ${missing[*]}'"
    as_root=(sudo)
  fi
  say "Debian packages: installing ${missing[*]}"
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
             apt-get -q -o DPkg::Lock::Timeout=600)
  "${apt[@]}" update >/dev/null ||
    say "apt-get update met errors; going on with the package lists there are"
  "${apt[@]}" install -y --no-install-recommends "${missing[@]}" |
    grep --line-buffered -E '^(Need to get|Setting up (cmake|libopencv-dev|python3-venv) )' ||
    die "apt-get could not install ${missing[*]}: its own message is above"
  say "Debian packages: installed in $(minutes $SECONDS)"
}

# --- Source

# source_entries ETC_APT OUT_DIR: writes apt sources for the source packages of $SUITE, derived from
# the machine's own entries for its Debian release: mirror, keys and options stay the same.
source_entries() {
  local etc=$1 out=$2 codename file
  codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
  codename=${codename:-stable}
  mkdir -p "$out"
  for file in "$etc"/sources.list.d/*.sources; do  # stanzas of "Field: value" lines
    [ -f "$file" ] || continue
    awk -v codename="$codename" -v suite=$SUITE '
      function value(field,   i, rest) {
        for (i = 1; i <= n; i++) if (tolower(line[i]) ~ "^" field ":") {
          rest = line[i]; sub(/^[^:]*:/, "", rest); return " " rest " "
        }
        return ""
      }
      function flush(   i, keep) {
        if (value("types") ~ /[ \t]deb[ \t]/ && value("components") ~ /[ \t]main[ \t]/ &&
            value("suites") ~ ("[ \t](" codename "|stable|oldstable|testing|unstable|sid)[ \t]") &&
            tolower(value("enabled")) !~ /[ \t]no[ \t]/) {
          print "Types: deb-src\nSuites: " suite "\nComponents: main"
          for (i = 1; i <= n; i++) {
            if (line[i] !~ /^[ \t]/)
              keep = tolower(line[i]) !~ /^(types|suites|components|architectures|enabled):/
            if (keep) print line[i]
          }
          print ""
        }
        n = 0
      }
      /^#/ {next}
      /^[ \t]*$/ {flush(); next}
      {line[++n] = $0}
      END {flush()}' "$file"
  done >"$out/source.sources"
  for file in "$etc/sources.list" "$etc"/sources.list.d/*.list; do  # deb [options] URI SUITE ...
    [ -f "$file" ] || continue
    sed -E 's/#.*//' "$file" | awk -v codename="$codename" -v suite=$SUITE '
      $1 == "deb" {
        options = ""; rest = $0; sub(/^[ \t]*deb[ \t]+/, "", rest)
        if (match(rest, /^\[[^]]*\][ \t]*/)) {
          options = substr(rest, 1, RLENGTH); rest = substr(rest, RLENGTH + 1)
          gsub(/arch=[^] \t]*/, "", options)
        }
        fields = split(rest, part, /[ \t]+/); main = 0
        for (i = 3; i <= fields; i++) main = main || part[i] == "main"
        if (main && part[2] ~ ("^(" codename "|stable|oldstable|testing|unstable|sid)$"))
          print "deb-src " options part[1] " " suite " main"
      }'
  done >"$out/source.list"
  [ -s "$out/source.sources" ] || rm "$out/source.sources"
  [ -s "$out/source.list" ] || rm "$out/source.list"
}

fetch_with_apt() {
  local to=$1 apt_dir etc
  local advice="get $TARBALL elsewhere (Debian's snapshot archive keeps it), pass it with --source"
  command -v apt-get >/dev/null ||
    die "this machine has no apt-get to fetch Caffe's source with: $advice"
  say "fetching Debian's source package $PACKAGE $VERSION ($SUITE)"
  apt_dir=$(mktemp -d "$work/apt.XXXXXX")
  # shellcheck disable=SC2064
  trap "rm -rf '$apt_dir'" EXIT
  etc=$(apt-config shell etc Dir::Etc/d | sed "s|^etc='\(.*\)/'$|\1|")
  source_entries "$etc" "$apt_dir/parts"
  [ -n "$(ls "$apt_dir/parts")" ] || die "no entry for Debian's own archive in $etc: $advice"
  mkdir -p "$apt_dir/lists/partial" "$apt_dir/cache/archives/partial"
  local options=(-q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$apt_dir/parts"
                 -o Dir::State::lists="$apt_dir/lists" -o Dir::Cache="$apt_dir/cache"
                 -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1)
  { apt-get "${options[@]}" update &&
      (cd "$apt_dir" && apt-get "${options[@]}" source --download-only "$PACKAGE=$VERSION")
  } >>"$log" 2>&1 || {
    tail -n 5 "$log" >&2
    die "the Debian mirror of this machine did not give the source package $PACKAGE $VERSION" \
      "of $SUITE (whole log: $log): $advice"
  }
  mv "$apt_dir/$TARBALL" "$to"
  rm -rf "$apt_dir"
  trap - EXIT
}

check_tarball() {
  local sum
  sum=$(sha256sum "$1") && sum=${sum%% *}
  [ "$sum" = $SHA256 ] ||
    die "$1 is not $TARBALL: its SHA-256 is $sum, expected $SHA256"
}

# unpack_and_patch SOURCE TREE: SOURCE is the tarball or a source tree
unpack_and_patch() {
  local patch
  rm -rf "$2" && mkdir -p "$2"
  if [ -d "$1" ]; then
    say "copying $1 (a source tree: no checksum to verify)"
    cp -R "$1/." "$2"
  else
    check_tarball "$1"
    tar -xzf "$1" -C "$2"
  fi
  [ -f "$2/src/caffe/proto/caffe.proto" ] ||
    die "$1 holds no Caffe source (no src/caffe/proto/caffe.proto)"
  for patch in "$here"/patches/*.patch; do
    patch -d "$2" -p1 --forward --no-backup-if-mismatch <"$patch" >>"$log" 2>&1 ||
      die "$(basename "$patch") does not apply to $1: see $log"
  done
  say "source ready: $2 ($(find "$here/patches" -name '*.patch' | wc -l) patches applied)"
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

# hash_recipe: one hash over all that decides what the build is; of this script, only the functions
# that make it (a reworded message is no reason to compile for minutes)
hash_recipe() {
  { declare -f unpack_and_patch build
    say "$VERSION" "${CMAKE_OPTIONS[@]}" "$python_version" "${numpy_version%%.*}" "$prefix"
    cat "$here"/patches/*.patch
    uname -m
    grep -E '^(ID|VERSION_ID)=' /etc/os-release || true
    [ -z "${cuda:-}" ] || cuda_recipe; } | sha256sum | cut -d ' ' -f 1
}

source_id() {
  if [ -d "$1" ]; then
    (cd "$1" && find . -type f -not -path './.git/*' -print0 | LC_ALL=C sort -z |
      xargs -0 sha256sum) | sha256sum | cut -d ' ' -f 1
  else
    echo $SHA256
  fi
}

# built: a value from the file that a finished build leaves at the prefix
built() { sed -n "s/^$1: //p" "$prefix/BUILD" 2>/dev/null; }

# up_to_date: the prefix holds this very build (of --source, if one was given), and it still starts
# (no library of the system has gone)
up_to_date() {
  [ "$(built recipe)" = "$recipe" ] &&
    { [ -z "$source" ] || [ "$(built source)" = "$(source_id "$source")" ]; } &&
    "$prefix/bin/caffe" -version >/dev/null 2>&1
}

# show_percent: of make's output, a line every ten per cent
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

# start_or_resume SOURCE: unpacked sources and an empty build folder, or those of an earlier,
# perhaps unfinished build of the same
start_or_resume() {
  local id
  id="$recipe $(source_id "$1")"
  if [ "$(cat "$work/started" 2>/dev/null)" = "$id" ]; then
    say "going on in $work"
    return
  fi
  rm -rf "$work/started" "$work/build"
  unpack_and_patch "$1" "$work/source"
  [ -z "$cuda" ] || patch_for_cuda
  mkdir "$work/build"
  echo "$id" >"$work/started"
}

build() {
  say "configuring for Python $python_version, NumPy $numpy_version"
  cmake -S "$work/source" -B "$work/build" "${CMAKE_OPTIONS[@]}" -DCMAKE_INSTALL_PREFIX="$prefix" \
      -DPYTHON_EXECUTABLE="$python" -DPYTHON_INCLUDE_DIR="$python_include" \
      -DPYTHON_LIBRARY="$python_library" >>"$log" 2>&1 || {
    grep -A 4 -E 'CMake Error|Could NOT' "$log" | head -n 20 >&2 || true
    die "CMake could not configure Caffe: see $log"
  }
  compile all
  (cd "$work/source/python" && "$python" -c 'import caffe; caffe.set_mode_cpu()') >>"$log" 2>&1 || {
    tail -n 3 "$log" >&2
    die "the pycaffe just built cannot be imported: see $log"
  }
  rm -rf "$work/stage"
  make -C "$work/build" install DESTDIR="$work/stage" >>"$log" 2>&1 ||
    die "installing failed: see $log"
}

# install_stage: the finished build takes the place of what is at the prefix
install_stage() {
  printf '%s\n' "recipe: $recipe" "source: $(source_id "$tree_or_tarball")" "version: $VERSION" \
    "mode: $mode" "python: $python_version" "numpy: $numpy_version" "cuda: $cuda" \
    "cuda_arch: $cuda_arch" "cuda_home: $cuda_home" >"$work/stage$prefix/BUILD"
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

main() {
  local jobs prefix="" source="" python="" test=no cuda="" cuda_arch="" cuda_home=""
  local option
  jobs=$(nproc)
  while [ $# -gt 0 ]; do
    case $1 in
      --prefix|--source|--python|--jobs|--cuda|--cuda-arch|--cuda-home)
        [ $# -ge 2 ] && [ -n "$2" ] || usage_error "$1 needs a value"
        option=${1#--}
        printf -v "${option/-/_}" %s "$2"; shift 2 ;;
      --test) test=yes; shift ;;
      --install-packages) install_packages; return ;;
      --help|-h) usage; return ;;
      *) usage_error "unknown argument $1" ;;
    esac
  done
  [[ $jobs =~ ^[1-9][0-9]*$ ]] || usage_error "--jobs $jobs is not a positive number"
  [ -n "$cuda" ] || [ -z "$cuda_arch$cuda_home" ] ||
    usage_error "--cuda-arch and --cuda-home are for --cuda"
  prefix=$(realpath -m "${prefix:-$HOME/.local/caffe${cuda:+-cuda$cuda}}")
  [ -z "$source" ] || [ -e "$source" ] || die "--source $source does not exist"
  [ -z "$source" ] || source=$(realpath "$source")
  if [ -z "$python" ]; then
    python=$(dirname "$here")/.venv/bin/python
    [ -x "$python" ] ||
      die "there is no $python to build pycaffe for: run 'make setup', or name one with --python"
  fi
  if [ -z "$cuda" ] && [ -f "$prefix/BUILD" ]; then  # a folder stays what it is
    cuda=$(built cuda) cuda_arch=$(built cuda_arch) cuda_home=$(built cuda_home)
  fi
  local facts python_version python_include python_library numpy_version packages_missing
  facts=$(python_facts "$python") || die "$python does not run"
  { read -r python_version; read -r python_include; read -r python_library
    read -r packages_missing; read -r numpy_version; } <<<"$facts"
  [ -z "$packages_missing" ] ||
    die "$python lacks $packages_missing: run 'make setup', or give it docker/requirements.txt"

  local work=$prefix.build recipe mode=CPU
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
    die "$prefix holds something else than a Caffe of this script: name a new folder with --prefix"

  check_packages
  local file
  for file in "$python_include/Python.h" "$python_library"; do
    [ -f "$file" ] || die "Python $python_version has no $file: install python3-dev (Debian) or" \
      "name another interpreter with --python"
  done
  mkdir -p "$work"
  exec 9>"$work/lock"
  flock -n 9 || { say "another build into $prefix is running: waiting for it"; flock 9; }
  local log=$work/build.log tree_or_tarball=$source
  if [ $test = yes ] || ! up_to_date; then
    : >"$log"
    say "building Caffe $VERSION for ${mode/CPU/the CPU} (log: $log)"
    if [ -z "$tree_or_tarball" ]; then
      tree_or_tarball=$work/$TARBALL
      [ -f "$tree_or_tarball" ] || fetch_with_apt "$tree_or_tarball"
    fi
    start_or_resume "$tree_or_tarball"
    if [ -n "$cuda" ]; then
      "$python" -m pip --version >/dev/null 2>&1 || die "$python has no pip to fetch CUDA's wheels"
      assemble_toolkit
      check_architectures
    fi
    build
    [ -z "$cuda" ] || install_cuda_libraries "$work/stage$prefix"
    install_stage
    say "Caffe: built into $prefix in $(minutes $SECONDS)"
  fi
  [ $test = no ] || run_tests
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  main "$@"
  exit  # bash reads a script as it goes
fi
