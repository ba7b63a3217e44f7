# Functions of docker/build_caffe.sh for --cuda: the toolkit, the compiler's options and the libraries
# that are installed with the build. That script sets the variables used here.
# shellcheck shell=bash disable=SC2154

# By CUDA version: the oldest driver, and the architectures that a build is for unless --cuda-arch
# says otherwise. Code for X.0 runs on all GPUs X.y, and PTX of the newest entry on GPUs to come;
# each entry is another compilation of all kernels (2 minutes on two cores, 1.7 MB).
#
#   CUDA  driver  built for           GPUs
#   13    580     75 80 90 100 120    Turing; Ampere, Ada; Hopper; Blackwell (data center, GeForce)
#   12    525     60 70 75 80 90      Pascal; Volta; Turing; Ampere, Ada; Hopper; later ones by PTX
declare -grA CUDA_ARCH=([13]="75 80 90 100 120" [12]="60 70 75 80 90")

# the libraries that Caffe, cuDNN and CuPy load
readonly CUDA_LIBRARIES=(cudart cublas cublasLt curand 'cudnn*' nccl nvrtc nvrtc-builtins)

# use_cuda: checks the options for CUDA and completes them
use_cuda() {
  [ -n "${CUDA_ARCH[$cuda]:-}" ] ||
    usage_error "--cuda $cuda is not one of ${!CUDA_ARCH[*]}"
  cuda_arch=${cuda_arch:-${CUDA_ARCH[$cuda]}}
  [[ $cuda_arch =~ ^[1-9][0-9]{1,2}( [1-9][0-9]{1,2})*$ ]] ||
    usage_error "--cuda-arch '$cuda_arch' is not a list like '75 80 90'"
  cuda_arch=$(tr ' ' '\n' <<<"$cuda_arch" | sort -nu | tr '\n' ' ')
  cuda_arch=${cuda_arch% }
  if [ "$cuda" = 12 ] && [ -z "$cuda_home" ]; then
    cuda_home=$(find /usr/local -maxdepth 1 -name 'cuda-12*' | sort -V | tail -n 1)
    [ -n "$cuda_home" ] || die "--cuda 12 needs a CUDA 12 toolkit, but /usr/local/cuda-12* was not" \
      "found: install one from NVIDIA and name its folder with --cuda-home (CUDA 13" \
      "needs none)"
  fi
  if [ -n "$cuda_home" ]; then
    [ -x "$cuda_home/bin/nvcc" ] || die "--cuda-home $cuda_home has no bin/nvcc"
    cuda_home=$(realpath "$cuda_home")
    case $("$cuda_home/bin/nvcc" --version) in
      *"release $cuda."*) ;;
      *) die "--cuda-home $cuda_home is not CUDA $cuda: its 'bin/nvcc --version' says what it is" ;;
    esac
  fi
  [ "$(uname -m)" = x86_64 ] || die "--cuda is for x86-64, and this machine is $(uname -m)"
  # cuDNN, NCCL and the toolkit are found in the merged toolkit and nowhere else
  CMAKE_OPTIONS=("${CMAKE_OPTIONS[@]/CPU_ONLY=ON/CPU_ONLY=OFF}" -DUSE_CUDNN=ON -DUSE_NCCL=ON
    -DCUDA_TOOLKIT_ROOT_DIR="$work/cuda" -DCUDNN_ROOT="$work/cuda"
    -DNCCL_INCLUDE_DIR="$work/cuda/include" -DNCCL_LIBRARIES="$work/cuda/lib/libnccl.so"
    -DCUDA_ARCH_NAME=Manual -DCUDA_ARCH_BIN="$cuda_arch" -DCUDA_ARCH_PTX="${cuda_arch##* }")
}

# cuda_pins: the pinned wheels, without comments
cuda_pins() { grep -v '^#' "$here/requirements-cuda$cuda.txt"; }

# cuda_recipe: all that decides what a CUDA build has beyond a CPU build
cuda_recipe() {
  declare -f assemble_toolkit install_cuda_libraries
  say "$cuda_home" "${CUDA_LIBRARIES[@]}"
  [ -z "$cuda_home" ] || "$cuda_home/bin/nvcc" --version
  cuda_pins
}

# assemble_toolkit: $work/cuda with bin, include, lib (lib64 is the same) and nvvm, from the pinned
# wheels and, where one is named, the machine's toolkit
assemble_toolkit() {
  local requirements=$here/requirements-cuda$cuda.txt toolkit=$work/cuda wheels=$work/wheels
  local id part library
  id="$(cuda_pins | sha256sum) $cuda_home"
  [ "$(cat "$toolkit/READY" 2>/dev/null)" != "$id" ] || return 0
  rm -rf "$toolkit" "$wheels"
  mkdir -p "$toolkit/lib"
  say "fetching NVIDIA's wheels of $(basename "$requirements") (up to 1.3 GB)"
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
      --require-hashes --only-binary :all: --target "$wheels" -r "$requirements" >>"$log" 2>&1 || {
    grep -m 3 -E '^ *(ERROR|Expected|Got)' "$log" >&2 || true
    die "pip could not fetch the wheels of $(basename "$requirements"): see $log"
  }
  for part in "$wheels"/nvidia/*/; do
    cp -Rlf "$part." "$toolkit"
  done
  rm -rf "$wheels"
  if [ -n "$cuda_home" ]; then
    cp -Rsn "$cuda_home"/{bin,include,nvvm} "$toolkit"
    cp -Rsn "$cuda_home/lib64/." "$toolkit/lib"
  fi
  [ -e "$toolkit/lib64" ] || ln -s lib "$toolkit/lib64"
  for library in "$toolkit"/lib/lib*.so.*; do  # wheels lack the libX.so that linkers look for
    [ -e "${library%%.so.*}.so" ] || ln -s "$(basename "$library")" "${library%%.so.*}.so"
  done
  echo "$id" >"$toolkit/READY"
}

# check_architectures: the compiler knows those of --cuda-arch
check_architectures() {
  local known arch
  known=$("$work/cuda/bin/nvcc" --list-gpu-code) || die "nvcc does not run: see $work/cuda/bin/nvcc"
  for arch in $cuda_arch; do
    grep -qx "sm_$arch" <<<"$known" ||
      die "this CUDA compiles for $(xargs <<<"${known//sm_/}"), not for --cuda-arch $arch"
  done
}

# install_cuda_libraries STAGE: into STAGE/cuda the libraries and the headers with which CuPy
# compiles; nothing else of CUDA has to be on the machine but the driver
install_cuda_libraries() {
  local stage=$1 name library soname file missing
  mkdir -p "$stage/cuda/lib"
  for name in "${CUDA_LIBRARIES[@]}"; do
    # the name's * is for this glob
    # shellcheck disable=SC2231
    for library in "$work"/cuda/lib/lib$name.so.*; do
      soname=$(readelf -d "$library" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')
      [ "$soname" != "$(basename "$library")" ] || cp -L "$library" "$stage/cuda/lib"
    done
  done
  ln -s lib "$stage/cuda/lib64"
  cp -RL "$work/cuda/include" "$stage/cuda/include"
  rm -rf "$stage/cuda/include/cccl"  # CuPy has its own
  for file in "$stage"/bin/caffe "$stage"/lib/libcaffe.so "$stage"/python/caffe/_caffe.so; do
    missing=$(ldd "$file" | sed -n 's/ => not found//p' | xargs)
    [ -z "$missing" ] || die "$file does not find $missing"
  done
}
