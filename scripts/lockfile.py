"""A lock: exact versions with hashes and sizes, which pip reads as a requirements file."""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# `make lock` writes these markers only, so the installer needs no parser of markers to count packages.
MARKERS: dict[str, Callable[[], bool]] = {
    'python_full_version < "3.11.3"': lambda: sys.version_info < (3, 11, 3),
    'python_version < "3.12"': lambda: sys.version_info < (3, 12),
    'python_version >= "3.12"': lambda: sys.version_info >= (3, 12),
    'python_version < "3.13"': lambda: sys.version_info < (3, 13),
    'python_version >= "3.13"': lambda: sys.version_info >= (3, 13),
    'sys_platform == "linux"': lambda: sys.platform == "linux",
    'sys_platform == "darwin"': lambda: sys.platform == "darwin",
}

_SIZES = re.compile(r"# (\d+) bytes to download, (\d+) on disk$")
_PIN = re.compile(r"(?P<name>[\w.-]+)===?(?P<version>[^ ;\\]+)(?: *; *(?P<marker>[^\\]+?))? *\\?$")


def normalize(name: str) -> str:
    """Return the name of a distribution as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True)
class Pin:
    """One version of a distribution, and what it takes to download and to keep."""

    name: str
    version: str
    marker: str
    text: str
    download_bytes: int = 0
    disk_bytes: int = 0

    @property
    def is_needed_here(self) -> bool:
        """Return whether this Python and system need the distribution."""
        return not self.marker or MARKERS[self.marker]()


def read(path: Path) -> dict[str, Pin]:
    """Return the pins of a lock by their normalized names."""
    pins: dict[str, Pin] = {}
    sizes = (0, 0)
    lines = path.read_text(encoding="utf-8").splitlines()
    for position, line in enumerate(lines):
        if match := _SIZES.match(line):
            sizes = (int(match[1]), int(match[2]))
        elif match := _PIN.match(line):
            end = position
            while lines[end].endswith("\\"):
                end += 1
            pins[normalize(match["name"])] = Pin(
                name=match["name"],
                version=match["version"],
                marker=match["marker"] or "",
                text="\n".join(lines[position : end + 1]) + "\n",
                download_bytes=sizes[0],
                disk_bytes=sizes[1],
            )
            sizes = (0, 0)
    return pins


def read_needed(path: Path) -> list[Pin]:
    """Return the pins of a lock that this Python and system need."""
    return [pin for pin in read(path).values() if pin.is_needed_here]


def hash_files(*paths: Path) -> str:
    """Return the SHA-256 of the files' contents."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()
