#!/usr/bin/env bash
# Installs the packages of docker/packages.txt, on the systems of docker/systems.txt.
set -euo pipefail

packages_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
os_release=/etc/os-release

usage() {
  cat <<END_OF_USAGE
Usage: docker/packages.sh [--missing | --installed] [--any-system] [GROUP...]

Installs the missing Debian or Ubuntu packages of the given groups of docker/packages.txt, as root or
with sudo (default: the groups that set-up needs, $(default_groups)).
Packages of optional groups that can't be installed are reported and do not stop the installation.

  --missing     only print the packages that are missing
  --installed   only print the packages that are installed
  --any-system  also run on a system that docker/systems.txt does not list (or ANY_SYSTEM=1)

Example: docker/packages.sh caffe python
END_OF_USAGE
}

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# rows: of packages.txt, "group <tab> need <tab> name|name <tab> reason", one package a line
rows() {
  awk '
    /^\[/ {group = substr($1, 2, length($1) - 2); need = $0; sub(/^[^ ]+ */, "", need); next}
    NF && !/^#/ {
      names = $1; next_word = 2
      while ($next_word == "|") {names = names "|" $(next_word + 1); next_word += 2}
      reason = ""
      for (i = next_word; i <= NF; i++) reason = reason (i > next_word ? " " : "") $i
      print group "\t" need "\t" names "\t" reason
    }' "$packages_here/packages.txt"
}

all_groups() { rows | cut -f 1 | uniq | xargs; }
default_groups() { rows | awk -F '\t' '$2 != "on request" {print $1}' | uniq | xargs; }

# rows_of GROUP...
rows_of() {
  rows | awk -F '\t' -v groups=" $* " 'index(groups, " " $1 " ")'
}

# installed NAMES: of a|b, those that are installed
installed() {
  local name
  for name in ${1//|/ }; do
    # ${db:Status-Status} is dpkg's field, not the shell's
    # shellcheck disable=SC2016
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" != installed ] || say "$name"
  done
}

# available NAMES: of a|b, the first in this machine's package lists, or nothing
available() {
  local name known
  for name in ${1//|/ }; do
    known=$(LC_ALL=C apt-cache policy "$name" 2>/dev/null || true)
    if [[ $known =~ "  Candidate: "[^\(] ]]; then
      say "$name"
      return
    fi
  done
}

# missing_rows: the rows on stdin of which no alternative is installed. Without dpkg, no package is
# considered missing; the compiler reports what it lacks.
missing_rows() {
  local group need names reason
  while IFS=$'\t' read -r group need names reason; do
    ! command -v dpkg-query >/dev/null || [ -n "$(installed "$names")" ] ||
      printf '%s\t%s\t%s\t%s\n' "$group" "$need" "$names" "$reason"
  done
}

# check_system: ends with one sentence if docker/systems.txt does not list this system
check_system() {
  local id="" version="" name line known why=""
  if [ -r "$os_release" ]; then
    # shellcheck source=/dev/null
    id=$(. "$os_release" && echo "${ID:-}")
    # shellcheck source=/dev/null
    version=$(. "$os_release" && echo "${VERSION_ID:-}")
    # shellcheck source=/dev/null
    name=$(. "$os_release" && echo "${PRETTY_NAME:-${NAME:-}}")
  fi
  line=$(awk -v id="$id" -v version="$version" '$1 == id && $2 == version' \
    "$packages_here/systems.txt")
  # shellcheck disable=SC2086
  set -- $line
  case ${3:-} in
    tested|expected) return ;;
    refused) shift 3; why=" ($*)" ;;
  esac
  known=$(awk '!/^#/ && NF && $3 != "refused" {
      id = toupper(substr($1, 1, 1)) substr($1, 2)
      list = list (list ? (id == last ? " and " : ", ") : "") (id == last ? "" : id " ") $2; last = id
    } END {print list}' "$packages_here/systems.txt")
  die "make setup supports $known, but this is ${name:-$(uname -s)}$why: use the CPU image," \
    "which runs wherever Docker does ('make image-cpu', docker/README.md)"
}

# apt_update APT...: updates the package lists
apt_update() {
  "$@" update >/dev/null || say "apt-get update failed; continuing with the existing package lists"
}

# apt_install APT...: -- NAME...: installs these packages; status 1 if apt-get fails
apt_install() {
  local apt=()
  while [ "$1" != -- ]; do apt+=("$1"); shift; done
  shift
  "${apt[@]}" install -y --no-install-recommends "$@" |
    { grep --line-buffered -E '^(Need to get|Setting up (cmake|libopencv-dev|python3-venv) )' || true; }
}

# install GROUP...
install() {
  local missing names reason need name needed=() optional=() as_root=() start=$SECONDS
  missing=$(rows_of "$@" | missing_rows)
  [ -n "$missing" ] || { say "system packages: all installed"; return; }
  if ! command -v apt-get >/dev/null; then
    die "this system has no apt-get to install packages with"
  fi
  if [ "$(id -u)" -ne 0 ] && command -v sudo >/dev/null; then
    as_root=(sudo)
  fi
  local apt=(${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive
             apt-get -q -o DPkg::Lock::Timeout=600)
  if [ "$(id -u)" -ne 0 ] && [ ${#as_root[@]} -eq 0 ]; then
    names=$(awk -F '\t' '$2 != "optional" {sub(/\|.*/, "", $3); print $3}' <<<"$missing" | xargs)
    [ -z "$names" ] || die "packages are missing, and installing them needs root or sudo:" \
      "have an administrator run 'apt-get install $names'"
    say_lacking "only root can install them" "$missing"
    return
  fi
  # The lists are updated if a required package is missing or the lists are empty, but not each time
  # for an optional package that this release does not have.
  if [ -n "$(awk -F '\t' '$2 != "optional"' <<<"$missing")" ] || [ -z "$(available libc6)" ] ||
     [ -n "$(while IFS=$'\t' read -r _ _ names _; do available "$names"; done <<<"$missing")" ]; then
    apt_update "${apt[@]}"
  fi
  while IFS=$'\t' read -r _ need names reason; do
    name=$(available "$names")
    if [ -n "$name" ] && [ "$need" = optional ]; then
      optional+=("$name")
    elif [ -n "$name" ]; then
      needed+=("$name")
    elif [ "$need" != optional ]; then
      die "the package lists of this system have no ${names//|/ or } ($reason): see" \
        "/etc/apt/sources.list and /etc/apt/sources.list.d"
    fi
  done <<<"$missing"
  # one transaction if possible; an optional package that fails must not prevent the others
  local all=(${needed[@]+"${needed[@]}"} ${optional[@]+"${optional[@]}"})
  if [ ${#all[@]} -gt 0 ]; then
    say "system packages: installing ${all[*]}"
    if ! apt_install "${apt[@]}" -- "${all[@]}"; then
      [ ${#needed[@]} -eq 0 ] || apt_install "${apt[@]}" -- "${needed[@]}" ||
        die "apt-get could not install ${needed[*]}: see its message above"
      for name in ${optional[@]+"${optional[@]}"}; do
        apt_install "${apt[@]}" -- "$name" || true
      done
    fi
  fi
  say_lacking "this system does not have them, or apt-get could not install them" \
    "$(rows_of "$@" | missing_rows)"
  say "system packages: installed in $(((SECONDS - start) / 60)) min $(((SECONDS - start) % 60)) s"
}

# say_lacking WHY ROWS: reports which optional packages are missing and what needs them
say_lacking() {
  [ -n "$2" ] || return 0
  say "system packages: continuing without these, because $1:"
  awk -F '\t' '{gsub(/\|/, " or ", $3); print "  " $3 " (" $1 ": " $4 ")"}' <<<"$2"
}

main() {
  local mode=install groups=() any_system=${ANY_SYSTEM:-} group names
  while [ $# -gt 0 ]; do
    case $1 in
      --missing|--installed) mode=${1#--} ;;
      --any-system) any_system=1 ;;
      --help|-h) usage; return ;;
      -*) printf 'error: unknown option %s (--help shows the options)\n' "$1" >&2; exit 2 ;;
      *)
        case " $(all_groups) " in
          *" $1 "*) groups+=("$1") ;;
          *) printf 'error: no group %s: packages.txt has %s\n' "$1" "$(all_groups)" >&2; exit 2 ;;
        esac ;;
    esac
    shift
  done
  if [ ${#groups[@]} -eq 0 ]; then
    # shellcheck disable=SC2207
    groups=($(default_groups))
  fi
  case $mode in
    missing) rows_of "${groups[@]}" | missing_rows | cut -f 3 | sed 's/|.*//' ;;
    installed)
      rows_of "${groups[@]}" | cut -f 3 | while read -r names; do installed "$names"; done ;;
    install)
      [ -n "$any_system" ] || check_system
      install "${groups[@]}" ;;
  esac
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  main "$@"
  exit  # bash reads a script as it goes
fi
