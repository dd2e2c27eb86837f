"""Marker of an artifact store, which names the deployment that the store belongs to."""

from __future__ import annotations

import time

from finch_hub import errors
from finch_hub.artifacts.store import MARKER, ArtifactStore
from finch_hub.registry import deployment
from finch_hub.registry.database import Database

_FRESH_SECONDS = 5.0  # until the marker is read again


class StoreMarker:
    """Marker of a deployment's artifact store.

    The first client or worker writes it, and the database records that. From then on, a store without the marker is
    refused: it is not mounted, or another one. A marker is never overwritten.

    Args:
        is_of_home: whether database and store are those of one home, so that the store is hardly another one.
    """

    def __init__(self, database: Database, *, is_of_home: bool = False) -> None:
        self._database, self._is_of_home = database, is_of_home
        self._checked_at = float("-inf")
        self._id: str | None = None  # of the deployment
        self._is_recorded = False

    def check(self, store: ArtifactStore, *, again: bool = False) -> None:
        """Refuse a store of another deployment and one without the marker, unless the marker can be written now.

        Args:
            again: whether to read the marker although it was read seconds ago.

        Raises:
            StoreUnavailable: the store is refused, or does not answer.
            Unavailable: the database does not answer.
        """
        if not again and time.monotonic() - self._checked_at < _FRESH_SECONDS:
            return
        self._checked_at = float("-inf")
        found = store.read_marker() or self._write(store)
        expected = self._read_id()
        if found != expected:
            raise errors.StoreUnavailable(
                f"artifact store {store.name} belongs to deployment {found!r}, and the database to {expected!r}"
                " (check FINCH_ARTIFACTS_URL and FINCH_DATABASE_URL; if it is the right store, because the database was"
                f" restored or made anew, write {expected} to its file {MARKER})"
            )
        if not self._is_recorded:
            self._record()
        self._checked_at = time.monotonic()

    def _read_id(self) -> str:
        if self._id is None:
            with self._database.read() as session:
                self._id = deployment.find_id(session)
        return self._id

    def _record(self) -> None:
        with self._database.read() as session:
            self._is_recorded = deployment.has_store(session)
        if not self._is_recorded:
            with self._database.write() as session:
                deployment.record_store(session)
            self._is_recorded = True

    def _write(self, store: ArtifactStore) -> str:
        """Write the first marker, and return the one that the store has then.

        Raises:
            StoreUnavailable: the deployment has marked another store, or this one seems to be another's.
        """
        expected = self._read_id()
        fix = f"mount it, or check FINCH_ARTIFACTS_URL; if it is the right store, write {expected} to its file {MARKER}"
        missing = errors.StoreUnavailable(
            f"artifact store {store.name} has no marker of deployment {expected!r}: it is not mounted, or another one"
            f" ({fix})"
        )
        with self._database.read() as session:
            is_marked = deployment.has_store(session)
            known, past = deployment.list_artifacts(session), deployment.list_past_data(session)
        if is_marked:
            found = store.read_marker()  # again, since another process may have marked the store a moment ago
            if found is None:
                raise missing
            return found
        # Before the transaction: a store that hangs would keep others from the database.
        if not (store.has_any([*known, *past]) or (not known and (self._is_of_home or store.is_empty))):
            if (found := store.read_marker()) is not None:  # another process has marked the store and filled it
                return found
            what = (
                "none of the artifacts that the database knows" if known else "artifacts, and the database knows none"
            )
            raise errors.StoreUnavailable(f"artifact store {store.name} without a marker has {what} ({fix})")
        with self._database.write() as session:
            if deployment.record_store(session):  # others wait here until the marker is written
                store.write_marker(expected)
        found = store.read_marker()
        if found is None:
            raise missing
        return found
