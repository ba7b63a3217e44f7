"""Finds problems in the images of a data set: duplicates and images of a single color.

Real collections hold identical photographs under two classes or in two splits, and wrong boxes crop
areas of a single color. Images are named as in the source, where they can be corrected.
"""

import hashlib
from typing import NamedTuple

import numpy as np

from data_prep.manifest import Skipped
from data_prep.records import SPLITS

DIGEST = 16  # bytes of an image's digest
UNIFORM = 2  # variation, in 0..255, that JPEG adds to a single color
SHOWN = 10  # examples in a sentence


class Images(NamedTuple):
    """The distinct images of a split, in order."""

    split: str
    names: list
    labels: list  # fine classes
    digests: bytearray  # DIGEST bytes each; equal where the stored images are
    uniform: list  # names of the images of a single color

    @classmethod
    def none(cls, split):
        return cls(split, [], [], bytearray(), [])

    def add(self, name, label, digest, uniform=False):
        self.names.append(name)
        self.labels.append(label)
        self.digests.extend(digest)
        if uniform:
            self.uniform.append(name)


class Image(NamedTuple):
    split: str
    name: str
    label: int


def digest(data):
    """DIGEST bytes of a stored image, without its label."""
    return hashlib.blake2b(data, digest_size=DIGEST).digest()


def is_uniform(image):
    """Whether all pixels of an image (uint8 height x width x 3) have one color."""
    if np.ptp(image[::16, ::16], axis=(0, 1)).max() > UNIFORM:  # a cheap test that nearly all fail
        return False
    return bool(np.ptp(image, axis=(0, 1)).max() <= UNIFORM)


def same_images(splits):
    """[[Image, ...], ...]: the groups of identical images that lie in more than one split or class.

    splits: an Images of each. Groups are in order of their first image.
    """
    splits = list(splits)
    sizes = [len(images.names) for images in splits]
    digests = np.frombuffer(b"".join(images.digests for images in splits), f"S{DIGEST}")
    order = np.argsort(digests, kind="stable")
    same = digests[order[1:]] == digests[order[:-1]]
    ends = np.cumsum(sizes)

    def image(number):
        at = int(np.searchsorted(ends, number, "right"))
        number -= int(ends[at]) - sizes[at]
        return Image(splits[at].split, splits[at].names[number], int(splits[at].labels[number]))

    groups, group = [], []
    for at in np.flatnonzero(same).tolist():
        if not group or group[-1] != order[at]:
            group = [int(order[at])]
            groups.append(group)
        group.append(int(order[at + 1]))
    found = [[image(number) for number in group] for group in sorted(groups)]
    return [group for group in found if in_two_splits(group) or in_two_classes(group)]


def in_two_splits(group):
    return len({image.split for image in group}) > 1


def in_two_classes(group):
    return len({image.label for image in group}) > 1


def left_out(groups, hierarchy):
    """[Skipped] of the images that --skip-duplicates leaves out of such groups.

    If an image is in several splits, only the copies in the last split (in the order of SPLITS)
    stay, so that test sets remain as published. If copies within one split have different classes,
    the right class is unknown and all of them are left out.
    """
    gone = []
    for group in groups:
        last = max((image.split for image in group), key=SPLITS.index)
        kept = [image for image in group if image.split == last]
        for image in group:
            if image.split != last:
                reason = f"the same image as {kept[0].name} ({last})"
            elif in_two_classes(kept):
                other = next(one for one in kept if one.label != image.label)
                reason = f"the same image as {other.name} ({_class(other, hierarchy)})"
            else:
                continue
            gone.append(Skipped(image.name, reason))
    return gone


def sentences(groups, uniform, total, hierarchy):
    """The warnings, most serious first.

    groups: as same_images returns them; uniform: names; total: number of all images.
    """
    splits = [group for group in groups if in_two_splits(group)]
    classes = [group for group in groups if not in_two_splits(group)]
    if splits:
        yield (
            f"WARNING: {len(splits)} image{_s(splits)} in more than one split: results on them say "
            f"nothing about new images; --skip-duplicates leaves the training copies out"
            + _examples(_line(group, hierarchy) for group in splits)
        )
    if classes:
        yield (
            f"warning: {len(classes)} image{_s(classes)} under more than one class: one of the "
            "labels is wrong; correct the source, or leave such images out with --skip-duplicates"
            + _examples(_line(group, hierarchy) for group in classes)
        )
    if uniform:
        yield (
            f"warning: {len(uniform)} of {total} stored images have one color only; are the boxes, "
            "if there are any, in pixels?" + _examples(uniform)
        )


def _line(group, hierarchy):
    return " = ".join(
        f"{image.name} ({image.split}, {_class(image, hierarchy)})" for image in group
    )


def _class(image, hierarchy):
    return hierarchy.names[0][image.label]


def _s(items):
    return "s" if len(items) > 1 else ""


def _examples(lines):
    lines = list(lines)
    more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return ":\n  " + "\n  ".join(lines[:SHOWN] + more)
