"""Data files as streams: decompressed, with the format of their content."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib
import io
import itertools
import lzma
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from finch_hub import errors
from finch_hub.artifacts.archives import DAMAGE
from finch_hub.specs.options import name_option
from finch_hub.specs.reading import FileFormat

STDIN = "-"
_SUFFIX_FORMATS: dict[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
ADDRESS_FIX = "download the file and name it, or give the rows in Python"
SUFFIXES = tuple(_SUFFIX_FORMATS)
_COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
_ADVICE = {
    "a spreadsheet": ("save it as CSV", ".xlsx .xls .xlsm .xlsb .ods .numbers"),
    "a document": ("copy its texts into a CSV or JSON Lines file", ".docx .doc .odt .rtf .pdf .pptx"),
    "an archive": ("unpack it and name the folder or file", ".zip .tar .tgz .7z .rar"),
    "a pickle, which can run code": ("save the rows as Parquet or JSON Lines", ".pkl .pickle .pt .pth .npy .npz"),
    "a database": ("export the rows as CSV or Parquet", ".db .sqlite .sqlite3 .duckdb"),
}
# First bytes of files whatever their names, and what they are.
_SIGNATURES = (
    (b"PK\x03\x04", "an archive, a spreadsheet or a document", "unpack it, or save it as CSV"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a spreadsheet or document of old Office versions", "save it as CSV"),
    (b"%PDF-", "a PDF document", "copy its texts into a CSV or JSON Lines file"),
    (b"{\\rtf", "a document", "copy its texts into a CSV or JSON Lines file"),
    (b"SQLite format 3\0", "a database", "export the rows as CSV or Parquet"),
    (b"version https://git-lfs", "a pointer of Git LFS instead of the file", "fetch the file with `git lfs pull`"),
    (b"<!doctype html", "a web page", "download the file itself"),
    (b"<html", "a web page", "download the file itself"),
)
# A bomb is a small file that decompresses to an enormous one. Texts shrink to a tenth, copies of one row to less.
FREE_BYTES = 2**30
MAX_EXPANSION = 200
_CHUNK = 2**20  # bytes
_PIPE_LOOKS, _LOOK_SECONDS = 200, 0.05  # for a writer
_MAX_TRIED = 1_000  # files of a folder, to tell whether it holds data


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """An open data file.

    Attributes:
        stream: decompressed content, seekable, at its beginning.
        format: format of the content.
        compression: name of a compression that the file's name does not tell; empty without one.
    """

    stream: BinaryIO
    format: FileFormat
    compression: str = ""


@contextlib.contextmanager
def open_file(path: Path | str, file_format: FileFormat | None = None) -> Iterator[DataFile]:
    """Open a data file, or standard input for "-".

    The first bytes tell the compression, Parquet and Arrow. Otherwise the format is `file_format`, that of the suffix,
    or for a file without a suffix that of the content.

    Raises:
        InvalidDataset: the file has no format that can be read, or cannot be decompressed.
    """
    with contextlib.ExitStack() as stack:
        stream = _open_stream(path, stack)
        compression, decompress = _recognize_compression(_peek(stream))
        if decompress is not None:
            stream = _decompress(stream, compression, decompress, stack)
        name = "" if path == STDIN else Path(path).name.lower()
        yield DataFile(
            stream=stream,
            format=_recognize_format(_peek(stream), name, file_format),
            compression="" if name.endswith(_COMPRESSED) else compression,
        )


def exists(path: Path) -> bool:
    """Tell whether a path exists. One that the system refuses, such as a too long name, does not."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises an OSError


def list_neighbors(path: Path) -> list[str]:
    """Return the paths of data files, and of folders with some, beside a path; none if it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return [str(path.parent / other.name) for other in path.parent.iterdir() if _may_be_meant(other)]
    return []


def _may_be_meant(path: Path) -> bool:
    """Tell whether a path is a data file, or a folder with a data file among its first ones."""
    if path.is_file():
        return is_data_file(path)
    with contextlib.suppress(OSError):
        return any(map(is_data_file, itertools.islice(path.iterdir(), _MAX_TRIED)))
    return False


def is_data_file(path: Path) -> bool:
    """Tell whether the suffix of a file is that of a format that can be read."""
    return _suffix_of(path.name.lower()) in SUFFIXES


def is_unreadable(path: Path) -> bool:
    """Tell whether a file probably holds data in a format that cannot be read."""
    suffix = _suffix_of(path.name.lower())
    return suffix == ".txt" or any(suffix in suffixes.split() for _, suffixes in _ADVICE.values())


def _suffix_of(name: str) -> str:
    """Return the suffix of a file before that of a compression."""
    path = Path(name)
    return (Path(path.stem) if path.suffix in _COMPRESSED else path).suffix


def _open_stream(path: Path | str, stack: contextlib.ExitStack) -> BinaryIO:
    """Return a seekable stream: the file itself, or a copy of what comes through a pipe."""
    if path == STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            fix = "pipe a file into the command, or name a file"
            raise errors.InvalidDataset("is a terminal, which has no data", fix=fix)
        if not hasattr(sys.stdin, "buffer"):
            raise errors.InvalidDataset("has no bytes, since a program replaced it", fix="name a file, or give rows")
        stream: BinaryIO = sys.stdin.buffer
    else:
        return _open_path(Path(path), stack)
    return _copy(iter(lambda: stream.read(_CHUNK), b""), stack)


def _open_path(path: Path, stack: contextlib.ExitStack) -> BinaryIO:
    try:
        # Without a writer, a pipe would block here.
        stream = stack.enter_context(os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb"))
        kind = os.fstat(stream.fileno()).st_mode
        if stat.S_ISFIFO(kind):
            return _open_pipe(stream, stack)
        if not stat.S_ISREG(kind):  # such as /dev/zero, which never ends
            raise errors.InvalidDataset(
                "is a device or a socket, not a file", fix='name a file, or pipe the data into "-"'
            )
        stream.peek(1)  # the system lets some files be opened, but not be read
        return stream
    except OSError as error:
        is_link = path.is_symlink() and not exists(path)
        fix = "fetch the file that the link names, or remove the link" if is_link else "check its permissions"
        raise errors.InvalidDataset(f"cannot be opened: {error.strerror}", fix=fix) from None


def _open_pipe(pipe: io.BufferedReader, stack: contextlib.ExitStack) -> BinaryIO:
    """Return a copy of what comes through a named pipe, once a program writes to it."""
    number = pipe.fileno()
    for _ in range(_PIPE_LOOKS):
        with contextlib.suppress(BlockingIOError):  # a writer has opened it
            if not (begin := os.read(number, _CHUNK)):
                time.sleep(_LOOK_SECONDS)
                continue
            return _copy_pipe(number, begin, stack)
        return _copy_pipe(number, b"", stack)
    raise errors.InvalidDataset("is a pipe to which no program writes", fix="start the program that writes to it")


def _copy_pipe(number: int, begin: bytes, stack: contextlib.ExitStack) -> BinaryIO:
    os.set_blocking(number, True)
    return _copy(itertools.chain([begin], iter(lambda: os.read(number, _CHUNK), b"")), stack)


@contextlib.contextmanager
def translate_write_errors() -> Iterator[None]:
    """Raise `Unavailable` if a temporary file cannot be made or written."""
    try:
        yield
    except OSError as error:
        what = f"could not write to {tempfile.tempdir or 'a temporary folder'}: {error.strerror}"
        raise errors.Unavailable(f"{what} (free space there, or name another folder in TMPDIR)") from None


def close_temporary(file: IO[bytes]) -> None:
    """Close a temporary file. What could not be written to it was reported before."""
    with contextlib.suppress(OSError):
        file.close()


def _copy(content: Iterable[bytes], stack: contextlib.ExitStack) -> BinaryIO:
    """Return the content as a file without a name, which exists until the stack ends."""
    with translate_write_errors():
        copy = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
    stack.callback(close_temporary, copy)
    for chunk in content:
        with translate_write_errors():
            copy.write(chunk)
    with translate_write_errors():
        copy.seek(0)
    return copy


def _peek(stream: BinaryIO) -> bytes:
    head = stream.read(64)
    stream.seek(0)
    return head


def _recognize_compression(head: bytes) -> tuple[str, Callable[[BinaryIO], IO[bytes]] | None]:
    if head.startswith(b"\x1f\x8b"):
        return "gzip", lambda stream: cast("IO[bytes]", gzip.open(stream))
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd", _open_zstd
    if head.startswith(b"BZh"):
        return "bzip2", lambda stream: cast("IO[bytes]", bz2.open(stream))
    if head.startswith(b"\xfd7zXZ\0"):
        return "xz", lambda stream: lzma.open(stream)
    return "", None


def _open_zstd(stream: BinaryIO) -> IO[bytes]:
    """Return the decompressed stream. Python has zstd since 3.14, and pyarrow comes with it."""
    with contextlib.suppress(ImportError):
        zstd: Any = importlib.import_module("compression.zstd")
        return cast("IO[bytes]", zstd.open(stream))
    with contextlib.suppress(ImportError):
        pyarrow: Any = importlib.import_module("pyarrow")
        return cast("IO[bytes]", pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, mode="r"), "zstd"))
    raise errors.InvalidDataset("is compressed with zstd, which needs pyarrow", fix="pip install 'finch-hub[parquet]'")


def _decompress(
    stream: BinaryIO, name: str, decompress: Callable[[BinaryIO], IO[bytes]], stack: contextlib.ExitStack
) -> BinaryIO:
    """Copy the decompressed content to a temporary file, since readers go back to the beginning."""
    size = stream.seek(0, 2)
    stream.seek(0)
    budget = FREE_BYTES + MAX_EXPANSION * size
    try:
        with decompress(stream) as content:
            return _copy(_read_within(content, budget), stack)
    except DAMAGE as error:
        what = f"cannot be decompressed with {name}: {error}"
        raise errors.InvalidDataset(what, fix="the file is damaged or not complete; copy it again") from None


def _read_within(content: IO[bytes], budget: int) -> Iterator[bytes]:
    while chunk := content.read(_CHUNK):
        budget -= len(chunk)
        if budget < 0:
            what = f"decompresses to more than {MAX_EXPANSION} times its size, as damaged or hostile files do"
            raise errors.InvalidDataset(what, fix="decompress it yourself if you trust it")
        yield chunk


def _recognize_format(head: bytes, name: str, named: FileFormat | None) -> FileFormat:
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    for signature, kind, fix in _SIGNATURES:
        if head.lower().startswith(signature.lower()):
            raise errors.InvalidDataset(f"is {kind}, which cannot be read as rows", fix=fix)
    if named is not None:
        return named
    suffix = _suffix_of(name)
    if suffix in _SUFFIX_FORMATS:
        return _SUFFIX_FORMATS[suffix]
    for kind, (fix, suffixes) in _ADVICE.items():
        if suffix in suffixes.split():
            raise errors.InvalidDataset(f"is {kind} ({suffix}), which cannot be read as rows", fix=fix)
    if suffix:
        what = f"is a {suffix} file, not one of {', '.join(SUFFIXES)}"
        raise errors.InvalidDataset(what, fix=f"convert it, or name its format with {name_option('file_format')}")
    text = head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    return "jsonl" if text.startswith((b"{", b"[")) else "csv"
