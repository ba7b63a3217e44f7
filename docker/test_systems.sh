#!/usr/bin/env bash
# Tests README.md's set-up on a fresh machine: each release of Debian, from a minimal debootstrap.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
# shellcheck source=docker/debian_root.sh
. "$here/debian_root.sh"
# shellcheck source=docker/copy_repository.sh
. "$here/copy_repository.sh"

readonly STEPS="demo test test-caffe"

usage() {
  cat <<END_OF_USAGE
Usage: docker/test_systems.sh [--folder DIR] [--steps "TARGET..."] [--again] [--keep] [RELEASE...]

For each release (default: those that docker/systems.txt says are tested) debootstrap makes a minimal
system in a folder; inside it, 'apt-get install git make', a copy of this repository, and each step:
'make TARGET'. Says how long each took. As root; about 40 minutes a release on two cores, and 5 GB.

  --folder DIR        where the systems and logs go (default: /var/tmp/hierarchical-caffe-systems); a
                      system there that this script made is replaced
  --steps "TARGET..." make's targets, in order (default: $STEPS)
  --again             reuse the systems of the last run, kept by --keep or after a failure
  --keep              leaves the systems in place at the end; those where a step failed always stay

Mirror, proxies, certificates and pip's index are those of this machine. Environment variable
DEBIAN_MIRROR: another mirror, such as http://deb.debian.org.

Example: docker/test_systems.sh --steps "setup test" 13
END_OF_USAGE
}

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
minutes() { printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); }

# inside SYSTEM COMMAND...: runs a process in that system, with /proc, /dev and its own environment;
# all its children end with it, or with this script
inside() {
  local system=$1 status=0
  shift
  # what the single quotes hold is the inner shell's
  # shellcheck disable=SC2016
  unshare --mount --pid --fork --kill-child bash -c '
    system=$1; shift
    mount -t proc proc "$system/proc"
    mount --rbind /dev "$system/dev"
    exec chroot "$system" env -i "$@"' bash "$system" \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb \
    "${pass_on[@]}" "$@" </dev/null &
  child=$!
  wait "$child" || status=$?
  child=""
  return "$status"
}

# end_together: ends what `inside` runs with this script; unshare passes on only SIGKILL
end_together() {
  trap '[ -z "${child:-}" ] || kill -KILL "$child"' EXIT
  trap 'exit 130' INT TERM
}

note() { say "$@" | tee -a "$folder/summary"; }

# machine_settings: sets the array pass_on to this machine's network settings. Indexes that are local
# files do not exist inside and are left out.
machine_settings() {
  local name key value
  pass_on=()
  for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    [ -z "${!name:-}" ] || pass_on+=("$name=${!name}")
  done
  while IFS='=' read -r key value; do
    value=${value#\'} value=${value%\'}
    case ${key##*.} in
      index-url|proxy|trusted-host) ;;
      extra-index-url) value=$(tr ' ' '\n' <<<"$value" | grep -v '^file:' | xargs || true) ;;
      *) continue ;;
    esac
    name=${key##*.} name=PIP_${name^^}
    [ -z "$value" ] || pass_on+=("${name//-/_}=$value")
  done < <(python3 -m pip config list 2>/dev/null || true)
}

# make_system RELEASE SYSTEM LOG
make_system() {
  local certificate
  [ ! -e "$2" ] || [ -f "$2.made-here" ] || die "$2 exists, and this script did not make it"
  touch "$2.made-here"
  rm -rf --one-file-system "$2"
  debian_root "$1" "$2" "$3" || exit 1
  cp /etc/resolv.conf /etc/hosts "$2/etc/"
  apt-config dump 2>/dev/null | grep -E '^Acquire::https?::Proxy' >"$2/etc/apt/apt.conf.d/proxy" || true
  # certificates that were added to this machine by hand
  for certificate in /usr/local/share/ca-certificates/*.crt; do
    [ ! -f "$certificate" ] || install -D -m 644 -t "$2/usr/local/share/ca-certificates" "$certificate"
  done
  inside "$2" bash -c 'apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -qy install git make' \
    >>"$3" 2>&1 || die "apt-get inside $2 failed: see $3"
}

# try_release RELEASE: adds lines to $folder/summary; status 1 where a step failed
try_release() {
  local release=$1 system=$folder/debian-$1 log start step
  log=$folder/debian-$release.log start=$SECONDS
  if [ -z "$again" ] || [ ! -x "$system/usr/bin/git" ]; then
    say "Debian $release: a minimal system in $system"
    : >"$log"
    make_system "$release" "$system" "$log"
    note "Debian $release: made in $(minutes $((SECONDS - start)))"
  fi
  copy_repository "$root" "$system$repository"
  for step in $steps; do
    start=$SECONDS log=$folder/debian-$release-$step.log
    say "Debian $release: make $step (log: $log)"
    if inside "$system" make -C "$repository" "$step" >"$log" 2>&1; then
      note "Debian $release: make $step passed in $(minutes $((SECONDS - start)))$(last_result "$log")"
    else
      note "Debian $release: make $step FAILED after $(minutes $((SECONDS - start))): see $log"
      tail -n 25 "$log" | sed 's/^/  /' >&2
      echo "$release $step" >>"$folder/failed"
    fi
  done
  [ -n "$keep" ] || grep -q "^$release " "$folder/failed" ||
    rm -rf --one-file-system "$system" "$system.made-here"
}

# last_result LOG: the last lines of results of pytest, Caffe's tests, the demo and set-up
last_result() {
  local said
  said=$(grep -E '^=+ .*(passed|failed).* =+$|^\[  PASSED  \]|^Ran [0-9]+ tests|^done in|^set-up took' \
    "$1" | tr -d '=' | sed 's/^ *//; s/ *$//' | tail -n 2 | paste -sd ';')
  [ -z "$said" ] || echo " ($said)"
}

main() {
  local folder=/var/tmp/hierarchical-caffe-systems steps=$STEPS again="" keep="" releases=() release
  local repository=/root/hierarchical-caffe pass_on
  while [ $# -gt 0 ]; do
    case $1 in
      --folder|--steps)
        [ -n "${2:-}" ] || { say "error: $1 needs a value" >&2; exit 2; }
        printf -v "${1#--}" %s "$2"; shift 2 ;;
      --again|--keep) printf -v "${1#--}" yes; shift ;;
      --help|-h) usage; return ;;
      -*) say "error: unknown option $1 (--help shows the options)" >&2; exit 2 ;;
      *) debian_suite "$1" >/dev/null || exit 2; releases+=("$1"); shift ;;
    esac
  done
  if [ ${#releases[@]} -eq 0 ]; then
    mapfile -t releases < <(awk '$1 == "debian" && $3 == "tested" {print $2}' "$here/systems.txt")
  fi
  [ "$(id -u)" -eq 0 ] || die "only root can make a system with debootstrap and work in it"
  mkdir -p "$folder"
  folder=$(realpath "$folder")
  : >"$folder/summary"
  : >"$folder/failed"
  machine_settings
  end_together
  for release in "${releases[@]}"; do
    try_release "$release"
  done
  say "" "all of it, $(minutes $SECONDS):"
  cat "$folder/summary"
  [ ! -s "$folder/failed" ]
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  main "$@"
  exit  # bash reads a script as it goes
fi
