"""The result of a cell: one JSON file, small enough to be committed.

Which images were right is kept as a bit per image, so that tables can test differences.
"""

import base64
import json
from dataclasses import dataclass

import numpy as np

from data_prep.common import files
from data_prep.common.errors import UserError
from data_prep.common.text import read_json
from data_prep.common.typed import from_json, to_json

FORMAT = 2  # 1: `code` is of all layers and generators, and `generated` of the files' bytes
FORMATS = (1, FORMAT)
FINISHED, DIVERGED = "finished", "diverged"


@dataclass(frozen=True)
class Answer:
    """Top-1 in 0..1 of one kind of prediction, and the right images as bits in base64."""

    top1: float
    right: str

    def bits(self, images):
        """bool, N: whether each image was right, in the order of the LMDB."""
        packed = np.frombuffer(base64.b64decode(self.right), np.uint8)
        return np.unpackbits(packed, count=images).astype(bool)

    @classmethod
    def of(cls, right):
        """right: bool, N."""
        packed = base64.b64encode(np.packbits(right).tobytes()).decode()
        return cls(float(right.mean()), packed)


@dataclass(frozen=True)
class Level:
    """Predictions of one level, fine to coarse: by its own classifier, and from the fine one."""

    level: str
    own: Answer | None = None
    from_fine: Answer | None = None


@dataclass(frozen=True)
class Scores:
    """What was scored.

    keys_sha256  of the images' keys, in order
    measures     {name in measures.MEASURES: value, or None where it is not defined}; those that the
                 version which made the record did not know are missing
    """

    split: str
    images: int
    keys_sha256: str
    levels: tuple[Level, ...]
    seconds: float
    measures: dict[str, float | None] | None = None


@dataclass(frozen=True)
class Curve:
    """Fine top-1 of the tests during the training.

    slope: of a line through its last third, per iteration; p: one-sided, that it is not positive;
    None where there are too few tests.
    """

    split: str
    iterations: tuple[int, ...]
    accuracy: tuple[float, ...]
    slope: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class Record:
    """All that is known about a cell that ended.

    key, generated         cells.key, and the digest of generated.of_files
    layers, code           the net's modules of Python layers, code_version.of_modules of them
    seconds                of the training, also of parts that were repeated after an interruption
    images_per_second      median over the training
    """

    format: int
    key: str
    code: str
    generated: str
    status: str
    study: str
    data: str
    net: str
    variant: str
    role: str
    seed: int
    options: dict
    commands: tuple[str, ...]
    commit: str
    machine: str
    device: str
    threads: int
    ended: str
    data_sha256: str
    weights_sha256: str
    iterations: int
    batch: int
    seconds: float
    images_per_second: float | None = None
    model_sha256: str | None = None
    scores: Scores | None = None
    curve: Curve | None = None
    layers: tuple[str, ...] = ()
    diverged: str | None = None

    @property
    def description(self):
        """What tells the cells of a study apart, but for the content of data and weights."""
        options = self.options.items()
        return description(self.data, self.net, self.variant, self.role, self.seed, options)

    def lacks(self, names):
        """The measures among `names` without which a finished cell was evaluated, in order."""
        known = (self.scores and self.scores.measures) or {}
        return tuple(name for name in names if self.scores and name not in known)

    def __post_init__(self):
        if self.format not in FORMATS:
            raise ValueError(f"format {self.format} is not {' or '.join(map(str, FORMATS))}")
        if self.status not in (FINISHED, DIVERGED) or (self.status == FINISHED) != bool(
            self.scores
        ):
            raise ValueError("status and scores do not fit each other")


def description(data, net, variant, role, seed, options):
    """A text; options: ((option, value), ...) in any order."""
    return json.dumps([data, net, variant, role, seed, sorted(dict(options).items())])


def write(path, record):
    files.write_whole(path, json.dumps(to_json(record), indent=1, ensure_ascii=False) + "\n")


def read(path):
    """The Record in a file; raises UserError if it is not one."""
    return from_json(Record, read_json(path, "the record"), f"{path} is not a study's record")


def find(path, key):
    """The Record of a key, or None if there is no such file.

    Raises UserError if the file holds something else.
    """
    if not path.exists():
        return None
    record = read(path)
    if record.key != key:
        raise UserError(f"{path} is the record of another cell: move it away")
    return record
