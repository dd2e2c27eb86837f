"""Version of the code that a worker runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

from finch_hub import errors
from finch_hub.plugins.installed import find_installed, hash_environment


def current() -> str:
    """Return a hash of this package on disk, of the code of the installed plugins, and of the Python environment."""
    package = Path(errors.__file__).parent
    digest = hashlib.sha256(hash_environment().encode())
    for file in sorted(package.rglob("*.py")):
        status = file.stat()
        digest.update(f"{file.relative_to(package)} {status.st_size} {status.st_mtime_ns}\n".encode())
    for plugin in find_installed()[0]:
        digest.update(plugin.hash_code().encode())
    return digest.hexdigest()
