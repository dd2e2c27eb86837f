"""Artifacts of a store that no row of the registry refers to."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.artifacts.inventory import Kind, StoredArtifact, find_artifact, is_digest, list_artifacts
from finch_hub.progress import Meter
from finch_hub.registry import artifact_lock, artifact_references

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.storage.stores import Stores

_BATCH = 500  # artifacts that one transaction looks at
_LOCK_SECONDS = 0.2  # for which a transaction keeps others from registering artifacts


class Unreferenced:
    """Blobs and trees that were not referred to when the references were read.

    Args:
        kept_seconds: time since the deletion of a version during which its files count as referred to; None for ever,
            until it is purged.
        without: texts that count as not referred to.
        is_exact: whether a version whose files are missing or damaged is an error, since it is unknown to what it
            refers; otherwise it refers to nothing.

    Raises:
        Conflict: the files of a version are missing or damaged.
        Unavailable: database or store do not answer.
    """

    def __init__(
        self,
        stores: Stores,
        *,
        kept_seconds: float | None = 0.0,
        without: frozenset[str] = frozenset(),
        is_exact: bool = True,
    ) -> None:
        self._stores, self._is_exact = stores, is_exact
        with stores.database.write() as session:
            artifact_lock.own(session)  # otherwise a version with a lower number could be committed after this look
            self._newest = artifact_references.find_newest_version(session)
            self._looked_at = artifact_references.read_time(session)
        with stores.database.read() as session:
            trees = artifact_references.find_trees(session, kept_seconds=kept_seconds)
            references = artifact_references.find_references(session)
            samples = artifact_references.find_samples(session, kept_seconds=kept_seconds)
        blobs = (references.texts - without) | samples
        self._needed: dict[Kind, set[bytes]] = {
            "trees": set(),
            "blobs": {bytes.fromhex(blob) for blob in blobs if is_digest(blob)},
        }
        meter = Meter("reading references", len(trees))
        for tree in trees:
            self._add_tree(tree, is_deleted=tree not in references.trees)
            meter.add()

    @staticmethod
    def read_trees(stores: Stores, *, kept_seconds: float) -> frozenset[str]:
        """Return the digests of the trees that are referred to."""
        with stores.database.read() as session:
            return artifact_references.find_trees(session, kept_seconds=kept_seconds)

    def scan(self, kind: Kind) -> Iterator[list[StoredArtifact]]:
        """Yield the artifacts of a kind that nobody refers to, one folder of the store at a time."""
        needed = self._needed[kind]
        for found in list_artifacts(self._stores.artifacts, kind):
            yield [artifact for artifact in found if bytes.fromhex(artifact.digest) not in needed]

    def keep_unreferenced(self, session: Session, artifacts: Iterable[StoredArtifact]) -> list[StoredArtifact]:
        """Return those of some artifacts that nobody refers to now. The caller owns the lock of the artifacts."""
        for number, tree, is_deleted in artifact_references.list_trees(session, after=self._newest):
            self._newest = number
            self._add_tree(tree, is_deleted=is_deleted)
        for tree in artifact_references.list_restored(session, since=self._looked_at):
            self._add_tree(tree)
        found = list(artifacts)
        blobs = artifact_references.select_blobs(session, [artifact.digest for artifact in found])
        return [
            artifact
            for artifact in found
            if bytes.fromhex(artifact.digest) not in self._needed[artifact.kind]
            and not (artifact.kind == "blobs" and artifact.digest in blobs)
        ]

    def remove(self, found: Iterable[StoredArtifact], *, before: float | None = None) -> Iterator[StoredArtifact]:
        """Remove artifacts that still nobody refers to, and yield them as they were.

        Args:
            before: time by the clock of the store. What somebody has written again since stays, since it may be
                registered soon; None keeps nothing, and a registration of this moment has to be tried again.
        """
        store, waiting = self._stores.artifacts, list(found)
        while waiting:
            batch, waiting = waiting[:_BATCH], waiting[_BATCH:]
            with self._stores.database.write() as session:
                artifact_lock.own(session)
                batch = self.keep_unreferenced(session, batch)
                ends_at = time.monotonic() + _LOCK_SECONDS
                for number, artifact in enumerate(batch):
                    if time.monotonic() > ends_at:
                        waiting = [*batch[number:], *waiting]
                        break
                    now = find_artifact(store, artifact.kind, artifact.digest)
                    if now is not None and _is_older(now, before):
                        with store.access() as files:
                            files.remove(artifact.path)
                        yield now

    def _add_tree(self, digest: str, *, is_deleted: bool = False) -> None:
        try:
            entries = self._stores.artifacts.tree(digest)
        except (errors.NotFound, errors.RefusedArtifact) as error:
            if is_deleted or not self._is_exact:
                return
            with self._stores.database.read() as session:
                named = ", ".join(artifact_references.name_versions(session, digest))
            fix = f"restore the files of adapter {named} or delete that version"
            raise errors.Conflict(f"cannot tell which artifacts are needed: {error} ({fix})") from error
        self._needed["trees"].add(bytes.fromhex(digest))
        self._needed["blobs"].update(bytes.fromhex(entry.digest) for entry in entries.values())


def _is_older(artifact: StoredArtifact, before: float | None) -> bool:
    # The clock of S3 has whole seconds.
    return before is None or (artifact.modified is not None and artifact.modified <= before)
