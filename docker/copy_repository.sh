# Copies this repository, for docker/test_systems.sh and tests/under_load.sh.
# shellcheck shell=bash

# copy_repository ROOT FOLDER: copies the files below ROOT that git tracks or does not ignore, as they
# are now, to FOLDER, which is made
copy_repository() {
  mkdir -p "$2"
  (cd "$1" && git ls-files -z --cached --others --exclude-standard |
    tar -c --null --ignore-failed-read -T - 2>/dev/null) | tar -x -C "$2"
}
