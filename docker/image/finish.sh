#!/usr/bin/env bash
# Final stage, after all files are copied: makes the writable folders, the list of contents, a user.
#
# Usage: docker/image/finish.sh REVISION
set -euo pipefail

# writable by any user (docker run -u); mounted folders replace them
mkdir -p data weights snapshots results models prototxt/mine
chmod 1777 data weights snapshots results models prototxt/mine
# NVRTC opens one of its libraries by name, so that the loader has to find it
if [ -d /opt/caffe/cuda/lib ]; then
  echo /opt/caffe/cuda/lib >/etc/ld.so.conf.d/caffe.conf
  ldconfig
fi
docker/image/versions.sh /opt/caffe "$1" >docker/versions.txt
.venv/bin/python -m compileall -q data_prep python_layers tools
useradd --uid 1000 --no-create-home --home-dir /tmp --shell /bin/bash caffe
