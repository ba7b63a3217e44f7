"""What readers share: fingerprints of the images they list, and short lists of names."""

import stat

SHOWN = 5  # names in a sentence


def add_images(digest, records):
    """Feed the records' names, file sizes and times of change to a hashlib digest.

    Returns the records whose path is no file; they are not in the digest.
    """
    missing = []
    for record in records:
        try:
            found = record.path.stat()
        except OSError:
            found = None
        if found is None or not stat.S_ISREG(found.st_mode):
            missing.append(record)
            continue
        digest.update(f"{record.name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return missing


def some(names):
    """The first few of a list of names, for a sentence."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
