"""Types for data sets, and for the images that a net reads from them."""

from dataclasses import dataclass

BBOX = "bbox"  # stage, and suffix of names: images cut to the ground-truth boxes


def stored_for(crop):
    """Side of the stored images for crops of this side: 256 for 224, as in the model zoo."""
    return max(256, -(-crop * 8 // (7 * 32)) * 32)


@dataclass(frozen=True)
class Level:
    """A level of a label tree. classified: whether nets have a classifier for it."""

    name: str
    classes: int
    classified: bool = True


@dataclass(frozen=True)
class Setting:
    """The images that a net reads from a data set: whole, or cropped to their boxes.

    title    of the data set with the setting
    folder   of the LMDBs
    command  that builds the folder
    crop     side of the net's input, in pixels; 1 where the records are features
    stages   that choose this setting of a net that can read several
    channels values per pixel, or of a feature
    """

    title: str
    folder: str
    command: str
    crop: int
    stages: tuple = ()
    channels: int = 3

    @property
    def shape(self):
        """Channels, height and width of the net's input."""
        return self.channels, self.crop, self.crop

    @property
    def hierarchy(self):
        """Path of the label tree."""
        return f"{self.folder}/hierarchy.tsv"

    def named(self, name):
        """The name, of a data set or run, with that of the setting: cub, cub_bbox."""
        return "_".join((name, *self.stages))


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Facts of a data set.

    tree         Levels of the label LMDB, fine to coarse
    train, test  numbers of images
    mirror       whether mirrored images belong to the same class
    small_crop   input side for nets that accept any size, if the images are smaller than the net's
                 own input; None: not needed
    test_split   split whose images are read in tests during training; `test` counts its images
    base         name of the official data set that this one is made from; None: itself
    """

    name: str
    title: str
    tree: tuple
    train: int
    test: int
    mirror: bool = True
    small_crop: int | None = None
    test_split: str = "test"
    base: str | None = None

    def pair(self, net):
        """The key of a Net with this data set in tables.SCHEDULES and tables.STRENGTHS."""
        return self.base or self.name, net.name

    @property
    def levels(self):
        """Names of the classified levels, fine to coarse."""
        return tuple(level.name for level in self.tree if level.classified)

    @property
    def sizes(self):
        """Classes of the classified levels."""
        return tuple(level.classes for level in self.tree if level.classified)

    @property
    def numbers(self):
        """Positions of the classified levels in the label LMDB, 1 = finest."""
        return tuple(n for n, level in enumerate(self.tree, 1) if level.classified)

    def settings(self, net):
        """The Settings in which the Net can read this data set."""
        raise NotImplementedError

    def _crop(self, net, side):
        """Side of the input of a Net that reads stored images of this side."""
        small = net.any_size and self.small_crop and side < net.crop
        return self.small_crop if small else net.crop


@dataclass(frozen=True, kw_only=True)
class Official(Dataset):
    """A data set with official splits, whose folder depends on the net.

    command  that builds it
    side     of the images that this command stores by default
    boxes    whether the images have ground-truth boxes, which gives the paper's two settings
    """

    command: str
    side: int = 256
    boxes: bool = False

    def settings(self, net):
        whole = self._setting(net, self.title, self.command, ())
        if not self.boxes:
            return (whole,)
        title = f"{self.title}, cut to the ground-truth boxes"
        return whole, self._setting(net, title, f"{self.command} --bbox", (BBOX,))

    def _setting(self, net, title, command, stages):
        side = self.side if net.any_size else max(self.side, net.stored)
        folder = "_".join(("data/" + self.name, *stages))
        if side != self.side:
            folder += f"_{side}"
            command += f" --size {side} --out {folder}"
        return Setting(title, folder, command, self._crop(net, side), stages)


@dataclass(frozen=True, kw_only=True)
class Built(Dataset):
    """A data set in a folder that data_prep/build_lmdb.py made. side: of its images."""

    folder: str
    side: int

    def settings(self, net):
        command = f"data_prep/build_lmdb.py ... --out {self.folder}"
        return (Setting(self.title, self.folder, command, self._crop(net, self.side)),)


@dataclass(frozen=True, kw_only=True)
class Cached(Dataset):
    """Features in a folder that tools/cache_features.py made. channels: values of a feature."""

    folder: str
    channels: int

    def settings(self, net):
        command = f"tools/cache_features.py ... --out {self.folder}"
        return (Setting(self.title, self.folder, command, 1, channels=self.channels),)
