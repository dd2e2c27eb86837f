"""Files of an artifact store, local or in an object store, with atomic writes."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from finch_hub import errors
from finch_hub.formats.atomic_writes import flush_path
from finch_hub.progress import Meter

_TEMPORARY = "tmp"
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_ABANDONED_SECONDS = 24 * 3600.0  # no writer needs a day for one file


class LocalFiles:
    """Files below a folder, written under a temporary name, flushed and renamed.

    Paths are relative, with forward slashes. A write is durable when it returns, and replaces an earlier file.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def below(self, folder: str) -> LocalFiles:
        """Return the files below a folder of these."""
        return LocalFiles(self._root / folder)

    def put_bytes(self, path: str, data: bytes) -> None:
        """Write a file."""
        with self._replacing(path) as target:
            target.write(data)

    def put_new(self, path: str, data: bytes) -> None:
        """Write a file, unless there is one."""
        with contextlib.suppress(FileExistsError), self._replacing(path, publish=_link) as target:
            target.write(data)

    def put_file(self, path: str, source: Path, meter: Meter) -> None:
        """Write a file with the content of another, and count its bytes."""
        with source.open("rb") as origin, self._replacing(path) as target:
            while chunk := origin.read(2**20):
                meter.add(target.write(chunk))

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading.

        Raises:
            FileNotFoundError: the file is missing.
            RefusedArtifact: it is a folder, or a pipe or device, which could block or never end.
        """
        file = self._root / path
        if not stat.S_ISREG(file.stat().st_mode):
            fix = "the storage is damaged; restore it from a backup or make the artifact again"
            raise errors.RefusedArtifact("is not a regular file", where=str(file), fix=fix)
        return file.open("rb")

    def remove(self, path: str) -> None:
        """Remove a file. Ignore a missing one."""
        (self._root / path).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        """Remove a folder with all files below it. Ignore a missing one."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._root / folder)

    def has_any(self, folder: str) -> bool:
        """Return whether there is anything in a folder."""
        return (self._root / folder).is_dir() and any((self._root / folder).iterdir())

    def list(self, folder: str) -> list[str]:
        """Return the names of the files and folders directly in a folder, none if it is missing."""
        return [path.name for path in (self._root / folder).iterdir()] if (self._root / folder).is_dir() else []

    @contextlib.contextmanager
    def _replacing(self, path: str, *, publish: Callable[[Path, Path], object] = Path.replace) -> Iterator[BinaryIO]:
        final = self._root / path
        temporary = self._root / _TEMPORARY / secrets.token_hex(8)
        for folder in (final.parent, temporary.parent):
            _make_folder(folder)
        self._sweep(temporary.parent)
        try:
            with temporary.open("xb") as target:
                yield target
                target.flush()
                os.fchmod(target.fileno(), 0o444)
                os.fsync(target.fileno())
            publish(temporary, final)
            flush_path(final.parent)
        finally:
            temporary.unlink(missing_ok=True)

    @staticmethod
    def _sweep(folder: Path) -> None:
        """Remove temporary files of killed writers."""
        for file in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - file.stat().st_mtime > _ABANDONED_SECONDS:
                    file.unlink()


class ObjectFiles:
    """Files of an fsspec file system with atomic puts, such as an object store."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self._fs = filesystem
        self._root = root.rstrip("/")

    def below(self, folder: str) -> ObjectFiles:
        """Return the objects below a folder of these."""
        return ObjectFiles(self._fs, self._at(folder))

    def put_bytes(self, path: str, data: bytes) -> None:
        """Write an object."""
        self._fs.pipe_file(self._at(path), data)

    def put_new(self, path: str, data: bytes) -> None:
        """Write an object, unless there is one and the store can tell."""
        with contextlib.suppress(FileExistsError):
            self._fs.pipe_file(self._at(path), data, mode="create")

    def put_file(self, path: str, source: Path, meter: Meter) -> None:
        """Write an object from a file, in parts if it is large, and count its bytes."""
        from fsspec.callbacks import Callback

        callback = Callback(size=source.stat().st_size, hooks={"count": _Count(meter)})
        self._fs.put_file(str(source), self._at(path), callback=callback)

    def open(self, path: str) -> BinaryIO:
        """Open an object for reading."""
        stream: BinaryIO = self._fs.open(self._at(path), "rb")
        return stream

    def remove(self, path: str) -> None:
        """Remove an object."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._at(path))

    def remove_folder(self, folder: str) -> None:
        """Remove all objects below a folder. Ignore a missing one."""
        self._fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._at(folder), recursive=True)

    def has_any(self, folder: str) -> bool:
        """Return whether there is any object below a folder."""
        self._fs.invalidate_cache()
        return bool(self._fs.exists(self._at(folder)))

    def list(self, folder: str) -> list[str]:
        """Return the names of the objects and folders directly in a folder, none if it is missing."""
        self._fs.invalidate_cache()
        try:
            paths = {path.rstrip("/") for path in self._fs.ls(self._at(folder), detail=False)}
        except FileNotFoundError:
            return []
        return [path.rpartition("/")[2] for path in paths if path != self._at(folder)]  # some stores list the folder

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"


Files = LocalFiles | ObjectFiles


class _Count:
    """Hook of fsspec, which gets the number of all bytes that were written so far."""

    def __init__(self, meter: Meter) -> None:
        self._meter, self._counted = meter, 0

    def __call__(self, size: int | None, value: int, **_: Any) -> None:
        """Count the bytes since the last call."""
        self._meter.add(value - self._counted)
        self._counted = value


def _link(temporary: Path, final: Path) -> None:
    """Give a file a second name that must be new, or replace that name where a file system has no hard links."""
    try:
        os.link(temporary, final)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        temporary.replace(final)


def _make_folder(folder: Path) -> None:
    """Make a folder and flush its parents, since a crash could otherwise lose the folder."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    flush_path(folder.parent)
