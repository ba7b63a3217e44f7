"""Features of images in files that NumPy reads, with their keys, labels and names.

NAME.npz holds
    features      float32, N x D, or N x C x H x W for maps
    keys          str, N: keys of the records, or names of the files
    labels        int64, N x h, fine to coarse; -1: unknown
    levels        str, h: names of the levels
    names_LEVEL   str, per level: names of its classes
    blob, source  str: what was computed, by which weights
NAME.npy holds `features` alone; NAME.tsv beside it has a line per image: key, and per level
LEVEL_id and LEVEL, empty where they are unknown.
Both are the same bytes for the same features.
"""

import io
import tempfile
import zipfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.common import files
from data_prep.common.errors import UserError
from tools.recognition.answers import encoded, escaped

SUFFIXES = (".npz", ".npy")
PART = 1 << 24  # bytes copied at once
UNKNOWN = -1


@dataclass(frozen=True)
class Features:
    """The content of a .npz file. keys: N; labels: N x h; hierarchy: its levels and names."""

    features: np.ndarray
    keys: np.ndarray
    labels: np.ndarray
    levels: tuple
    names: tuple
    blob: str
    source: str


class Writer:
    """Collects features on the disk, in the folder of `path`, and writes `path` at the end.

    path: .npz or .npy. hierarchy: Hierarchy of the labels.
    """

    def __init__(self, path, hierarchy, blob, source):
        self.path, self._hierarchy = Path(path), hierarchy
        self._words = {"blob": blob, "source": source}
        self._rows = tempfile.TemporaryFile(dir=self.path.parent)
        self._shape, self._keys, self._labels = None, [], []

    def add(self, keys, labels, features):
        """Append n images. labels: n x h, or None where they are unknown; features: n x ..."""
        if self._shape is None:
            self._shape = features.shape[1:]
        if features.shape[1:] != self._shape:
            raise UserError(
                f"the features are {_times(features.shape[1:])}, those before {_times(self._shape)}"
            )
        self._keys += keys
        levels = len(self._hierarchy.levels)
        self._labels.append(np.full((len(keys), levels), UNKNOWN) if labels is None else labels)
        self._rows.write(np.ascontiguousarray(features, "<f4").tobytes())

    def close(self):
        """Drop what was not written with `finish`."""
        self._rows.close()

    def finish(self):
        """Write the file or files; returns their paths."""
        labels = np.concatenate(self._labels).astype("<i8")  # N x h
        if self.path.suffix == ".npy":
            table = self.path.with_suffix(".tsv")
            files.write_whole(table, encoded(self._table(labels)))
            with files.appearing(self.path) as out:
                self._copy(out)
            return self.path, table
        arrays = {
            "keys": np.array([encoded(key).decode() for key in self._keys], "U"),
            "labels": labels,
            "levels": np.array(self._hierarchy.levels, "U"),
            **{
                f"names_{level}": np.array(names, "U")
                for level, names in zip(self._hierarchy.levels, self._hierarchy.names)
            },
            **{name: np.array(text, "U") for name, text in self._words.items()},
        }
        with files.appearing(self.path) as out, zipfile.ZipFile(out, "w") as archive:
            with archive.open(zipfile.ZipInfo("features.npy"), "w", force_zip64=True) as member:
                self._copy(member)
            for name, array in arrays.items():
                content = io.BytesIO()
                np.lib.format.write_array(content, array, allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())
        return (self.path,)

    def _copy(self, out):
        """Write the features in NumPy's format."""
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(self._keys), *self._shape)}
        np.lib.format.write_array_header_1_0(out, header)
        self._rows.seek(0)
        while part := self._rows.read(PART):
            out.write(part)

    def _table(self, labels):
        hierarchy = self._hierarchy
        lines = ["\t".join(["key", *(f"{level}_id\t{level}" for level in hierarchy.levels)])]
        for key, row in zip(self._keys, labels):
            cells = [escaped(key)]
            for names, number in zip(hierarchy.names, row):
                cells += ["", ""] if number == UNKNOWN else [str(number), names[number]]
            lines.append("\t".join(cells))
        return "\n".join(lines) + "\n"


def writer(path, hierarchy, blob, source):
    """Context manager: a Writer."""
    return closing(Writer(path, hierarchy, blob, source))


def check_out(path):
    """Raises UserError if features can't be written to `path`."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"--out {path}: the name must end in {' or '.join(SUFFIXES)}")
    both = [path] if path.suffix == ".npz" else [path, path.with_suffix(".tsv")]
    for file in both:
        files.make_way(file)
    taken = [file for file in both if file.exists()]
    if taken and not _are_ours(both):
        raise UserError(f"{taken[0]} exists, and holds no features: choose another --out")


def _are_ours(paths):
    """Whether the files, NAME.npz or NAME.npy and NAME.tsv, are what a Writer wrote."""
    if len(paths) == 1:
        try:
            with zipfile.ZipFile(paths[0]) as archive:
                found = archive.namelist()
        except zipfile.BadZipFile:
            return False
        return {f"{name}.npy" for name in ("features", "keys", "labels", "levels")} <= {*found}
    starts = (b"\x93NUMPY", b"key\t")
    return all(path.is_file() and _start(path).startswith(s) for path, s in zip(paths, starts))


def _start(path):
    with open(path, "rb") as file:
        return file.read(16)


def read(path):
    """The Features in a .npz file; raises UserError if it is not one that a Writer wrote."""
    files.existing(path, "the file of features")
    try:
        with np.load(path, allow_pickle=False) as found:
            levels = tuple(found["levels"].tolist())
            read = Features(
                found["features"],
                found["keys"],
                found["labels"],
                levels,
                tuple(tuple(found[f"names_{level}"].tolist()) for level in levels),
                str(found["blob"]),
                str(found["source"]),
            )
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, TypeError) as error:
        raise UserError(f"{path} is not what tools/extract_features.py writes: {error}") from None
    count = len(read.features)
    if (
        read.features.dtype != np.float32
        or read.labels.shape != (count, len(levels))
        or read.keys.shape != (count,)
        or any((read.labels >= [*map(len, read.names)]).ravel())
    ):
        raise UserError(f"{path} is damaged: its arrays do not fit together")
    return read


def nearest(features, queries, k, *, metric="cosine", skip=None):
    """(numbers, values), both N x k: the k nearest rows of `features`, M x D, of N queries, N x D.

    metric  cosine: values are similarities in -1 .. 1, largest first; euclidean: distances,
            smallest first
    skip    int, N: a row that is not a neighbor of the query, such as itself; -1: none
    Equal ones: the lower number. Computed in float64, queries in parts.
    """
    rows = np.asarray(features, np.float64).reshape(len(features), -1)
    numbers, values = [], []
    if metric == "cosine":
        rows = _unit(rows)
    squares = np.einsum("md,md->m", rows, rows)  # M
    k = min(k, len(rows) - (skip is not None))
    part = max(1, PART // (8 * max(len(rows), k * rows.shape[1])))
    for start in range(0, len(queries), part):
        some = np.asarray(queries[start : start + part], np.float64)
        some = some.reshape(len(some), -1)  # n x D
        if metric == "cosine":
            value = -(_unit(some) @ rows.T)  # n x M
        else:
            value = squares - 2 * (some @ rows.T) + np.einsum("nd,nd->n", some, some)[:, None]
        if skip is not None:
            own = np.asarray(skip[start : start + part])
            known = np.flatnonzero(own >= 0)
            value[known, own[known]] = np.inf
        order = np.argsort(value, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(value, order, axis=1)
        if metric == "cosine":
            best = -best
        else:  # by exact differences, because the expression above loses small distances
            best = np.linalg.norm(rows[order] - some[:, None], axis=2)
            again = np.argsort(best, axis=1, kind="stable")
            order, best = (np.take_along_axis(each, again, axis=1) for each in (order, best))
        numbers.append(order)
        values.append(best)
    return np.concatenate(numbers), np.concatenate(values)


def _unit(rows):
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def _times(shape):
    return " x ".join(map(str, shape))
