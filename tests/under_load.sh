#!/usr/bin/env bash
# The tests as a hard-pressed machine sees them: N times, beside busy loops, in random order, with half
# the memory, in a copy of this repository whose path has blanks and an apostrophe.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=docker/copy_repository.sh
. "$root/docker/copy_repository.sh"

usage() {
  cat <<END_OF_USAGE
Usage: tests/under_load.sh [--runs N] [--at-once N] [--loops N] [--folder DIR] [PYTEST_ARGUMENT...]

Copies the repository into "DIR/a user's own copy 1", runs 'make setup' there, and its tests N times.
Prints each run's seed and result; ends at the first failure. The seed repeats an order:
.venv/bin/python -m pytest --random-order --random-order-seed=SEED.

  --runs N      how often (default: 10)
  --at-once N   runs at a time, each in a copy of its own, as a load on one another (default: 1);
                on two cores, ten runs take three hours one by one, less than two all at once
  --loops N     busy loops beside them (default: 2)
  --folder DIR  default: a temporary folder, removed when all runs pass

Example: tests/under_load.sh --runs 1 tests/data_prep
END_OF_USAGE
}

say() { printf '%s\n' "$*"; }

# half_memory COMMAND...: by a control group of systemd where that works, else by a limit on each
# process's own memory
half_memory() {
  local kilobytes
  kilobytes=$(awk '/^MemTotal:/ {print int($2 / 2)}' /proc/meminfo)
  if systemd-run --scope --quiet -p MemoryMax=1G true 2>/dev/null; then
    systemd-run --scope --quiet -p MemoryMax="${kilobytes}K" -p MemorySwapMax=0 "$@"
  else
    (ulimit -d "$kilobytes" && "$@")
  fi
}

# stop_all: ends the loops and the lanes, each with its children: it is a process group of its own
stop_all() {
  local one
  for one in "${loops[@]}" "${lanes[@]}"; do
    kill -- "-$one" 2>/dev/null || true
  done
}

# make_copy COPY PREFIX: this repository, set up with the Caffe at PREFIX
make_copy() {
  copy_repository "$root" "$1"
  CAFFE_PREFIX=$2 make -C "$1" setup
}

# lane COPY FIRST STEP LAST PYTEST_ARGUMENT...: the runs FIRST, FIRST + STEP ... up to LAST in a copy
lane() {
  local copy=$1 run=$2 step=$3 last=$4 seed log
  shift 4
  for ((; run <= last; run += step)); do
    seed=$RANDOM log=$folder/run-$run.log
    if (cd "$copy" && half_memory .venv/bin/python -m pytest --random-order \
        --random-order-seed=$seed "$@") >"$log" 2>&1; then
      say "run $run, seed $seed: $(tail -n 1 "$log" | tr -d '=' | xargs)"
    else
      say "run $run, seed $seed FAILED: see $log"
      tail -n 40 "$log"
      return 1
    fi
  done
}

main() {
  local runs=10 at_once=1 count=2 folder="" number caffe temporary=""
  while [ $# -gt 0 ]; do
    case $1 in
      --runs|--at-once|--loops|--folder)
        [ -n "${2:-}" ] || { say "error: $1 needs a value" >&2; exit 2; }
        case $1 in --runs) runs=$2 ;; --at-once) at_once=$2 ;; --loops) count=$2 ;; --folder) folder=$2 ;; esac
        shift 2 ;;
      --help|-h) usage; return ;;
      *) break ;;
    esac
  done
  [[ $runs$at_once$count =~ ^[0-9]+$ && $at_once -gt 0 ]] ||
    { say "error: --runs, --at-once and --loops take numbers" >&2; exit 2; }
  [ "$at_once" -le "$runs" ] || at_once=$runs
  [ -n "$folder" ] || temporary=$(mktemp -d)
  folder=$(realpath -m "${folder:-$temporary}")
  caffe=$(readlink -f "$root/.venv/bin/caffe" || true)  # the copies share this checkout's Caffe
  for ((number = 1; number <= at_once; number++)); do
    make_copy "$folder/a user's own copy $number" "${CAFFE_PREFIX:-${caffe%/bin/caffe}}"
  done
  loops=() lanes=()
  trap stop_all EXIT
  trap 'exit 130' INT TERM
  set -m  # each job below is a process group
  for ((number = 0; number < count; number++)); do
    while :; do :; done &
    loops+=($!)
  done
  for ((number = 1; number <= at_once; number++)); do
    lane "$folder/a user's own copy $number" "$number" "$at_once" "$runs" "$@" &
    lanes+=($!)
  done
  for ((number = 1; number <= at_once; number++)); do
    wait -n || exit 1  # of a lane: a loop never ends
  done
  say "$runs runs passed, $at_once at a time, beside $count busy loops"
  [ -z "$temporary" ] || rm -rf "$temporary"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  main "$@"
  exit  # bash reads a script as it goes
fi
