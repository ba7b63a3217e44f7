"""Writes a data set whose records are features of images, C x 1 x 1, instead of images.

The folder has the layout of a built data set: `<split>_images` holds the features. A training image
may have several features, of different crops: the n-th time that the order of the training records
has the image, its n-th crop is taken.
"""

import hashlib
import math
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from data_prep import lmdb_io, manifest as manifests, order
from data_prep.common import files
from data_prep.manifest import KINDS, Manifest, Split, checksummed
from data_prep.split_writer import BATCH, write_listing

FORMAT = 2  # of the folder, as data_prep/builder.py's


@dataclass(frozen=True)
class Image:
    """An image of a split, and the features of its crops.

    name   of the image
    label  fine class
    crops  names of the crops
    rows   number of the row of each crop's feature
    """

    name: str
    label: int
    crops: tuple
    rows: tuple


@dataclass(frozen=True)
class _Feature:
    name: str
    label: int
    row: int


def ordered(images, options, hierarchy):
    """[_Feature] of training Images in the order of writing, and the order's facts.

    options: BuildOptions, as order.ordered. There are as many passes over the images as crops.
    """
    passes = max(len(image.crops) for image in images)
    turns = order.in_passes(images, options, hierarchy, passes)
    found = [_feature(image, turn, options.seed) for image, turn in turns]
    labels = np.array([one.label for one in found])
    return found, order.facts(labels, options, hierarchy)


def _feature(image, turn, seed):
    """The feature for an image's turn. The crops come in another order for each image."""

    def place(crop):
        return hashlib.sha256(f"{seed} {image.name} {crop}".encode()).digest()

    crops = sorted(zip(image.crops, image.rows), key=lambda pair: place(pair[0]))
    crop, row = crops[turn % len(crops)]
    return _Feature(f"{image.name}@{crop}", image.label, row)


def write(folder, wanted, hierarchy, splits, rows):
    """Write the data set into an empty folder. Returns its Manifest.

    wanted  manifest.Wanted
    splits  {split: [Image]}; the first crop of each val and test image is written
    rows    float32, n x C: the features
    """
    entries, total, count = {}, 0.0, 0
    for split, images in splits.items():
        facts = None
        if split == "train":
            features, facts = ordered(images, wanted.options, hierarchy)
        else:
            features = [_Feature(image.name, image.label, image.rows[0]) for image in images]
        entries[split] = replace(_split(folder, split, features, hierarchy, rows), order=facts)
        if split == "train":
            own = sorted({feature.row for feature in features})
            total, count = rows[own].sum(axis=0, dtype=np.float64), len(own)
    lmdb_io.write_mean(folder / "mean.binaryproto", total.reshape(-1, 1, 1), count)
    (folder / "hierarchy.tsv").write_text(hierarchy.text(), encoding="utf-8")
    manifest = Manifest(
        **vars(wanted),
        splits=entries,
        mean_bgr=(),
        checksums={file: files.sha256(folder / file) for file in checksummed(entries)},
    )
    (folder / manifests.FILE).write_text(manifests.text(manifest), encoding="utf-8")
    return manifest


def _split(folder, split, features, hierarchy, rows):
    """Write both LMDBs and the table of a split; its manifest.Split."""
    paths = [folder / f"{split}_{kind}" for kind in KINDS]
    writers = [lmdb_io.Writer(path) for path in paths]
    with closing(writers[0]), closing(writers[1]):
        for number, feature in enumerate(features, 1):
            writers[0].add(lmdb_io.feature_datum(rows[feature.row], feature.label))
            writers[1].add(lmdb_io.label_datum(hierarchy.labels[feature.label]))
            if number % BATCH == 0 or number == len(features):
                for writer in writers:
                    writer.commit()
        digests = [writer.digest for writer in writers]
    for path in paths:  # readers make their own
        (path / "lock.mdb").unlink(missing_ok=True)
    write_listing(folder / f"{split}.tsv", hierarchy, features)
    present = np.unique([feature.label for feature in features])
    return Split(
        images=len(features),
        distinct=len({feature.name for feature in features}),
        classes_present=tuple(len(np.unique(ids)) for ids in hierarchy.labels[present].T),
        sha256=dict(zip(KINDS, digests)),
    )


def mean_length(rows):
    """Mean Euclidean length of features, n x C."""
    return math.fsum(np.linalg.norm(rows, axis=1)) / len(rows)
