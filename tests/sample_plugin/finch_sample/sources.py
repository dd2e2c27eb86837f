"""Base source: archives of model folders."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from finch_hub.specs.jobs import BaseModelSource

_SCHEME = "archive:"


def is_archive(source: str) -> bool:
    """Tell whether the text names an archive, from the text alone."""
    return source.startswith(_SCHEME)


def fetch(source: BaseModelSource, *, cache: Path, progress: Callable[[str], None]) -> Path:
    """Unpack the archive once, into a folder that is named after its content."""
    archive = Path(source.source.removeprefix(_SCHEME))
    with archive.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    folder = cache / f"archive-{digest}"
    if not folder.exists():
        progress(f"unpacking {archive.name}")
        shutil.unpack_archive(archive, folder)
    return folder
