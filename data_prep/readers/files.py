"""Helpers shared by the readers: --partial, fingerprints of images, names of data sets."""

import re

from data_prep.common.errors import UserError
from data_prep.label_tree import TABLES

SHOWN = 5  # names in a sentence


def add_partial(parser, what="images"):
    """Add --partial, for archives whose official counts are checked. what: what may be missing."""
    parser.add_argument(
        "--partial",
        action="store_true",
        help=f"accept a copy that lacks some {what}; labels stay those of the full data set",
    )


def add_images(digest, records):
    """Add the records' names, file sizes and modification times to a hashlib digest.

    Returns the records whose file is missing; they are not in the digest.
    """
    missing = []
    for record in records:
        try:
            stat = record.path.stat()
        except OSError:
            missing.append(record)
            continue
        digest.update(f"{record.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return missing


def records_with_files(listed, path, folder, digest, partial):
    """The records listed in `path` whose images are in `folder`; adds them to the digest.

    Raises UserError if images are missing and `partial` is not set, or if all are missing. Prints
    which images are left out.
    """
    missing = add_images(digest, listed)
    if not missing:
        return listed
    names = some([record.name for record in missing])
    what = f"{len(missing)} of {len(listed)} images listed in {path} are not in {folder}"
    if len(missing) == len(listed) or not partial:
        raise UserError(
            f"{what}: {names}: unpack the archive again"
            + ("" if partial else ", or add --partial to build without them")
        )
    print(f"left out: {what}: {names}")
    gone = {record.name for record in missing}
    return [record for record in listed if record.name not in gone]


def some(names):
    """The first few of a list of names, for a sentence."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def own_name(text):
    """text as the name of a user's own data set, usable in file names.

    Raises UserError if it is the name of a published data set.
    """
    safe = re.sub(r"[^\w.-]+", "_", text).strip("_.-") or "photographs"
    if (TABLES / f"{safe.removesuffix('_bbox')}.tsv").exists():
        raise UserError(
            f"{safe} is the name of a published data set: choose another name with "
            f"--out data/my_{safe}"
        )
    return safe
