"""Opening of untrusted files: regular ones only, since a pipe or device could block or never end."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from finch_hub import errors

MAX_BYTES = 2**26
"""Most bytes of a file that is read whole, such as a config or an index of shards."""

_PART_BYTES = 2**20  # a read takes memory for all that it may return


def open_regular_file(path: Path) -> io.BufferedReader:
    """Open a regular file for reading. Links are followed.

    Raises:
        RefusedArtifact: the path is not a regular file, or cannot be read.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe without a writer would block
    except (OSError, ValueError) as error:
        raise _refuse(path, f"cannot be read: {getattr(error, 'strerror', error)}") from None
    if stat.S_ISREG(os.fstat(number).st_mode):
        return os.fdopen(number, "rb")
    os.close(number)
    raise _refuse(path, "is not a regular file")


def read_regular_file(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a regular file.

    Raises:
        RefusedArtifact: the path is not a regular file, has more than `max_bytes`, or cannot be read.
    """
    with open_regular_file(path) as stream:
        content = bytearray()
        try:
            while len(content) <= max_bytes and (part := stream.read(_PART_BYTES)):
                content += part
        except OSError as error:
            raise _refuse(path, f"cannot be read: {error.strerror}") from None
    if len(content) > max_bytes:
        raise _refuse(path, f"has more than {max_bytes:,} bytes")
    return bytes(content)


def find_links_out(folder: Path, files: Iterable[Path]) -> list[errors.Problem]:
    """Return the problems of files that are links to places outside of their folder.

    Files in the Hugging Face cache are links from `snapshots/COMMIT` to `blobs`, which belong together.
    """
    root = _real(folder)
    roots = [root, root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [root]
    what, fix = "is a link to a place outside of the folder, which is not followed", "put the file itself in its place"
    return [
        errors.Problem(where=file.name, what=what, fix=fix)
        for file in files
        if not any(_real(file).is_relative_to(inside) for inside in roots)
    ]


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises an error for a link to itself


def _refuse(path: Path, what: str) -> errors.RefusedArtifact:
    return errors.RefusedArtifact(what, subject=path.name)
