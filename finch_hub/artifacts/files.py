"""Files of an artifact store, local or in an object store, with atomic writes."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from finch_hub import errors
from finch_hub.formats.atomic_writes import flush_path
from finch_hub.progress import Meter

_TEMPORARY = "tmp"
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_ABANDONED_SECONDS = 24 * 3600.0  # no writer needs a day for one file


class FileInfo(NamedTuple):
    """A stored file.

    Attributes:
        name: name within its folder.
        size: bytes.
        modified: time of its last write in seconds since 1970, by the clock of the store; None if it is unknown.
    """

    name: str
    size: int
    modified: float | None


class LocalFiles:
    """Files below a folder, written under a temporary name, flushed and renamed.

    Paths are relative, with forward slashes. A write is durable when it returns, and replaces an earlier file.

    Args:
        is_private: whether other users are kept out, otherwise the umask decides.
    """

    def __init__(self, root: Path, *, is_private: bool = False) -> None:
        self._root, self._is_private = root, is_private

    def below(self, folder: str) -> LocalFiles:
        """Return the files below a folder of these."""
        return LocalFiles(self._root / folder, is_private=self._is_private)

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
            now = os.fstat(target.fileno()).st_mtime  # the clock of this machine may be wrong
            self.remove_unfinished(now - _ABANDONED_SECONDS)
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

    def scan(self, folder: str) -> Iterator[FileInfo]:
        """Yield the regular files directly in a folder, none if it is missing."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self._root / folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False):
                        info = entry.stat(follow_symlinks=False)
                        yield FileInfo(entry.name, info.st_size, info.st_mtime)

    def find(self, path: str) -> FileInfo | None:
        """Return a file, None if it is missing."""
        try:
            info = (self._root / path).lstat()
        except FileNotFoundError:
            return None
        return FileInfo(path.rpartition("/")[2], info.st_size, info.st_mtime)

    def remove_unfinished(self, before: float, *, dry_run: bool = False) -> tuple[int, int]:
        """Remove what writers left before a time, and return the number of files and of their bytes."""
        return _remove_temporary(self, before, dry_run=dry_run)

    def keeps_versions(self) -> bool | None:
        """Tell that a removed file is gone."""
        return False

    @contextlib.contextmanager
    def _replacing(self, path: str, *, publish: Callable[[Path, Path], object] = Path.replace) -> Iterator[BinaryIO]:
        final = self._root / path
        temporary = self._root / _TEMPORARY / secrets.token_hex(8)
        for folder in (final.parent, temporary.parent):
            _make_folder(folder, mode=0o700 if self._is_private else 0o777)
        try:
            with temporary.open("xb") as target:
                yield target
                target.flush()
                if self._is_private:
                    os.fchmod(target.fileno(), 0o600)
                os.fsync(target.fileno())
            publish(temporary, final)
            flush_path(final.parent)
        finally:
            temporary.unlink(missing_ok=True)


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
        self._fs.invalidate_cache()  # a listing of a moment ago does not know what others have written or removed since
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

    def scan(self, folder: str) -> Iterator[FileInfo]:
        """Yield the objects directly in a folder."""
        self._fs.invalidate_cache()
        try:
            entries = self._fs.ls(self._at(folder), detail=True)
        except FileNotFoundError:
            return
        for entry in entries:
            if entry["type"] == "file" and entry["name"].rstrip("/") != self._at(folder):
                yield _describe(entry)

    def find(self, path: str) -> FileInfo | None:
        """Return an object, None if it is missing."""
        self._fs.invalidate_cache()
        try:
            return _describe(self._fs.info(self._at(path)))
        except FileNotFoundError:
            return None

    def remove_unfinished(self, before: float, *, dry_run: bool = False) -> tuple[int, int]:
        """Remove what writers left before a time, and return the number of objects and of their bytes.

        Parts of uploads that never ended are invisible. S3 lists them, but not their bytes.
        """
        count, size = _remove_temporary(self, before, dry_run=dry_run)
        if not hasattr(self._fs, "list_multipart_uploads"):
            return count, size
        bucket, _, prefix = self._root.partition("/")
        with contextlib.suppress(OSError, NotImplementedError):  # some stores list no uploads, or not for everybody
            for upload in self._fs.list_multipart_uploads(bucket):
                key, number = upload["Key"], upload["UploadId"]
                if key.startswith(f"{prefix}/" if prefix else "") and upload["Initiated"].timestamp() < before:
                    if not dry_run:
                        self._fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=number)
                    count += 1
        return count, size

    def keeps_versions(self) -> bool | None:
        """Tell whether the store keeps versions of removed objects. None if it does not say."""
        if not hasattr(self._fs, "call_s3"):
            return None
        try:
            found = self._fs.call_s3("get_bucket_versioning", Bucket=self._root.partition("/")[0])
        except (OSError, NotImplementedError):  # not everybody may ask
            return None
        return "Status" in found  # it may be suspended, but earlier versions stay

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"


Files = LocalFiles | ObjectFiles


def _remove_temporary(files: Files, before: float, *, dry_run: bool) -> tuple[int, int]:
    """Remove temporary files that were written before a time, and return their number and that of their bytes."""
    count = size = 0
    for file in files.scan(_TEMPORARY):
        if file.modified is not None and file.modified < before:
            if not dry_run:
                files.remove(f"{_TEMPORARY}/{file.name}")
            count, size = count + 1, size + file.size
    return count, size


def _describe(entry: dict[str, Any]) -> FileInfo:
    """Return an object as fsspec's implementations describe it, which name the time differently."""
    times = (entry.get(name) for name in ("LastModified", "mtime", "last_modified", "updated", "created"))
    found = next((time for time in times if time is not None), None)
    modified = found.timestamp() if isinstance(found, datetime) else found if isinstance(found, int | float) else None
    return FileInfo(entry["name"].rpartition("/")[2], entry["size"], modified)


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


def _make_folder(folder: Path, *, mode: int) -> None:
    """Make a folder and flush its parents, since a crash could otherwise lose the folder."""
    if folder.is_dir():
        return
    _make_folder(folder.parent, mode=mode)
    folder.mkdir(mode=mode, exist_ok=True)
    flush_path(folder.parent)
