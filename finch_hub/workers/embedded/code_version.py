"""Version of the code that a worker runs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from pathlib import Path

from finch_hub import errors


def current() -> str:
    """Return a hash of this package on disk, of the installed plugins, and of the Python environment."""
    package = Path(errors.__file__).parent
    # Not the executable: python, python3 and python3.11 of one environment run the same code. Links to it are followed.
    digest = hashlib.sha256(f"{Path(sys.prefix).resolve()} {sys.version}".encode())
    for file in sorted(package.rglob("*.py")):
        status = file.stat()
        digest.update(f"{file.relative_to(package)} {status.st_size} {status.st_mtime_ns}\n".encode())
    for point in sorted(importlib.metadata.entry_points(group="finch_hub"), key=lambda point: point.name):
        digest.update(f"{point.name} {point.value} {point.dist.version if point.dist else ''}\n".encode())
    return digest.hexdigest()
