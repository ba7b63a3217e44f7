# Makes a minimal Debian in a folder, with debootstrap and this machine's mirror, for
# docker/test_image.sh (if no registry has a base image) and docker/test_systems.sh.
# shellcheck shell=bash

# debian_suite VERSION: the name of a release
debian_suite() {
  case $1 in
    12) echo bookworm ;;
    13) echo trixie ;;
    *) echo "error: unknown release Debian $1 (known: 12, 13)" >&2; return 1 ;;
  esac
}

# debian_mirror LABEL: the address of the archive (LABEL Debian) or of its security updates
# (Debian-Security): below $DEBIAN_MIRROR, else this machine's own, else Debian's
debian_mirror() {
  local folder=debian own=""
  [ "$1" = Debian ] || folder=debian-security
  if [ -z "${DEBIAN_MIRROR:-}" ]; then
    # $(...) are apt's fields, not the shell's
    # shellcheck disable=SC2016
    own=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 2>/dev/null |
      awk -v label="$1" '$1 == label && !found {print $2; found = 1}')
  fi
  own=${own:-${DEBIAN_MIRROR:-http://deb.debian.org}/$folder}
  echo "${own%/}"
}

# debian_root VERSION FOLDER LOG: Debian's essential packages and apt, with its updates
debian_root() {
  local suite archive security
  suite=$(debian_suite "$1") archive=$(debian_mirror Debian) security=$(debian_mirror Debian-Security)
  command -v debootstrap >/dev/null ||
    { echo "error: debootstrap is not installed: apt-get install debootstrap" >&2; return 1; }
  [ "$(id -u)" -eq 0 ] || { echo "error: debootstrap needs root" >&2; return 1; }
  debootstrap --variant=minbase "$suite" "$2" "$archive" >"$3" ||
    { echo "error: debootstrap: $(tail -n 1 "$3")" >&2; return 1; }
  rm -rf "$2/etc/apt/sources.list" "$2"/var/{lib/apt/lists,cache/apt}/*
  cat >"$2/etc/apt/sources.list.d/debian.sources" <<END_OF_SOURCES
Types: deb
URIs: $archive
Suites: $suite $suite-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: $security
Suites: $suite-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END_OF_SOURCES
}
