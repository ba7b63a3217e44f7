#!/bin/sh
# Makes the folders that the solvers below prototxt/ snapshot into: caffe wants them to exist.
cd "$(dirname "$0")/.." || exit 1
# what goes through the pipe is sed's, not names of files
# shellcheck disable=SC2038
find prototxt -name '*_solver.prototxt' \
    -exec sed -n 's|^snapshot_prefix: *"\([^"]*\)/[^"]*".*|\1|p' {} + | xargs -r -d "\n" mkdir -p
