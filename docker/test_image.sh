#!/usr/bin/env bash
# Builds the images with `make image-cpu` and `make image`, and tests them. No GPU needed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
# shellcheck source=docker/debian_root.sh
. "$here/debian_root.sh"

usage() {
  cat <<END
Usage: docker/test_image.sh [--base IMAGE] [--data-root DIR] [--cuda-arch "ARCH..."] [cpu] [cuda]

Builds the images named (default: both) and tests them, each check a line. Without a GPU.

  --base IMAGE          what the images are built on (default: BASE of the Dockerfiles); debian:12-slim
                        and debian:13-slim are tested
  --data-root DIR       where a Docker daemon of its own keeps images and layers, which a second run
                        uses again (default: /var/tmp/hierarchical-caffe-docker); such a daemon is
                        started, by root, where none answers, and stopped at the end
  --cuda-arch "ARCH..." GPU architectures that the CUDA image is compiled for (default: 90, to save
                        time; "" for all of docker/build_caffe.sh's)

Where no registry has the base image, debootstrap makes it, from the Debian mirror that the
environment variable DEBIAN_MIRROR names (default: this machine's).

Example: docker/test_image.sh cpu
END
}

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# --- A daemon and a base image

stop_daemon() {
  local pid
  pid=$(cat "$data_root/pid" 2>/dev/null) || return 0
  kill "$pid"
  while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
}

start_daemon() {
  command -v dockerd >/dev/null || die "no Docker here: apt-get install docker.io iptables"
  [ "$(id -u)" -eq 0 ] ||
    die "no Docker daemon answers ($(docker info 2>&1 | tail -n 1)), and only root can start one"
  mkdir -p "$data_root"
  say "starting a Docker daemon of its own (data: $data_root, log: $data_root/log)"
  dockerd --data-root "$data_root/data" --exec-root "$data_root/exec" --pidfile "$data_root/pid" \
    --storage-driver overlay2 --host "unix://$data_root/socket" >"$data_root/log" 2>&1 &
  trap stop_daemon EXIT
  # no BuildKit: Debian's docker.io brings none
  export DOCKER_HOST=unix://$data_root/socket DOCKER_BUILDKIT=0
  while kill -0 $!; do
    ! docker info >/dev/null 2>&1 || return 0
    sleep 0.2
  done 2>/dev/null
  tail -n 3 "$data_root/log" >&2
  die "the Docker daemon did not start: see $data_root/log"
}

# make_base NAME: makes a replacement for the registry's image: Debian's essential packages and apt
make_base() {
  [[ $1 =~ ^debian:([0-9]+) ]] || die "no registry has the base image $1"
  say "no registry has $1: making it with debootstrap"
  debian_root "${BASH_REMATCH[1]}" "$work/base" "$work/debootstrap.log" || exit 1
  rm -rf "$work"/base/usr/share/{doc,man,locale}/*
  # as the registry's image has it: dpkg need not wait for the disk in a layer that is made or not
  echo force-unsafe-io >"$work/base/etc/dpkg/dpkg.cfg.d/docker-apt-speedup"
  tar -C "$work/base" -c . | docker import --change 'CMD ["bash"]' - "$1" >/dev/null
  rm -rf "$work/base"
}

# --- Checks. Each is a function of its name, run in a shell of its own; what it prints is shown
# when it fails.

check() {  # TEXT FUNCTION [ARGUMENT...]
  local text=$1 start=$SECONDS status
  shift
  set +e  # and no condition: in one, bash would go on after a failure inside the function
  (set -eE; trap 'echo "at line $LINENO"' ERR; "$@") >"$work/check.log" 2>&1
  status=$?
  set -e
  if [ $status -eq 0 ]; then
    passed=$((passed + 1))
    say "ok      $text ($((SECONDS - start)) s)"
  else
    failed=$((failed + 1))
    say "FAILED  $text:"
    tail -n 25 "$work/check.log"
  fi
}

# inside [DOCKER OPTION...] IMAGE COMMAND...: without network
inside() { docker run --rm --network none "$@"; }

# as_stranger [DOCKER OPTION...] IMAGE COMMAND...: as one whom the image does not know, for whom nothing but /tmp and mounts can be written
as_stranger() {
  inside --read-only --tmpfs /tmp --user "$owner" \
    -v "$mounts/photos:/photos" -v "$mounts/mine:$workdir/prototxt/mine" \
    -v "$mounts/data:$workdir/data" -v "$mounts/snapshots:$workdir/snapshots" \
    -v "$mounts/results:$workdir/results" -v "$mounts/models:$workdir/models" "$@"
}

ordinary_user() {
  [ "$(inside "$image" id -u)" = 1000 ]
}

no_compilers() {
  local found
  # shellcheck disable=SC2016
  found=$(inside "$image" bash -c '
    for name in cc gcc g++ c++ cpp clang ld as ar make cmake git nvcc ptxas cicc; do
      command -v $name || true
    done
    dpkg-query -W -f "\${Package}\n" | grep -E -- "(-dev|^gcc|^g\+\+.*|^binutils)$" || true')
  [ -z "$found" ] || { say "$found"; return 1; }
}

libraries_found() {
  # shellcheck disable=SC2016
  inside "$image" bash -c '
    ! ldd /opt/caffe/bin/caffe /opt/caffe/lib/libcaffe.so /opt/caffe/python/caffe/_caffe.so |
      grep "not found"'
}

# nothing of the machine that built the image: no certificates, no index, no package lists
nothing_left() {
  local found
  found=$(inside "$image" find /usr/local/share/ca-certificates /var/lib/apt/lists \
    /etc/pip.conf /etc/apt/auth.conf -type f 2>/dev/null || true)
  [ -z "$found" ] || { say "$found"; return 1; }
  ! { docker history --no-trunc "$image"; docker inspect "$image"; } |
    grep -E 'BEGIN CERTIFICATE|PIP_INDEX_URL'
}

versions_listed() {
  inside "$image" cat docker/versions.txt >"$work/versions"
  local package version
  while IFS='=' read -r package _ version; do
    grep -qixF "python	$package	$version" "$work/versions"  # case says nothing in names of packages
  done < <(sed -n 's/^\([A-Za-z0-9_.-]*==[0-9.]*\).*/\1/p' "$here/requirements.txt")
  grep -q "^debian	libc6	" "$work/versions"
  grep -qE "^caffe	source	[0-9a-f]{64}$" "$work/versions"
}

healthy() {
  local container status=starting
  container=$(docker run -d --network none --health-interval 1s "$image" sleep infinity)
  while [ "$status" = starting ]; do  # three failed checks make it unhealthy
    sleep 1
    status=$(docker inspect -f '{{.State.Health.Status}}' "$container")
  done
  docker inspect -f '{{range .State.Health.Log}}{{.Output}}{{end}}' "$container"
  docker rm -f "$container" >/dev/null
  [ "$status" = healthy ]
}

# a user's own photographs: data, nets, training, evaluation, on mounted folders, by a strange user
trains() {
  rm -rf "$mounts"
  mkdir -p "$mounts"/{photos,mine,data,snapshots,results,models}
  [ "$(id -u)" -ne 0 ] || chown -R "$owner" "$mounts"
  as_stranger "$image" tests/docker/draw_photos.py /photos
  as_stranger "$image" data_prep/build_lmdb.py folder --root /photos --out data/mine
  as_stranger "$image" tools/make_prototxt.py --data data/mine --net squeezenet \
    --out prototxt/mine --train-batch 4 --max-iter 3
  local solver=prototxt/mine/mine_squeezenet_ours_solver.prototxt
  as_stranger "$image" caffe train -solver $solver 2>&1 | tee "$work/train.log"
  grep -q 'Optimization Done' "$work/train.log"
  as_stranger "$image" tools/evaluate.py --solver $solver --out results/mine.json
  grep -q '"top1"' "$mounts/results/mine.json"
  [ -z "$(find "$mounts" -not -user "${owner%:*}")" ]
}

# the model that `trains` left: exported, and behind an address
answers() {
  as_stranger "$image" tools/export.py --solver prototxt/mine/mine_squeezenet_ours_solver.prototxt \
    --out models/mine
  local photo container status=0
  photo=$(find "$mounts/photos" -type f | sort | head -n 1)
  as_stranger "$image" tools/predict.py --model models/mine "/photos${photo#"$mounts/photos"}"
  container=$(as_stranger -d "$image" tools/serve.py --model models/mine --host 0.0.0.0)
  # no network: asked from inside
  docker exec -i "$container" python - "/photos${photo#"$mounts/photos"}" <<'END' || status=$?
import json, sys, time, urllib.request
address = "http://127.0.0.1:8000"
for _ in range(600):
    try:
        urllib.request.urlopen(f"{address}/health")
        break
    except OSError:
        time.sleep(0.1)
with open(sys.argv[1], "rb") as photo:
    sent = urllib.request.Request(f"{address}/predict", photo.read(), {"Content-Type": "image/jpeg"})
answer = urllib.request.urlopen(sent)
print([level["predicted"] for level in json.load(answer)["levels"]])
END
  docker logs "$container"
  docker rm -f "$container" >/dev/null
  return $status
}

# The CUDA image on a machine without a GPU; `trains` has already tested the wrapper
no_gpu_is_named() {
  grep -q 'caffe: on the CPU: this container has no GPU' "$work/train.log"
  local arguments status
  for arguments in "time -gpu 0 -model prototxt/cub_squeezenet_deploy.prototxt" "device_query -gpu 0"
  do
    status=0
    # shellcheck disable=SC2086
    inside "$image" caffe $arguments >"$work/gpu.log" 2>&1 || status=$?
    cat "$work/gpu.log"
    [ $status -eq 1 ] && grep -qi 'no .*GPU' "$work/gpu.log"
  done
}

# Without the tests of building, which need make; those that need a compiler skip themselves
tests_pass() {
  inside --user "$owner" "$image" python -m pytest -q -p no:cacheprovider --ignore tests/docker \
    --deselect tests/test_readme.py::test_make_targets_exist "$@"
}

# --- One image

build_image() {  # KIND
  local start=$SECONDS target=(image-cpu BASE="$base") log=$work/build_$1.log
  [ "$1" = cpu ] || target=(image "${target[1]}" CUDA_ARCH="$cuda_arch")
  say "building hierarchical-caffe:$1 on $base (log: $log)"
  make -C "$root" "${target[@]}" 2>&1 | tee "$log" |
    { grep --line-buffered -E '^(Step |#[0-9]+ \[)|building Caffe| [0-9]+ %, ' || true; } || {
    tail -n 15 "$log" >&2
    die "hierarchical-caffe:$1 was not built: see $log"
  }
  say "hierarchical-caffe:$1 built in $(((SECONDS - start) / 60)) min $(((SECONDS - start) % 60)) s"
}

test_image() {  # KIND
  local image=hierarchical-caffe:$1 mounts=$work/mounts owner=12345:12345 workdir
  [ "$(id -u)" -eq 0 ] || owner=$(id -u):$(id -g)
  workdir=$(docker inspect -f '{{.Config.WorkingDir}}' "$image")
  say "$image: $(($(docker inspect -f '{{.Size}}' "$image") / 1000000)) MB"
  check "runs as an ordinary user" ordinary_user
  check "no compilers" no_compilers
  check "every library of caffe and pycaffe is found" libraries_found
  check "nothing is left of the machine that built it" nothing_left
  check "docker/versions.txt lists what is inside" versions_listed
  check "tools/check_env.py finds it healthy" healthy
  check "trains and evaluates: any user, mounted folders, no network, read-only" trains
  check "exports, predicts and serves the model" answers
  if [ "$1" = cpu ]; then
    check "the tests pass" tests_pass
  else
    check "without a GPU: the CPU is used and named, -gpu 0 refused in a sentence" no_gpu_is_named
    check "CuPy's libraries are found, and it compiles kernels" \
      inside "$image" tests/docker/check_cupy.py
    check "the tests of layers and nets pass" \
      tests_pass tests/python_layers tests/tools/test_nets_run.py
  fi
}

main() {
  data_root=/var/tmp/hierarchical-caffe-docker  # not local: also for stop_daemon, at the exit
  local cuda_arch=90 base="" kinds=() kind
  while [ $# -gt 0 ]; do
    case $1 in
      --base|--data-root|--cuda-arch)
        [ $# -ge 2 ] || { say "error: $1 needs a value" >&2; exit 2; }
        printf -v "$(tr - _ <<<"${1#--}")" %s "$2"; shift 2 ;;
      cpu|cuda) kinds+=("$1"); shift ;;
      --help|-h) usage; return ;;
      *) say "error: unknown argument $1 (--help shows the options)" >&2; exit 2 ;;
    esac
  done
  work=$(mktemp -d) passed=0 failed=0
  docker info >/dev/null 2>&1 || start_daemon
  [ ${#kinds[@]} -gt 0 ] || kinds=(cpu cuda)
  base=${base:-$(sed -n 's/^ARG BASE=//p' "$here/Dockerfile.cpu")}
  docker image inspect "$base" >/dev/null 2>&1 || docker pull -q "$base" 2>/dev/null ||
    make_base "$base"
  # certificates that were added to this machine by hand
  CA_CERTIFICATES=${CA_CERTIFICATES-$(cat /usr/local/share/ca-certificates/*.crt 2>/dev/null || true)}
  export CA_CERTIFICATES
  for kind in "${kinds[@]}"; do
    build_image "$kind"
    test_image "$kind"
  done
  rm -rf "$work"
  say "$passed passed, $failed failed"
  [ "$failed" -eq 0 ]
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  main "$@"
  exit  # bash reads a script as it goes
fi
