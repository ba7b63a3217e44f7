#!/bin/sh
# Entry of the images: the folders for snapshots, which a mounted snapshots/ lacks, then the command.
# Where snapshots/ cannot be written to, caffe says so itself, and other commands need none.
"$(dirname "$0")/../snapshot_folders.sh" 2>/dev/null || true
exec "$@"
