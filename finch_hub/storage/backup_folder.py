"""The folder of a backup: its record, its registry file and its artifact store, read as if they came from anybody."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from finch_hub import errors, progress
from finch_hub.artifacts.store import ArtifactStore, blob_path, tree_path
from finch_hub.formats.finch_record import RECORD
from finch_hub.registry.artifact_references import References
from finch_hub.specs.backups import FORMAT, Backup

KIND = "backup"
REGISTRY = "registry.db"
ARTIFACTS = "artifacts"

_LINK = "is a link or not a regular file"
_MAX_RECORD = 2**24
_MAX_DEPTH = 4  # of folders; a backup has three
_CHUNK = 2**20
_ARTIFACT = re.compile(r"(blobs|trees)/([0-9a-f]{2})/\2[0-9a-f]{62}")
_FOLDER = re.compile(r"(blobs|trees)(/[0-9a-f]{2})?")


class BackupFolder:
    """A backup that was finished. Nothing in it is trusted.

    Raises:
        NotFound: there is no such folder.
        RefusedArtifact: it is not a backup, or has links or other things that no backup has.
        Incompatible: a newer version of Finch Hub took the backup.

    Attributes:
        backup: the record of the backup.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise errors.NotFound("backup folder", str(path))
        with _translate_errors(path):
            self.backup = self._read_record()  # first, since a newer format may have other files
            self._check_files()
        self.artifacts = ArtifactStore(str(path / ARTIFACTS), cache=path / "cache")  # the cache is not used

    @property
    def registry(self) -> Path:
        """Path of the registry file."""
        return self.path / REGISTRY

    def copy_registry(self, target: Path) -> None:
        """Copy the registry file, since it could change between its check and its use.

        Raises:
            RefusedArtifact: it has another hash than the record says.
            OSError: the copy cannot be written.
        """
        hashed = hashlib.sha256()
        with _open_file(self.registry) as source, target.open("xb") as out:
            while chunk := source.read(_CHUNK):
                hashed.update(chunk)
                out.write(chunk)
        if hashed.hexdigest() != self.backup.registry:
            raise self._refuse("has another SHA-256 than the record of the backup", where=REGISTRY)

    def list_trees(self, references: References) -> list[str]:
        """Return the digests of the trees that the backup has, of those that the registry refers to."""
        return [digest for digest in sorted(references.all_trees) if self._has(tree_path(digest))]

    def find_blobs(self, references: References) -> dict[str, str]:
        """Return the digests of the blobs that the backup has for the registry, each with what it belongs to.

        Raises:
            RefusedArtifact: a tree is damaged, or an artifact is missing that the record does not name as missing.
        """
        problems: list[errors.Problem] = []
        blobs: dict[str, str] = {}
        for digest in sorted(references.texts | references.all_samples):
            what = f"{'data set' if digest in references.texts else 'sample answers'} {digest}"
            if self._has(blob_path(digest)):
                blobs[digest] = what
            elif digest in references.blobs and digest not in self.backup.missing:
                problems.append(_missing(what))
        for digest in sorted(references.all_trees):
            what = f"adapter files {digest}"
            if not self._has(tree_path(digest)):
                if digest in references.trees and digest not in self.backup.missing:
                    problems.append(_missing(what))
                continue
            for name, entry in self.artifacts.tree(digest).items():
                file = self.path / ARTIFACTS / blob_path(entry.digest)
                if not self._has(blob_path(entry.digest)):
                    problems.append(_missing(f"{name} of {what}"))
                elif file.stat().st_size != entry.size:
                    where = f"{name} of {what}"
                    problems.append(errors.Problem(where=where, what="has another size than its tree says"))
                blobs.setdefault(entry.digest, f"{name} of {what}")
        if problems:
            raise errors.RefusedArtifact(problems, subject=f"backup {self.path}")
        return blobs

    def verify(self, blobs: dict[str, str]) -> int:
        """Check the hash of each blob and return their size.

        Raises:
            RefusedArtifact: with each blob that is damaged.
        """
        size, problems = 0, []
        for digest, what in progress.track(blobs.items(), "checking artifacts", total=len(blobs)):
            try:
                size += self.artifacts.measure(digest)
            except errors.RefusedArtifact:
                problems.append(errors.Problem(where=what, what="its bytes have changed"))
        if problems:
            raise errors.RefusedArtifact(problems, subject=f"backup {self.path}")
        return size

    def _has(self, path: str) -> bool:
        return (self.path / ARTIFACTS / path).is_file()

    def _read_record(self) -> Backup:
        file = self.path / RECORD
        try:
            with _open_file(file) as stream:
                data = stream.read(_MAX_RECORD + 1)
        except FileNotFoundError:
            raise self._refuse("is missing, so the folder is not a backup", where=RECORD) from None
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EINVAL):
                raise
            raise self._refuse(_LINK, where=RECORD) from None
        if len(data) > _MAX_RECORD:
            raise self._refuse("is longer than any record of a backup", where=RECORD)
        try:
            record = json.loads(data)
        except (ValueError, RecursionError):
            raise self._refuse("is not a record of a backup", where=RECORD) from None
        if not isinstance(record, dict) or record.get("made") != KIND:
            raise self._refuse("is not a record of a backup", where=RECORD)
        number = record.get("format")
        if isinstance(number, int) and number > FORMAT:
            version = str(record.get("finch_hub"))[:64]
            what = f"was taken by the newer Finch Hub {version} in format {number}: this code reads {FORMAT}"
            raise errors.Incompatible(what, where=f"backup {self.path}", fix="update finch-hub on this machine")
        try:
            return Backup.of(data, subject=RECORD)
        except (errors.InvalidSpec, RecursionError) as error:
            raise self._refuse(f"is damaged: {error}", where=RECORD) from None

    def _check_files(self) -> None:
        """Refuse links, devices and names that no backup has."""
        problems = []
        for name, entry in _walk(self.path):
            if entry.is_symlink() or not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
                problems.append(errors.Problem(where=name, what=_LINK))
            elif not _is_known(name, is_folder=entry.is_dir(follow_symlinks=False)):
                problems.append(errors.Problem(where=name, what="is not a part of a backup"))
        for name in (RECORD, REGISTRY):
            if not (self.path / name).is_file():
                problems.append(errors.Problem(where=name, what="is missing"))
        if problems:
            raise errors.RefusedArtifact(problems, subject=f"backup {self.path}")

    def _refuse(self, what: str, *, where: str) -> errors.RefusedArtifact:
        return errors.RefusedArtifact(what, where=f"backup {self.path}: {where}", fix="use another backup")


def _walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield all entries below a folder with their paths. Links are not followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            yield f"{prefix}{entry.name}", entry
            if entry.is_dir(follow_symlinks=False) and prefix.count("/") < _MAX_DEPTH:
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")


def _is_known(name: str, *, is_folder: bool) -> bool:
    room, _, path = name.partition("/")
    if room != ARTIFACTS:
        return name in (RECORD, REGISTRY) and not is_folder
    if is_folder:
        return not path or _FOLDER.fullmatch(path) is not None
    return _ARTIFACT.fullmatch(path) is not None


def _missing(where: str) -> errors.Problem:
    return errors.Problem(where=where, what="is missing in the backup")


def _open_file(path: Path) -> BinaryIO:
    """Open a regular file, and no link to one, without waiting for a pipe."""
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return os.fdopen(number, "rb")


@contextlib.contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's errors about reading a backup into `Unavailable`."""
    try:
        yield
    except OSError as error:
        raise errors.Unavailable(f"could not read backup {path}: {error.strerror or error}") from error
