"""Unpacking of untrusted zip and tar archives: regular files only, inside the folder, within limits."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib
import io
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from finch_hub import errors

MAX_FILES = 1000
MAX_RATIO = 200
"""Unpacked bytes for each packed byte; weights hardly shrink, and JSON not that much."""
DAMAGE: tuple[type[Exception], ...] = (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error)
DAMAGE += (EOFError, OSError, ValueError, NotImplementedError, RuntimeError)
"""What readers of compressed files raise if a file is damaged, has an unknown compression or a password."""
with contextlib.suppress(ImportError):  # Python has zstd since 3.14
    DAMAGE += (importlib.import_module("compression.zstd").ZstdError,)
_HARMLESS_BYTES = 2**20  # any ratio is allowed below
_CHUNK_BYTES = 2**20
_WINDOWS = 0  # the system that made a zip
_MAX_READ = 2**26  # tarfile reads extended headers at once, at their declared size
_OPENERS: Mapping[str, Callable[..., Any]] = {
    ".tar": open,
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.bz2": bz2.open,
    ".tar.xz": lzma.open,
}
_SYSTEM_FILES = frozenset({".DS_Store", "Icon", "Thumbs.db", "desktop.ini", "ehthumbs.db"})


def is_archive(path: Path) -> bool:
    """Tell by its name whether a file is an archive that `unpack` knows."""
    return path.is_file() and path.name.lower().endswith((".zip", *_OPENERS))


class Unpacked(NamedTuple):
    """The folder of an archive's files, and the names of what macOS and Windows left in it, which is not unpacked."""

    folder: Path
    leftovers: tuple[str, ...]


def is_leftover(name: str) -> bool:
    """Tell whether macOS or Windows left a file of this path in a folder or archive."""
    parts = name.split("/")
    return "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1].rstrip("\r") in _SYSTEM_FILES


def unpack(archive: Path, into: Path, *, max_bytes: int) -> Unpacked:
    """Unpack an archive into a new folder.

    Raises:
        RefusedArtifact: with every entry that is a link or device, is encrypted, has a repeated name or lies outside
            the folder. Also if the archive has too many files, unpacks to too many bytes, or is damaged.
    """
    allowance = _Allowance(archive, max_bytes)
    kind = _zip if archive.name.lower().endswith(".zip") else _tar
    try:
        with kind(archive, allowance) as (members, opened):
            leftovers = sorted({_shorten(member.name) for member in members if is_leftover(member.name)})
            members = [member for member in members if not is_leftover(member.name)]
            _check(archive, members, allowance)
            into.mkdir(parents=True)
            for member in members:
                if not member.is_folder:
                    target = into / member.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with opened(member) as stream, target.open("xb") as out:
                        while chunk := stream.read(_CHUNK_BYTES):
                            allowance.spend(len(chunk))
                            out.write(chunk)
    except DAMAGE as error:
        shutil.rmtree(into, ignore_errors=True)
        what = f"cannot be unpacked: {type(error).__name__}: {error}"
        raise errors.RefusedArtifact(what, subject=archive.name) from None
    return Unpacked(into, tuple(leftovers))


class _Member(NamedTuple):
    """An entry of an archive; `fault` is the reason to refuse it, or empty."""

    name: str
    size: int
    is_folder: bool
    fault: str
    info: Any


class _Allowance:
    """Limit of the bytes that an archive may unpack to, whatever it declares."""

    def __init__(self, archive: Path, max_bytes: int) -> None:
        self._archive = archive
        self.limit = min(max_bytes, max(_HARMLESS_BYTES, archive.stat().st_size * MAX_RATIO))
        self._spent = 0

    def spend(self, count: int) -> None:
        """Count unpacked bytes."""
        self._spent += count
        self.check(self._spent)

    def check(self, total: int) -> None:
        """Refuse the archive if this many bytes are too many."""
        if total > self.limit:
            what = f"unpacks to more than {self.limit} bytes, which is the limit or {MAX_RATIO} times its own size"
            raise errors.RefusedArtifact(what, subject=self._archive.name)


def _check(archive: Path, members: Sequence[_Member], allowance: _Allowance) -> None:
    problems = [errors.Problem(where=repr(member.name), what=member.fault) for member in members if member.fault]
    repeated = [name for name, times in Counter(member.name for member in members).items() if times > 1]
    problems += [errors.Problem(where=repr(name), what="is in it twice") for name in repeated]
    if len(members) > MAX_FILES:
        problems.append(errors.Problem(what=f"has {len(members)} entries, more than {MAX_FILES}"))
    if problems:
        raise errors.RefusedArtifact(problems[:MAX_FILES], subject=archive.name)
    allowance.check(sum(member.size for member in members))


@contextlib.contextmanager
def _zip(archive: Path, _: _Allowance) -> Iterator[Any]:
    with zipfile.ZipFile(archive) as opened:
        yield [_zip_member(info) for info in opened.infolist()], lambda member: opened.open(member.info)


def _zip_member(info: zipfile.ZipInfo) -> _Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    # Old tools of Windows write its own separator, against the format.
    path = info.orig_filename.replace("\\", "/") if info.create_system == _WINDOWS else info.orig_filename
    fault = _fault_of_name(path)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        fault = "is a link or a device"
    elif info.flag_bits & 1:
        fault = "is encrypted"
    return _Member(_normal(path.partition("\0")[0]), info.file_size, path.endswith("/"), fault, info)


@contextlib.contextmanager
def _tar(archive: Path, allowance: _Allowance) -> Iterator[Any]:
    opener = next(opener for suffix, opener in _OPENERS.items() if archive.name.lower().endswith(suffix))
    with opener(archive, "rb") as unpacked, tarfile.open(fileobj=_Bounded(unpacked, allowance), mode="r:") as opened:
        members = []
        for info in opened:
            members.append(_tar_member(info))
            if len(members) > MAX_FILES:
                break
        yield [member for member in members if member.name != "."], lambda member: opened.extractfile(member.info)


def _tar_member(info: tarfile.TarInfo) -> _Member:
    fault = _fault_of_name(info.name)
    if not (info.isreg() or info.isdir()) or info.issparse():
        fault = "is a link, a device or has holes"
    return _Member(_normal(info.name), info.size, info.isdir(), fault, info)


class _Bounded(io.RawIOBase):
    """An unpacked stream that refuses reads and seeks beyond the allowance."""

    def __init__(self, stream: IO[bytes], allowance: _Allowance) -> None:
        self._stream = stream
        self._allowance = allowance

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_READ:
            self._allowance.check(self._allowance.limit + 1)
        data = self._stream.read(size)
        self._allowance.check(self.tell() // 2)  # headers and padding are not counted as files
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == io.SEEK_SET:
            self._allowance.check(offset // 2)  # a compressed stream unpacks everything that it skips
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def _shorten(name: str) -> str:
    return "__MACOSX/" if "__MACOSX" in name.split("/") else name


def _normal(name: str) -> str:
    return name.removeprefix("./").rstrip("/") or "."


def _fault_of_name(name: str) -> str:
    parts = _normal(name).split("/")
    if name.startswith("/") or ".." in parts or "" in parts:
        return "lies outside the folder"
    if not name.isprintable() or set(name) & set('\\:*?"<>|') or max(map(len, parts)) > 255:
        return "has a name that is unsafe on some systems"
    return ""
