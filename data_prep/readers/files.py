"""What readers share: fingerprints of the images they list, and short lists of names."""

SHOWN = 5  # names in a sentence


def add_images(digest, records):
    """Feed the records' names, file sizes and times of change to a hashlib digest.

    Returns the records whose path isn't there; they are not in the digest.
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


def some(names):
    """The first few of a list of names, for a sentence."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
