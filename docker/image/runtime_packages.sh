#!/usr/bin/env bash
# Prints the Debian packages that the final stage of an image needs: Python, decks of cards, fonts,
# and the packages of all libraries that compiled files below the given folders link to.
#
# Usage: docker/image/runtime_packages.sh FOLDER...
#
# Runs in the build stage, where these libraries are installed beside the compilers. Libraries in the
# folders themselves, such as those of Python's wheels, are copied with them. Ends with status 1 if a
# library is missing, since the image would fail at its first use.
set -euo pipefail

# excluded from images: libraries of the driver, which the host mounts into the container, and of
# CuPy's modules for sparse matrices, decompositions, Fourier transforms and tensors, which are unused
readonly LEFT_OUT='lib(cuda|nvidia-.*|cusparse|cusolver|cufft|cutensor|cutensorMg)\.so\..*'

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# needed FILE: sonames that the file links to itself; their own dependencies are the packages' concern
needed() { { objdump -p "$1" 2>/dev/null || true; } | awk '$1 == "NEEDED" {print $2}'; }

# owners: packages of the libraries on stdin; dpkg may list a file under /lib or under /usr/lib.
# Status 1 if no package contains one of them.
owners() {
  xargs -r realpath | awk '{print; sub("^/usr", ""); print}' >"$scratch/paths"
  { xargs -r dpkg-query -S <"$scratch/paths" 2>/dev/null || true; } |
    awk -v paths="$scratch/paths" '
      {split($1, name, ":"); owner[$2] = name[1]}
      END {
        while ((getline path < paths) > 0) {
          getline other < paths
          if (path in owner) print owner[path]
          else if (other in owner) print owner[other]
          else {print "error: no Debian package holds " path > "/dev/stderr"; status = 1}
        }
        exit status
      }'
}

# libraries FOLDER...: the path of each library that something below the folders needs and that
# lies elsewhere; "?SONAME FILE" for one that is not found. A wheel's libraries count as found when
# they lie anywhere in it: the first one that is loaded, with the wheel's own path, brings the others.
libraries() {
  local file soname path
  find "$@" -name '*.so*' -printf '%f\n' | sort -u >"$scratch/own"
  find "$@" -type f \( -name '*.so*' -o -perm -u+x \) -print0 | while IFS= read -r -d '' file; do
    needed "$file" | { grep -vxE "$LEFT_OUT" || true; } | { grep -vxF -f "$scratch/own" || true; } \
      >"$scratch/needed"
    [ -s "$scratch/needed" ] || continue
    ldd "$file" 2>/dev/null >"$scratch/found" || true
    while read -r soname; do
      path=$(awk -v soname="$soname" '
        $1 == soname && $3 ~ "^/" {print $3; exit}  # libc.so.6 => /lib/.../libc.so.6 (0x...)
        $1 ~ "^/.*/" && substr($1, length($1) - length(soname)) == "/" soname {print $1; exit}
      ' "$scratch/found")
      echo "${path:-?$soname $file}"
    done <"$scratch/needed"
  done | sort -u
}

main() {
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  libraries "$@" >"$scratch/libraries"
  if grep '^?' "$scratch/libraries" >"$scratch/missing"; then
    sed 's/^?\([^ ]*\) /error: \1 is not found, which is needed by /' "$scratch/missing" >&2
    exit 1
  fi
  {
    echo python3
    "$here/../packages.sh" --installed demo pictures
    owners <"$scratch/libraries"
  } | sort -u
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  [ $# -gt 0 ] || { echo "usage: $0 FOLDER..." >&2; exit 2; }
  main "$@"
fi
