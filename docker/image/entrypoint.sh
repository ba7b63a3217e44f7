#!/bin/sh
# Entry point of the images: makes the folders for snapshots, which a mounted snapshots/ lacks, then
# runs the command. If snapshots/ is read-only, caffe reports it itself; other commands need none.
"$(dirname "$0")/../snapshot_folders.sh" 2>/dev/null || true
exec "$@"
