#!/usr/bin/env bash
# Build stage: the Python environment .venv of the repository, from files of pinned packages with
# checksums.
#
# Usage: docker/image/venv.sh LOCKFILE...
#
# $CA_CERTIFICATES: certificates (PEM) to trust beside Debian's. $PIP_INDEX_URL and the rest of pip's
# environment apply.
set -euo pipefail

if [ -n "${CA_CERTIFICATES:-}" ]; then
  printf '%s\n' "$CA_CERTIFICATES" >/usr/local/share/ca-certificates/build.crt
  update-ca-certificates >/dev/null 2>&1
fi
python3 -m venv .venv
.venv/bin/pip install -q --no-cache-dir --disable-pip-version-check --only-binary :all: \
  --require-hashes "${@/#/--requirement=}"
