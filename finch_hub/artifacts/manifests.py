"""Manifest of a tree: the names of its files, with the digest and the size of each."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from finch_hub import errors

_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A file of a tree."""

    digest: str
    size: int


def parse(data: bytes, *, where: str) -> dict[str, Entry]:
    """Return the files of a manifest.

    Raises:
        RefusedArtifact: the manifest is not one, or names a file that is unsafe on some systems.
    """
    try:
        entries = {check_name(name): Entry(digest=blob, size=size) for name, (blob, size) in json.loads(data).items()}
        is_valid = all(
            _DIGEST.fullmatch(e.digest) and isinstance(e.size, int) and e.size >= 0 for e in entries.values()
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        is_valid = False
    if not is_valid:
        raise errors.RefusedArtifact("is not a manifest of files", where=where)
    return entries


def write(entries: Mapping[str, Entry]) -> bytes:
    """Return the manifest of files. Equal files have equal manifests."""
    files = {name: [entry.digest, entry.size] for name, entry in sorted(entries.items())}
    return json.dumps(files, sort_keys=True, separators=(",", ":")).encode()


def measure(stream: BinaryIO, copy: BinaryIO | None = None) -> Entry:
    """Return the digest and size of a stream; write its bytes to `copy` if given."""
    hashed, size = hashlib.sha256(), 0
    while chunk := stream.read(_CHUNK):
        hashed.update(chunk)
        size += len(chunk)
        if copy is not None:
            copy.write(chunk)
    return Entry(digest=hashed.hexdigest(), size=size)


def list_files(folder: Path) -> list[Path]:
    """Return a folder's files, sorted.

    Raises:
        RefusedArtifact: with every entry that is not a regular file or folder with a safe name.
    """
    found: list[Path] = []
    problems: list[errors.Problem] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            problems.append(errors.Problem(where=name, what="is not a regular file"))
        elif path.is_file():
            try:
                check_name(name)
            except errors.RefusedArtifact as error:
                problems.extend(error.problems)
            else:
                found.append(path)
    if problems:
        raise errors.RefusedArtifact(problems, subject=str(folder))
    return found


def is_held(folder: Path, entries: Mapping[str, Entry]) -> bool:
    """Tell whether a cached folder still has these bytes."""
    for name, entry in entries.items():
        try:
            with (folder / name).open("rb") as stream:
                if measure(stream) != entry:
                    return False
        except OSError:
            return False
    return True


def check_name(name: Any) -> str:
    """Return a tree's file name if it stays inside the tree on every system.

    Raises:
        RefusedArtifact: the name does not.
    """
    parts = name.split("/") if isinstance(name, str) else [""]
    if any(part in ("", ".", "..") or not part.isprintable() or set(part) & set('\\:*?"<>|') for part in parts):
        raise errors.RefusedArtifact("is not a safe file name", where=repr(name))
    return "/".join(parts)
