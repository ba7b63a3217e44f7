"""Draws a val split from the training images (--validation N)."""

import hashlib
import math
from dataclasses import replace

from data_prep.common.errors import UserError


def drawn(records, count, seed):
    """The records with `count` of the training records moved to the split val.

    Each class contributes proportionally, rounded, and keeps at least one image for training. The
    choice depends on the seed and the names alone. Raises UserError if there are too few images, or
    if the data set already has a val split.
    """
    if not count:
        return records
    if any(record.split == "val" for record in records):
        raise UserError("--validation: the data set has a val split of its own; leave it out")
    train = [record for record in records if record.split == "train"]
    members = {}
    for record in train:
        members.setdefault(record.label, []).append(record.name)
    quotas, chosen = _quotas({label: len(names) for label, names in members.items()}, count), set()
    for label, names in members.items():
        names.sort(key=lambda name: hashlib.sha256(f"val {seed} {name}".encode()).digest())
        chosen.update(names[: quotas[label]])
    return [replace(r, split="val") if r.name in chosen else r for r in records]


def _quotas(sizes, count):
    """{label: images to take}: shares of `count` by size, by the largest remainder."""
    total, most = sum(sizes.values()), sum(size - 1 for size in sizes.values())
    if count > most:
        raise UserError(
            f"--validation {count}: at most {most} of the {total} training images can be moved, "
            f"because each of the {len(sizes)} classes keeps one for training"
        )
    exact = {label: count * size / total for label, size in sizes.items()}
    quotas = {label: min(math.floor(share), sizes[label] - 1) for label, share in exact.items()}
    order = sorted(exact, key=lambda label: (math.floor(exact[label]) - exact[label], label))
    while rest := count - sum(quotas.values()):
        free = [label for label in order if quotas[label] < sizes[label] - 1]
        for label in free[:rest]:
            quotas[label] += 1
    return quotas
