"""A data set of noise, built as data_prep/build_lmdb.py leaves one: enough for a net to run on."""

import json

import cv2
import lmdb
import numpy as np
from caffe.proto import caffe_pb2

from data_prep import manifest


def tree(sizes):
    """labels, fine classes x levels: every class's children are neighbors."""
    labels = [np.arange(sizes[0])]
    for finer, coarser in zip(sizes, sizes[1:]):
        labels.append(labels[-1] * coarser // finer)
    return np.stack(labels, axis=1)


def _write(folder, datums):
    # Without waiting for the disk: what is read here again needs no protection from power failures.
    with (
        lmdb.open(str(folder), map_size=1 << 26, sync=False) as env,
        env.begin(write=True) as transaction,
    ):
        for number, datum in enumerate(datums):
            transaction.put(f"{number:08d}".encode(), datum.SerializeToString())


def build(folder, name, levels, sizes, side, train=8, test=4, seed=0, val=0):
    """Write LMDBs, hierarchy.tsv and manifest.json of `side` x `side` images; returns folder.

    val: images of a split val, which is written last; 0: no such split.
    """
    folder.mkdir(parents=True)
    rng, labels = np.random.default_rng(seed), tree(sizes)
    counts = dict(train=train, test=test) | (dict(val=val) if val else {})
    for split, count in counts.items():
        rows = labels[rng.integers(sizes[0], size=count)]
        noise = rng.integers(256, size=(count, side, side, 3), dtype=np.uint8)
        _write(
            folder / f"{split}_images",
            (
                caffe_pb2.Datum(
                    data=cv2.imencode(".jpg", image)[1].tobytes(), encoded=True, label=row[0]
                )
                for image, row in zip(noise, rows)
            ),
        )
        _write(
            folder / f"{split}_labels",
            (
                caffe_pb2.Datum(channels=len(row), height=1, width=1, float_data=row, label=row[0])
                for row in rows
            ),
        )
    header = "\t".join(f"{level}_id\t{level}" for level in levels)
    lines = ["\t".join(f"{i}\t{level}{i}" for level, i in zip(levels, row)) for row in labels]
    (folder / "hierarchy.tsv").write_text("\n".join([header, *lines]) + "\n")
    (folder / "manifest.json").write_text(
        json.dumps(
            dict(
                format=2,
                name=name,
                fingerprint="noise",
                levels=[dict(name=level, classes=size) for level, size in zip(levels, sizes)],
                options=dict(size=side, encoded="jpg", resize="squeeze"),
                versions={},
                splits={
                    split: dict(
                        images=count,
                        distinct=count,
                        classes_present=sizes,
                        sha256=dict(images="", labels=""),
                    )
                    for split, count in counts.items()
                },
                mean_bgr=[0, 0, 0],
                checksums=dict.fromkeys(manifest.checksummed(tuple(counts)), ""),
            )
        )
    )
    return folder
