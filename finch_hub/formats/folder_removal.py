"""Removal of folders, and the bytes that it frees."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path


def measure_folder(folder: Path) -> int:
    """Return the bytes of the files below a folder. A file with several names counts once."""
    sizes: dict[tuple[int, int], int] = {}
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                info = Path(root, name).lstat()
                sizes[info.st_dev, info.st_ino] = info.st_size
    return sum(sizes.values())


def remove_folder(folder: Path) -> int:
    """Remove a folder with all that is in it, and return the bytes of its files. Ignore a missing one.

    It loses its name first, so that nobody takes a half of it for the folder. What a killed process leaves has the name
    of an abandoned folder (see `atomic_writes.list_abandoned`).

    Raises:
        OSError: something in it cannot be removed.
    """
    size = measure_folder(folder)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder.rename(folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")))
    return size
