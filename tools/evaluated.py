"""What an evaluation and its data set say about each image: answers, classes, photographs."""

from dataclasses import dataclass
from pathlib import Path

from data_prep import lmdb_io
from data_prep.common.errors import UserError
from data_prep.images import ImageError
from data_prep.label_tree import Hierarchy
from tools import results


@dataclass(frozen=True)
class Evaluated:
    """A result whose table of predictions and label tree are there and fit together."""

    path: Path
    result: results.Result
    predictions: results.Predictions
    hierarchy: Hierarchy

    @property
    def images(self):
        """Path of the LMDB of its images."""
        return Path(self.result.data) / f"{self.result.split}_images"


def read(path):
    """Evaluated of a result's file; raises UserError."""
    result = results.read(path)
    predictions = results.read_predictions(path, result)
    if predictions is None:
        raise UserError(f"{results.table_of(path)} not found: keep it beside {path}")
    hierarchy = Hierarchy.read(Path(result.data) / "hierarchy.tsv")
    _check_ids(hierarchy, result, predictions)
    return Evaluated(Path(path), result, predictions, hierarchy)


def _check_ids(hierarchy, result, predictions):
    """Raises UserError unless the predictions match the hierarchy's levels and classes."""
    fits = [level.level for level in result.levels] == list(hierarchy.levels)
    for answers, size in zip(predictions.levels, hierarchy.sizes):
        for ids in (answers.true, answers.predicted, answers.from_fine):
            fits = fits and (ids is None or (ids.min() >= 0 and ids.max() < size))
    if not fits:
        raise UserError(
            f"the predictions do not match {result.data}, which changed: evaluate again"
        )


def check_same_images(paths, all_results):
    """Raises UserError unless the results are of the same images and levels as the first."""
    first, names = all_results[0], _levels(all_results[0])
    for path, result in zip(paths, all_results):
        for name in ("data", "split", "images"):
            found, wanted = getattr(result, name), getattr(first, name)
            if found != wanted:
                raise UserError(
                    f"{path} has {name} {found}, {paths[0]} has {wanted}: only evaluations "
                    "on the same images can be compared"
                )
        if _levels(result) != names:
            raise UserError(
                f"{path} has the levels {', '.join(_levels(result))}, {paths[0]} has "
                f"{', '.join(names)}: only results of one label tree can be compared"
            )


def _levels(result):
    return [level.level for level in result.levels]


def read_images(path, keys):
    """Yield images of an LMDB, uint8 height x width x 3, BGR, by their keys (str).

    Raises UserError if it lacks one or can't be decoded.
    """
    if not (path / "data.mdb").is_file():
        raise UserError(f"{path} not found: run this in the repository root, where the data set is")
    found = lmdb_io.items(path, [key.encode() for key in keys])
    for key in keys:
        name, value = next(found, (None, None))
        if name != key.encode():
            raise UserError(f"{path} has no record {key}: it was rebuilt since, so evaluate again")
        try:
            yield lmdb_io.datum_image(lmdb_io.parse_datum(value))
        except ImageError as error:
            raise UserError(f"record {key} of {path}: {error}: build the data set again") from None
