"""Reading of untrusted zip and tar archives: only the files that are needed, under names of our own, within limits."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from finch_hub import errors
from finch_hub.formats import git_lfs
from finch_hub.formats.atomic_writes import is_disk_full
from finch_hub.formats.regular_files import open_regular_file

MAX_FILES = 100_000
MAX_RATIO = 200
"""Unpacked bytes for each packed byte; weights hardly shrink, and JSON not that much."""
DAMAGE: tuple[type[Exception], ...] = (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error)
DAMAGE += (EOFError, OSError, ValueError, NotImplementedError, RuntimeError)
"""What readers of compressed files raise if a file is damaged, has an unknown compression or a password."""
with contextlib.suppress(ImportError):  # Python has zstd since 3.14
    DAMAGE += (importlib.import_module("compression.zstd").ZstdError,)
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
OTHER_SUFFIXES = (".rar", ".7z", ".gz", ".bz2", ".xz", ".zst")
"""Of archives and compressed files that `open_archive` does not know."""
_HARMLESS_BYTES = 2**20  # any ratio is allowed below
_CHUNK_BYTES = 2**20
_WINDOWS = 0  # the system that made a zip
_MAX_READ = 2**26  # tarfile reads extended headers at once, at their declared size
_MAX_BLOCKS = 6  # for each entry: two extended headers, which have long names, their contents and its own header
# The first bytes decide, because gzip archives are often named .tar.
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_OPENERS: Mapping[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_SYSTEM_FILES = frozenset({".DS_Store", "Icon", "Thumbs.db", "desktop.ini", "ehthumbs.db"})


def is_archive(path: Path) -> bool:
    """Tell by its name whether a file is an archive that `open_archive` knows."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def is_leftover(name: str) -> bool:
    """Tell whether macOS or Windows left a file of this path in a folder or archive."""
    parts = name.split("/")
    return "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1].rstrip("\r") in _SYSTEM_FILES


@dataclass(frozen=True, kw_only=True, slots=True)
class _Member:
    """An entry of an archive.

    Attributes:
        name: normalized path. Several names can mean one file, such as "a/x", "./a/x" and "a//x".
        fault: reason not to read it, or empty.
    """

    name: str
    size: int
    fault: str
    info: Any


class Archive:
    """An open archive.

    Attributes:
        files: normalized paths of its files, also of links and others that cannot be extracted.
        leftovers: names of what macOS and Windows left in it.
    """

    def __init__(
        self, path: Path, entries: list[_Member | None], read: Callable[[Any], IO[bytes]], limit: _Limit
    ) -> None:
        """Check the names of all entries.

        Args:
            entries: None for each folder, because folders are made where they are needed.
        """
        limit.check_entries(len(entries))
        members = [entry for entry in entries if entry is not None]
        outside = [
            errors.Problem(where=repr(m.name), what="lies outside the folder") for m in members if _is_outside(m)
        ]
        if outside:
            raise errors.RefusedArtifact(outside, subject=path.name)
        kept = [member for member in members if member.name != "." and not is_leftover(member.name)]
        self.files = tuple(dict.fromkeys(member.name for member in kept))
        self.leftovers = tuple(sorted({_shorten(member.name) for member in members if is_leftover(member.name)}))
        self._path, self._read, self._limit = path, read, limit
        self._members = {member.name: member for member in kept}
        self._times = Counter(member.name for member in kept)

    def size(self, name: str) -> int:
        """Return the number of bytes that a file of `files` claims to have."""
        return self._members[name].size

    def extract(self, targets: Mapping[str, Path]) -> None:
        """Write some files to new paths.

        Args:
            targets: path for each name in `files`.

        Raises:
            RefusedArtifact: with every file that is a link or device, is encrypted, or is in the archive twice. Also if
                they have too many bytes, or the archive is damaged.
        """
        members = [self._members[name] for name in targets]
        problems = [errors.Problem(where=repr(m.name), what=m.fault) for m in members if m.fault]
        problems += [errors.Problem(where=repr(n), what="is in it twice") for n in targets if self._times[n] > 1]
        if problems:
            raise errors.RefusedArtifact(problems, subject=self._path.name)
        self._limit.check(sum(member.size for member in members))
        for member in members:
            with self._read(member.info) as stream, targets[member.name].open("xb") as out:
                while chunk := stream.read(_CHUNK_BYTES):
                    self._limit.spend(len(chunk))
                    out.write(chunk)


@contextlib.contextmanager
def open_archive(path: Path, *, max_bytes: int) -> Iterator[Archive]:
    """Open an archive and read the names of its files.

    Args:
        max_bytes: of the files that are extracted.

    Raises:
        RefusedArtifact: with every entry that lies outside the folder. Also if the archive has too many files, unpacks
            to too many bytes, or is damaged. Damage may be found while the archive is open.
    """
    with open_regular_file(path) as stream:  # once, since something else may be at the path a moment later
        try:
            start = stream.read(len(git_lfs.POINTER))
        except OSError as error:  # the system lets some files be opened, but not be read
            raise errors.RefusedArtifact(f"cannot be read: {error.strerror}", subject=path.name) from None
        git_lfs.check_content(start, name=path.name)
        stream.seek(0)
        limit = _Limit(path.name, os.fstat(stream.fileno()).st_size, max_bytes)
        opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
        is_zip = start.startswith(_ZIP) or (opener is None and path.name.lower().endswith(".zip"))
        try:
            with _zip(path, stream, limit) if is_zip else _tar(path, stream, opener, limit) as archive:
                yield archive
        except DAMAGE as error:
            if isinstance(error, OSError) and is_disk_full(error):  # where files are extracted to
                raise
            what, fix = _describe_damage(error, is_zip=start.startswith(_ZIP))
            raise errors.RefusedArtifact(f"cannot be unpacked: {what}", fix=fix, subject=path.name) from None


def _describe_damage(error: Exception, *, is_zip: bool) -> tuple[str, str]:
    """Return what is wrong with an archive, and what to do. The text names no file, which may be a temporary one."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror, ""
    signs = ["unexpected end", "truncated", *(["not a zip file"] if is_zip else [])]
    if isinstance(error, EOFError) or any(sign in str(error) for sign in signs):
        return "it ends too early, so that a part is missing", "copy or download it again"
    return f"{type(error).__name__}: {error}", ""


class _Limit:
    """Limit of the bytes that an archive may unpack to, whatever it declares."""

    def __init__(self, name: str, size: int, max_bytes: int) -> None:
        self._name = name
        self.limit = min(max_bytes, max(_HARMLESS_BYTES, size * MAX_RATIO))
        self._spent = 0

    def spend(self, count: int) -> None:
        """Count unpacked bytes."""
        self._spent += count
        self.check(self._spent)

    def check(self, total: int) -> None:
        """Refuse the archive if this many bytes are too many."""
        if total > self.limit:
            what = f"unpacks to more than {self.limit} bytes, which is the limit or {MAX_RATIO} times its own size"
            raise errors.RefusedArtifact(what, subject=self._name)

    def check_entries(self, count: int) -> None:
        """Refuse the archive if this many entries are too many."""
        if count > MAX_FILES:
            raise errors.RefusedArtifact(f"has more than {MAX_FILES} entries", subject=self._name)


@contextlib.contextmanager
def _zip(path: Path, stream: BinaryIO, limit: _Limit) -> Iterator[Archive]:
    with zipfile.ZipFile(stream) as opened:
        yield Archive(path, [_zip_entry(info) for info in opened.infolist()], opened.open, limit)


def _zip_entry(info: zipfile.ZipInfo) -> _Member | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    # Old tools of Windows write its own separator, against the format.
    path = info.orig_filename.replace("\\", "/") if info.create_system == _WINDOWS else info.orig_filename
    if path.endswith("/"):
        return None
    fault = "is encrypted" if info.flag_bits & 1 else ""
    if kind not in (0, stat.S_IFREG):
        fault = "is a link or a device"
    return _Member(name=_normalize(path), size=info.file_size, fault=fault, info=info)


@contextlib.contextmanager
def _tar(path: Path, stream: BinaryIO, opener: Callable[..., Any] | None, limit: _Limit) -> Iterator[Archive]:
    reading = contextlib.nullcontext(stream) if opener is None else opener(stream, "rb")
    with reading as unpacked, tarfile.open(fileobj=_Bounded(unpacked, limit), mode="r:") as opened:
        entries: list[_Member | None] = []
        for info in opened:
            entries.append(None if info.isdir() else _tar_member(info))
            limit.check_entries(len(entries))

        if opener is None:
            # tarfile takes a part of a header for the end. Compressed streams raise an error themselves.
            unpacked.seek(opened.offset)
            if 0 < len(unpacked.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
                raise EOFError

        def read(info: tarfile.TarInfo) -> IO[bytes]:
            stream = opened.extractfile(info)
            if stream is None:
                raise AssertionError("only regular files are read")
            return stream

        yield Archive(path, entries, read, limit)


def _tar_member(info: tarfile.TarInfo) -> _Member:
    fault = "" if info.isreg() and not info.issparse() else "is a link, a device or has holes"
    return _Member(name=_normalize(info.name), size=info.size, fault=fault, info=info)


class _Bounded(io.RawIOBase):
    """An unpacked stream that refuses reads and seeks beyond the limit, and too many headers."""

    def __init__(self, stream: IO[bytes], limit: _Limit) -> None:
        self._stream = stream
        self._limit = limit
        self._num_blocks = 0

    def read(self, size: int = -1) -> bytes:
        # An entry can have hundreds of extended headers, each of which takes as long as an entry.
        self._num_blocks += size == tarfile.BLOCKSIZE
        self._limit.check_entries(self._num_blocks // _MAX_BLOCKS)
        if not 0 <= size <= _MAX_READ:
            self._limit.check(self._limit.limit + 1)
        data = self._stream.read(size)
        self._limit.check(self.tell() // 2)  # headers and padding are not counted as files
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == io.SEEK_SET:
            self._limit.check(offset // 2)  # a compressed stream unpacks everything that it skips
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def _normalize(name: str) -> str:
    return str(PurePosixPath(name))


def _shorten(name: str) -> str:
    return "__MACOSX/" if "__MACOSX" in name.split("/") else name


def _is_outside(member: _Member) -> bool:
    return member.name.startswith("/") or ".." in member.name.split("/")
