"""Inventory of an artifact store: which blobs and trees there are, how large and how old."""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Iterator
from typing import Literal, NamedTuple

from finch_hub import errors
from finch_hub.artifacts.store import ArtifactStore, blob_path, tree_path

Kind = Literal["blobs", "trees"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
KINDS: tuple[Kind, ...] = ("blobs", "trees")
_PATHS = {"blobs": blob_path, "trees": tree_path}


class StoredArtifact(NamedTuple):
    """A blob, or the manifest of a tree.

    Attributes:
        size: bytes.
        modified: time of its last write by the clock of the store, in seconds since 1970; None if it is unknown.
    """

    kind: Kind
    digest: str
    size: int
    modified: float | None

    @property
    def path(self) -> str:
        """Path in the store."""
        return _PATHS[self.kind](self.digest)


def is_digest(value: object) -> bool:
    """Return whether a value is a digest, of which alone a store has artifacts."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def list_artifacts(store: ArtifactStore, kind: Kind) -> Iterator[list[StoredArtifact]]:
    """Yield the blobs or the trees of a store, one folder of it at a time.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    for folder in store.list_named(kind):
        with store.access() as files:
            found = list(files.scan(f"{kind}/{folder}"))
        yield [StoredArtifact(kind, file.name, *file[1:]) for file in found if _DIGEST.fullmatch(file.name)]


def find_artifact(store: ArtifactStore, kind: Kind, digest: str) -> StoredArtifact | None:
    """Return a blob or a tree, None if it is not stored.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with store.access() as files:
        file = files.find(_PATHS[kind](digest))
    return None if file is None else StoredArtifact(kind, digest, *file[1:])


def has_tree(store: ArtifactStore, digest: str) -> bool:
    """Return whether a tree is stored with all of its blobs. Their bytes are not verified.

    Raises:
        RefusedArtifact: the manifest has changed.
        StoreUnavailable: the store does not answer.
    """
    try:
        entries = store.tree(digest)
    except errors.MissingArtifact:
        return False
    return all(find_artifact(store, "blobs", entry.digest) is not None for entry in entries.values())


def has_rows(store: ArtifactStore, blob: str) -> bool:
    """Return whether a blob begins as the canonical rows of a data set do.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with store.access() as files:
        try:
            with files.open(blob_path(blob)) as stream:
                return stream.read(2) == b'{"'
        except FileNotFoundError:
            return False


def read_clock(store: ArtifactStore) -> float:
    """Return the time by the clock of the store, in seconds since 1970, or by that of this machine if it is full."""
    path, file = f"tmp/{secrets.token_hex(8)}", None
    with contextlib.suppress(errors.StoreUnavailable), store.access() as files:
        files.put_bytes(path, b"clock")
        file = files.find(path)
        files.remove(path)
    return file.modified if file is not None and file.modified is not None else time.time()
