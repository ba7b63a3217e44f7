#!/usr/bin/env bash
# The tests as a hard-pressed machine sees them: N times, beside busy loops, in random order, with half
# the memory, in a copy of this repository whose path has blanks and an apostrophe.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  cat <<END_OF_USAGE
Usage: tests/under_load.sh [--runs N] [--loops N] [--folder DIR] [PYTEST_ARGUMENT...]

Copies the repository into "DIR/a user's own copy", runs 'make setup' there, and its tests N times.
Prints each run's seed and result; ends at the first failure. The seed repeats an order:
.venv/bin/python -m pytest --random-order --random-order-seed=SEED.

  --runs N      how often (default: 10)
  --loops N     busy loops beside it (default: 2)
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

stop_loops() { [ ${#loops[@]} -eq 0 ] || kill "${loops[@]}" 2>/dev/null || true; }

main() {
  local runs=10 count=2 folder="" run seed copy log caffe temporary=""
  while [ $# -gt 0 ]; do
    case $1 in
      --runs|--loops|--folder)
        [ -n "${2:-}" ] || { say "error: $1 needs a value" >&2; exit 2; }
        case $1 in --runs) runs=$2 ;; --loops) count=$2 ;; --folder) folder=$2 ;; esac
        shift 2 ;;
      --help|-h) usage; return ;;
      *) break ;;
    esac
  done
  [[ $runs$count =~ ^[0-9]+$ ]] || { say "error: --runs and --loops take numbers" >&2; exit 2; }
  [ -n "$folder" ] || temporary=$(mktemp -d)
  folder=$(realpath -m "${folder:-$temporary}")
  copy="$folder/a user's own copy"
  mkdir -p "$copy"
  (cd "$root" && git ls-files -z --cached --others --exclude-standard |
    tar -c --null --ignore-failed-read -T - 2>/dev/null) | tar -x -C "$copy"
  caffe=$(readlink -f "$root/.venv/bin/caffe" || true)  # the copy shares this checkout's Caffe
  CAFFE_PREFIX=${CAFFE_PREFIX:-${caffe%/bin/caffe}} make -C "$copy" setup
  loops=()
  trap stop_loops EXIT
  for ((run = 0; run < count; run++)); do
    while :; do :; done &
    loops+=($!)
  done
  for ((run = 1; run <= runs; run++)); do
    seed=$RANDOM log=$folder/run-$run.log
    if (cd "$copy" && half_memory .venv/bin/python -m pytest --random-order \
        --random-order-seed=$seed "$@") >"$log" 2>&1; then
      say "run $run, seed $seed: $(tail -n 1 "$log" | tr -d '=' | xargs)"
    else
      say "run $run, seed $seed FAILED: see $log"
      tail -n 40 "$log"
      exit 1
    fi
  done
  stop_loops
  say "$runs runs passed beside $count busy loops"
  [ -z "$temporary" ] || rm -rf "$temporary"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  main "$@"
  exit  # bash reads a script as it goes
fi
