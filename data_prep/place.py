"""The target of a build, and checks that files at or beside the target may be replaced.

A build writes X and, beside it, `.X.partial` (work in progress), `.X.old` (the data set that is
being replaced) and `.X.lock`. Other programs may have created files with these names. Only files
that this module recognizes as a build's are ever replaced or removed; links are not followed.
"""

import fcntl
import os
import re
import shutil
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_prep.common import files
from data_prep.common.errors import UserError
from data_prep.common.text import read_json
from data_prep.manifest import KINDS, checksummed
from data_prep.records import SPLITS

FILES = {*checksummed(SPLITS), "contact_sheet.png", "manifest.json"}
FOLDERS = {f"{split}_{kind}" for split in SPLITS for kind in KINDS}
LMDB_FILES = {"data.mdb", "lock.mdb"}
# Fields of manifest.json: before the build, and in a finished data set.
BEGUN = {"format": int, "name": str, "fingerprint": str, "levels": list, "options": dict}
FINISHED = BEGUN | {"splits": dict, "checksums": dict}
STATE_FILE = re.compile(r"wanted\.json|skipped\.json|\w+\.checkpoint")
UNFINISHED_FILE = re.compile(r"\..+\.[0-9a-f]{8}\.new")  # of common.files.beside_of
LOCK_TEXT = b"lock of a data set that is being built\n"


@dataclass(frozen=True)
class Place:
    """The target folder of a build. Printed as the user gave it."""

    given: Path
    path: Path  # the same with links resolved

    @classmethod
    def of(cls, out):
        """The place that `out` names; links are followed. Changes nothing.

        Raises UserError unless a build may write there: the target must be missing, an empty folder
        or a data set that a build made, and so must the names beside it.
        """
        place = cls(Path(out), Path(os.path.realpath(out)))
        if os.path.lexists(place.path):
            place._check_target()
        for path, foreign in (
            (place.partial, foreign_in_partial),
            (place.old, foreign_in_data_set),
            (place.lock, _foreign_in_lock),
        ):
            if os.path.lexists(path) and (reason := foreign(path)):
                raise UserError(
                    f"building {out} needs the name {path}, which no build made: {reason}; move "
                    "it, or choose another --out"
                )
        return place

    def _check_target(self):
        files.check_replaceable(self.path, self.given)
        if any(self.path.iterdir()) and (reason := foreign_in_data_set(self.path)):
            raise UserError(
                f"{self} exists and is not a built data set: {reason}; choose another --out"
            )

    def __str__(self):
        return str(self.given)

    @property
    def partial(self):
        return self._beside("partial")

    @property
    def old(self):
        return self._beside("old")

    @property
    def lock(self):
        return self._beside("lock")

    def _beside(self, what):
        return self.path.parent / f".{self.path.name}.{what}"

    @contextmanager
    def locked(self):
        """Hold the lock of this place; raises UserError if another build holds it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _lock_file(self.lock) as (descriptor, made):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A build that has just ended may have removed this file, which then locks nothing.
                mine = os.path.samestat(os.fstat(descriptor), self.lock.lstat())
            except (BlockingIOError, FileNotFoundError):
                mine = False
            if not mine:
                raise UserError(
                    f"another build is writing {self}: wait for it, or choose another --out"
                )
            try:
                self._tidy()
                yield
            finally:
                if made:
                    self.lock.unlink()

    def publish(self, data):
        """Replace the old data set by the finished folder `data`, which must be synced."""
        if os.path.lexists(self.path):
            self._check_target()  # again, since hours may have passed
            if any(self.path.iterdir()):
                self.path.rename(self.old)
        data.rename(self.path)  # onto nothing or an empty folder
        self._tidy()

    def _tidy(self):
        """Remove leftovers of publish(), even if it was killed between or after its renames."""
        if self.old.exists():
            if not self.path.exists():
                self.old.rename(self.path)
            elif not foreign_in_data_set(self.old):
                shutil.rmtree(self.old)
        if self.partial.exists() and not (self.partial / "data").exists():
            self.remove_partial()

    def remove_partial(self):
        """Remove the work in progress, if it exists. Raises UserError if no build made it."""
        if not os.path.lexists(self.partial):
            return
        if reason := foreign_in_partial(self.partial):
            raise UserError(f"{self.partial} is not removed, because no build made it: {reason}")
        shutil.rmtree(self.partial)


def foreign_in_data_set(folder):
    """Why a folder is not exactly a finished data set; None if it is."""
    reason = _foreign_names(folder)
    return reason or _foreign_manifest(folder / "manifest.json", FINISHED)


def foreign_in_partial(folder):
    """Why a folder is not the work in progress of a build; None if it is."""
    if reason := _other_than(folder, folders={"data", "state"}):
        return reason
    data, state = folder / "data", folder / "state"
    if data.exists() and (reason := _foreign_names(data)):
        return reason
    if not state.exists():
        return f"it holds {data.name}" if data.exists() and any(data.iterdir()) else None
    names = {entry.name for entry in os.scandir(state)}
    ours = {name for name in names if STATE_FILE.fullmatch(name) or UNFINISHED_FILE.fullmatch(name)}
    if reason := _other_than(state, ours, {"prepared"}):
        return reason
    # A build writes wanted.json before anything else.
    if "wanted.json" in names:
        return _foreign_manifest(state / "wanted.json", BEGUN)
    others = [name for name in names if not UNFINISHED_FILE.fullmatch(name)]
    if others or (data.exists() and any(data.iterdir())):
        return f"{state} has no wanted.json"
    return None


def _foreign_names(folder):
    """The first entry of a folder that a data set can't have, in words; None if all belong."""
    if reason := _other_than(folder, FILES, FOLDERS):
        return reason
    lmdbs = [folder / name for name in sorted(FOLDERS) if (folder / name).exists()]
    return next(filter(None, (_other_than(lmdb, LMDB_FILES) for lmdb in lmdbs)), None)


def _other_than(folder, files=frozenset(), folders=frozenset()):
    """What a folder is or contains other than plain files and folders of these names, or None."""
    if folder.is_symlink() or not folder.is_dir():
        return f"{folder} is not a folder"
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        plain = entry.is_file(follow_symlinks=False) and entry.name in files
        if not plain and not (entry.is_dir(follow_symlinks=False) and entry.name in folders):
            return f"it holds {(folder / entry.name).relative_to(folder.parent)}"
    return None


def _foreign_manifest(path, fields):
    """Why a file is not a build's manifest with these {field: type}; None if it is."""
    try:
        manifest = read_json(path, "the manifest")
    except UserError as error:
        return str(error)
    ours = isinstance(manifest, dict) and all(
        isinstance(manifest.get(field), kind) for field, kind in fields.items()
    )
    return None if ours else f"no build wrote its {path.name}"


def _foreign_in_lock(path):
    """Why a file is not the lock of a build; None if it is."""
    try:
        with _lock_file(path, create=False):
            return None
    except FileNotFoundError:  # a build that has just ended removed it
        return None
    except UserError as error:
        return str(error)


@contextmanager
def _lock_file(path, create=True):
    """(descriptor, whether a build made it) of the lock.

    Raises UserError for anything but a plain file with LOCK_TEXT. An empty file, of unknown origin,
    serves as a lock too, but is not removed.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            if not create:
                raise
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            os.write(descriptor, LOCK_TEXT)
    except FileNotFoundError:
        raise
    except FileExistsError:  # another build has just made it
        raise UserError(f"another build has just begun with {path}") from None
    except OSError as error:
        raise UserError(f"{path} can't be opened as a lock: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        text = os.pread(descriptor, len(LOCK_TEXT) + 1, 0) if stat.S_ISREG(status.st_mode) else None
        if text not in (LOCK_TEXT, b"") or status.st_nlink > 1:
            raise UserError(f"{path} is not a lock that a build made")
        yield descriptor, text == LOCK_TEXT
    finally:
        os.close(descriptor)
