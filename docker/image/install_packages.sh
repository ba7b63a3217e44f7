#!/bin/sh
# Final stage: installs the Debian packages that docker/image/runtime_packages.sh listed, and removes
# the downloads.
#
# Usage: install_packages.sh LIST
set -eu

apt-get -q update
xargs -a "$1" env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log
