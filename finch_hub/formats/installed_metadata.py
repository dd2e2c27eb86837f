"""Files in which installers keep what they know of a distribution: metadata, entry points, record of files.

The standard library opens whatever has such a name, and a pipe blocks it for ever. One line of one distribution that is
no entry point makes it fail for all, and pydantic, torch and fsspec with it.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
from pathlib import Path

from finch_hub import errors
from finch_hub.formats.regular_files import read_regular_file


class CheckedDistribution(importlib.metadata.PathDistribution):
    """A distribution whose metadata are read from regular files only.

    Attributes:
        folder: folder of the metadata.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def read_text(self, filename: str | os.PathLike[str]) -> str | None:
        """Return the text of a file, None if there is none.

        Raises:
            RefusedArtifact: it is not a regular file, or too large.
            UnicodeDecodeError: it is not UTF-8.
        """
        content = _read(self.folder / filename)
        return None if content is None else content.decode()


@functools.cache  # what a process has loaded stays, and its metadata take milliseconds to read
def find_version(package: str) -> str | None:
    """Return the version of an installed package, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def read_leniently() -> None:
    """Let this process and those that it starts pass over metadata that cannot be read, whoever asks for them.

    Call it in processes of this package only. Programs that import the package read as they like.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # pydantic looks for plugins before this can be called
    if importlib.metadata.PathDistribution.read_text is not _read_leniently:
        importlib.metadata.PathDistribution.read_text = _read_leniently  # type: ignore[method-assign, assignment]


_read_anything = importlib.metadata.PathDistribution.read_text


def _read_leniently(self: importlib.metadata.PathDistribution, filename: str) -> str | None:
    folder = getattr(self, "_path", None)
    if not isinstance(folder, Path):  # in a zip archive
        return _read_anything(self, filename)
    try:
        content = _read(folder / filename)
    except errors.RefusedArtifact:
        return None
    if content is None:
        return None
    text = content.decode(errors="replace")
    if filename == "entry_points.txt":
        text = "\n".join(line for line in text.splitlines() if is_entry(line))
    return text


def is_entry(line: str) -> bool:
    """Tell whether a line of a list of entry points can be read."""
    line = line.strip()
    return not line or line[0] == "#" or (line[0] == "[" and line[-1] == "]") or "=" in line


def _read(path: Path) -> bytes | None:
    if not path.exists() or path.is_dir():
        return None
    return read_regular_file(path)
