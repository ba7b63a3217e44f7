#!/bin/sh
# Entry point of the images: makes the folders for snapshots, which a mounted snapshots/ lacks, then
# runs the command. If snapshots/ is read-only, caffe reports it; other commands do not need it.
"$(dirname "$0")/../snapshot_folders.sh" 2>/dev/null || true
exec "$@"
