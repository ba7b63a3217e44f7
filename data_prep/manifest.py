"""manifest.json of a built data set: source, options, versions, contents and checksums."""

import json
from dataclasses import dataclass

from data_prep.build_options import BuildOptions
from data_prep.common import typed
from data_prep.common.errors import UserError
from data_prep.common.text import read_json
from data_prep.records import NEEDED, SPLITS

FILE = "manifest.json"
KINDS = ("images", "labels")  # the two LMDBs of a split


def checksummed(splits):
    """The files whose checksums are in the manifest of a data set with these splits."""
    return ("hierarchy.tsv", "mean.binaryproto", *(f"{split}.tsv" for split in splits))


@dataclass(frozen=True)
class Level:
    name: str
    classes: int


@dataclass(frozen=True)
class Split:
    """One split of the data set.

    sha256: {kind of LMDB: SHA-256 of its records}.
    order:  order.facts of the training records, None for other splits.
    """

    images: int  # records
    distinct: int  # different images among them
    classes_present: tuple[int, ...]  # per level
    sha256: dict[str, str]
    order: dict | None = None

    def __post_init__(self):
        if self.images < 1:
            raise ValueError("images is not a number above 0")
        if set(self.sha256) != set(KINDS):
            raise ValueError(f"sha256 is not of {' and '.join(KINDS)}")


@dataclass(frozen=True)
class Skipped:
    image: str
    reason: str


@dataclass(frozen=True)
class SameImage:
    """One image of a group of identical images. label: fine class."""

    split: str
    image: str
    label: int


@dataclass(frozen=True)
class Found:
    """The problems that findings.sentences warns about.

    same_image: groups; one_color: names of images; of: number of distinct images.
    """

    same_image: tuple[tuple[SameImage, ...], ...]
    one_color: tuple[str, ...]
    of: int


@dataclass(frozen=True)
class Features:
    """What the records of a data set of features are, instead of images.

    blob      of the net that computed them
    channels  values of each
    crops     names of the crops of a training image; the first one of val and test images
    weights_sha256  of the caffemodel
    """

    blob: str
    channels: int
    crops: tuple[str, ...]
    weights_sha256: str

    def __post_init__(self):
        if self.channels < 1 or not self.crops:
            raise ValueError("channels or crops is empty")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The part of the manifest that is known before a build and decides if one is needed."""

    format: int
    name: str
    fingerprint: str  # of the source
    levels: tuple[Level, ...]  # fine to coarse
    options: BuildOptions  # of features: those of their images, but for the order
    versions: dict[str, str]  # of the programs that affect the images
    features: Features | None = None  # None: the records are images

    def __post_init__(self):
        if not self.levels:
            raise ValueError("levels is empty")

    @property
    def size(self):
        """Width and height of the stored images, pixels."""
        return self.options.size

    @property
    def channels(self):
        """Values of each stored feature; None for images."""
        return self.features and self.features.channels


@dataclass(frozen=True, kw_only=True)
class Manifest(Wanted):
    splits: dict[str, Split]
    skipped: tuple[Skipped, ...] | None = None  # None unless skipping was requested
    findings: Found | None = None  # None in data sets of earlier versions
    mean_bgr: tuple[float, ...]
    checksums: dict[str, str]  # {file: SHA-256}

    def __post_init__(self):
        super().__post_init__()
        if not set(NEEDED) <= set(self.splits) <= set(SPLITS):
            raise ValueError(f"splits is not of {', '.join(NEEDED)} and perhaps val")
        if set(self.checksums) != set(checksummed(self.splits)):
            raise ValueError("checksums is not of the files of the data set")

    @property
    def present_splits(self):
        """The splits in the order of SPLITS."""
        return tuple(split for split in SPLITS if split in self.splits)

    def is_of(self, wanted):
        """Whether the data set matches this Wanted."""
        values = typed.to_json(self)
        # Compared as JSON, where tuples become lists.
        return all(values[key] == value for key, value in json.loads(text(wanted)).items())


def text(manifest):
    """The JSON text of a Wanted or Manifest."""
    return json.dumps(typed.to_json(manifest), indent=1, ensure_ascii=False) + "\n"


def read(folder):
    """The Manifest of a built data set; raises UserError if it is missing or damaged."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(
            f"{folder} has no {FILE}, so it is not a finished data set: build it with "
            "data_prep/build_lmdb.py, or correct the path"
        )
    try:
        return typed.from_json(
            Manifest, read_json(path, "the manifest"), f"the manifest {path} is damaged"
        )
    except UserError as error:
        raise UserError(f"{error}: build the data set again") from None
