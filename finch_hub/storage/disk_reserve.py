"""Reserve of a home: space that a deletion gets if the disk is full.

SQLite writes beside its file before it reads or deletes anything. So on a full disk nothing could be deleted, and no
space would ever become free.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

_NAME = "reserve"
_BYTES = 2**20
_LEAST_FREE = 2**26  # bytes, without which the disk is nearly full and the reserve is not filled again


def fill(home: Path) -> None:
    """Reserve the space, unless it is reserved or the disk is nearly full."""
    file = home / _NAME
    with contextlib.suppress(OSError):
        if file.exists() or shutil.disk_usage(home).free < _LEAST_FREE:
            return
        try:
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as reserve:
                reserve.write(os.urandom(_BYTES))  # some file systems store zeros in no space
        except FileExistsError:  # another process writes it
            return
        except OSError:
            release(home)


def release(home: Path) -> None:
    """Give the space back."""
    with contextlib.suppress(OSError):
        (home / _NAME).unlink(missing_ok=True)
