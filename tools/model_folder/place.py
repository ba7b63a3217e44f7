"""The target folder of an export, and checks that it may be replaced.

An export writes X and, until it is complete, `.X.partial` beside it; `.X.old` is the export that is
being replaced. Only folders that an export made are ever replaced or removed. Links are followed.
"""

import fcntl
import json
import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_prep.common import files, typed
from data_prep.common.errors import UserError
from data_prep.common.text import read_json

MANIFEST = "export.json"
FORMAT = 1
UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}\.new")  # of common.files.beside_of


@dataclass(frozen=True)
class Manifest:
    """export.json. weights_sha256: of the caffemodel before export; checksums: {file: SHA-256}."""

    format: int
    experiment: str
    commit: str
    weights_sha256: str
    checksums: dict[str, str]

    def __post_init__(self):
        if self.format != FORMAT:
            raise ValueError(f"format is {self.format}, and this program knows {FORMAT}")
        if not all(re.fullmatch(r"\w[\w.-]*", name) for name in self.checksums):
            raise ValueError("checksums has names of files that no export has")


def read_manifest(folder):
    """The Manifest of an exported folder; raises UserError."""
    path = folder / MANIFEST
    return typed.from_json(
        Manifest, read_json(path, "the manifest"), f"{path} is not one of tools/export.py"
    )


def foreign(folder):
    """Why a folder is not exactly what an export wrote; None if it is."""
    if folder.is_symlink() or not folder.is_dir():
        return f"{folder} is not a folder"
    if not (folder / MANIFEST).is_file():
        return f"it has no {MANIFEST}"
    try:
        checksums = read_manifest(folder).checksums
    except UserError as error:
        return str(error)
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name == MANIFEST and entry.is_file(follow_symlinks=False):
            continue
        if entry.name not in checksums or not entry.is_file(follow_symlinks=False):
            return f"it holds {entry.name}"
        if files.sha256(entry.path) != checksums[entry.name]:
            return f"{entry.name} has been changed"
    return None


@dataclass(frozen=True)
class Place:
    """The target of an export. Printed as the user gave it."""

    given: Path
    path: Path  # the same with links resolved
    names: frozenset  # of the files of an export

    @classmethod
    def of(cls, out, names):
        """The place that `out` names. Changes nothing; UserError unless an export may write there.

        names: of the files of an export.
        """
        path = Path(os.path.realpath(out))
        place = cls(Path(out), path, frozenset({*names, MANIFEST}))
        place._check_target()
        if os.path.lexists(place._partial) and (reason := place._foreign_partial()):
            raise place._taken(place._partial, reason)
        if os.path.lexists(place._old) and (reason := foreign(place._old)):
            raise place._taken(place._old, reason)
        return place

    def __str__(self):
        return str(self.given)

    @property
    def _partial(self):
        return self.path.parent / f".{self.path.name}.partial"

    @property
    def _old(self):
        return self.path.parent / f".{self.path.name}.old"

    def _taken(self, path, reason):
        return UserError(
            f"exporting {self} needs the name {path}, which no export made: {reason}; move it, or "
            "choose another --out"
        )

    def _check_target(self):
        if not os.path.lexists(self.path):
            return
        files.check_replaceable(self.path, self.given)
        if any(self.path.iterdir()) and (reason := foreign(self.path)):
            raise UserError(
                f"{self} exists and is not what tools/export.py wrote: {reason}; "
                "choose another --out"
            )

    def _foreign_partial(self):
        """Why `.X.partial` is not the work of an interrupted export; None if it is."""
        if self._partial.is_symlink() or not self._partial.is_dir():
            return "it is not a folder"
        for entry in os.scandir(self._partial):
            ours = entry.name in self.names or UNFINISHED.fullmatch(entry.name)
            if not (ours and entry.is_file(follow_symlinks=False)):
                return f"it holds {entry.name}"
        return None

    @contextmanager
    def partial(self):
        """The empty folder to write into, locked; it is gone at the end unless published."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._partial.mkdir(exist_ok=True)
        descriptor = os.open(self._partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Another export may have published or removed the folder since it was opened.
                mine = os.path.samestat(os.fstat(descriptor), self._partial.lstat())
            except (BlockingIOError, FileNotFoundError):
                mine = False
            if not mine:
                raise UserError(
                    f"another export is writing {self}: wait for it, or choose another --out"
                )
            if reason := self._foreign_partial():
                raise self._taken(self._partial, reason)
            try:
                self._restore_old()
                for entry in self._partial.iterdir():
                    entry.unlink()
                yield self._partial
            finally:
                if self._partial.is_dir() and not self._foreign_partial():
                    shutil.rmtree(self._partial)
        finally:
            os.close(descriptor)

    def _restore_old(self):
        """Undo what an export that was killed between its renames left."""
        if self._old.exists() and not self.path.exists():
            self._old.rename(self.path)
        elif self._old.exists():
            shutil.rmtree(self._old)

    def publish(self, folder, experiment, commit, weights_sha256):
        """Write the manifest of a finished folder, sync it, and give it its name."""
        checksums = {path.name: files.sha256(path) for path in sorted(folder.iterdir())}
        manifest = Manifest(FORMAT, experiment, commit, weights_sha256, checksums)
        text = json.dumps(typed.to_json(manifest), indent=1, ensure_ascii=False) + "\n"
        files.write_whole(folder / MANIFEST, text)
        for path in folder.iterdir():
            files.sync(path)
        files.sync(folder)
        self._check_target()  # again, since minutes may have passed
        if self.path.exists() and any(self.path.iterdir()):
            self.path.rename(self._old)
        folder.rename(self.path)  # onto nothing or an empty folder
        files.sync(self.path.parent)
        if self._old.exists():
            shutil.rmtree(self._old)
