from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub import errors
from finch_hub.artifacts.store import MARKER, ArtifactStore
from finch_hub.registry import datasets, deployment, tables
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import Job
from finch_hub.storage import store_marker
from finch_hub.storage.store_marker import StoreMarker


def open_store(database: Database, folder: Path) -> ArtifactStore:
    """Open a store as a process that has just begun."""
    return ArtifactStore(str(folder), cache=folder.with_name("cache"), guard=StoreMarker(database))


def find_id(database: Database) -> str:
    with database.read() as session:
        return deployment.find_id(session)


def has_store(database: Database) -> bool:
    with database.read() as session:
        return deployment.has_store(session)


def add_dataset(database: Database, digest: str) -> None:
    with database.write() as session:
        datasets.add(session, digest=digest, format="messages", examples=1, size=4)


def test_first_use_of_an_empty_store_marks_it(database: Database, tmp_path: Path) -> None:
    store = open_store(database, tmp_path / "store")
    assert not (tmp_path / "store").exists(), "to open a store uses nothing"
    digest = store.put(b"seeds")
    assert (tmp_path / "store" / MARKER).read_text() == f"{find_id(database)}\n"
    assert has_store(database)
    assert open_store(database, tmp_path / "store").get(digest) == b"seeds"


def test_store_without_the_marker_is_refused_once_there_is_one(database: Database, tmp_path: Path) -> None:
    digest = open_store(database, tmp_path / "store").put(b"seeds")
    unmounted = open_store(database, tmp_path / "unmounted")
    for use in (lambda: unmounted.put(b"more"), lambda: unmounted.get(digest), lambda: unmounted.remove(digest)):
        with pytest.raises(errors.StoreUnavailable, match=f"has no marker of deployment '{find_id(database)}'"):
            use()
    assert not (tmp_path / "unmounted").exists()


def test_store_of_another_deployment_is_refused_before_anything_is_written(database: Database, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / MARKER).write_text("feed\n")
    store = open_store(database, folder)
    for _ in range(2):
        with pytest.raises(errors.StoreUnavailable, match=r"belongs to deployment 'feed'.*check FINCH_ARTIFACTS_URL"):
            store.put(b"seeds")
    assert [path.name for path in folder.iterdir()] == [MARKER]
    assert not has_store(database), "another store may still be marked"


def test_store_of_an_earlier_version_is_marked_if_it_has_what_the_database_knows(
    database: Database, tmp_path: Path
) -> None:
    digest = ArtifactStore(str(tmp_path / "store"), cache=tmp_path / "cache").put(b"seeds")
    add_dataset(database, digest)
    add_dataset(database, registry.digest("gone"))
    with pytest.raises(
        errors.StoreUnavailable, match="without a marker has none of the artifacts that the database knows"
    ):
        open_store(database, tmp_path / "unmounted").put(b"more")
    assert not has_store(database)
    open_store(database, tmp_path / "store").put(b"more")
    assert (tmp_path / "store" / MARKER).exists()


def test_store_that_has_the_data_of_a_queued_job_is_marked(database: Database, tmp_path: Path) -> None:
    digest = ArtifactStore(str(tmp_path / "store"), cache=tmp_path / "cache").put(b"seeds")
    registry.submit(database, spec=registry.train_spec().evolve(train=digest))
    open_store(database, tmp_path / "store").put(b"more")


def test_store_that_has_only_the_data_of_an_ended_job_is_marked(database: Database, tmp_path: Path) -> None:
    """A migration does not record which data the jobs needed that have ended."""
    digest = ArtifactStore(str(tmp_path / "store"), cache=tmp_path / "cache").put(b"seeds")
    registry.cancel(database, registry.submit(database, spec=registry.train_spec().evolve(train=digest)))
    with database.write() as session:
        session.execute(sa.delete(tables.job_datasets))
    open_store(database, tmp_path / "store").put(b"more")


def test_store_of_a_home_is_marked_although_the_database_of_the_home_knows_no_artifact(
    database: Database, tmp_path: Path
) -> None:
    """The history was deleted before the upgrade."""
    ArtifactStore(str(tmp_path / "store"), cache=tmp_path / "cache").put(b"of a deleted job")
    marker = StoreMarker(database, is_of_home=True)
    ArtifactStore(str(tmp_path / "store"), cache=tmp_path / "cache", guard=marker).put(b"more")


def test_store_of_a_database_that_was_made_anew_says_what_to_write(database: Database, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / MARKER).write_text("feed\n")
    with pytest.raises(errors.StoreUnavailable, match=f"write {find_id(database)} to its file {MARKER}"):
        open_store(database, folder).put(b"seeds")
    (folder / MARKER).write_text(find_id(database))
    open_store(database, folder).put(b"seeds")


def test_store_that_hangs_before_it_is_marked_keeps_nobody_from_the_database(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_dataset(database, registry.digest("gone"))
    written: list[Job] = []

    def submit_meanwhile(store: ArtifactStore, digests: object) -> bool:
        with ThreadPoolExecutor(1) as pool:
            written.append(pool.submit(registry.submit, database).result(10))
        return True

    monkeypatch.setattr(ArtifactStore, "has_any", submit_meanwhile)
    open_store(database, tmp_path / "store").put(b"seeds")
    assert written


def test_store_with_the_artifacts_of_others_is_not_marked(database: Database, tmp_path: Path) -> None:
    ArtifactStore(str(tmp_path / "store"), cache=tmp_path / "cache").put(b"of others")
    with pytest.raises(errors.StoreUnavailable, match="has artifacts, and the database knows none"):
        open_store(database, tmp_path / "store").put(b"seeds")
    (tmp_path / "store" / MARKER).write_text(find_id(database))  # as the error says
    open_store(database, tmp_path / "store").put(b"seeds")


def test_marker_that_the_database_does_not_know_is_recorded(database: Database, tmp_path: Path) -> None:
    """The database was restored from a backup, or the commit after the marker failed."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / MARKER).write_text(find_id(database))
    open_store(database, tmp_path / "store").put(b"seeds")
    assert has_store(database)


def test_marker_is_read_again_after_some_seconds_or_if_an_artifact_is_missing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(database, tmp_path / "store")
    digest = store.put(b"seeds")
    (tmp_path / "store").rename(tmp_path / "away")
    with pytest.raises(errors.StoreUnavailable):
        store.get(digest)
    (tmp_path / "away").rename(tmp_path / "store")
    assert store.get(digest) == b"seeds"
    with pytest.raises(errors.MissingArtifact):
        store.get(registry.digest("missing"))
    (tmp_path / "store").rename(tmp_path / "away")
    monkeypatch.setattr(store_marker, "_FRESH_SECONDS", 0.0)
    with pytest.raises(errors.StoreUnavailable):
        store.put(b"more")
    assert not (tmp_path / "store").exists()


def test_store_that_another_process_marks_at_the_same_time_is_used(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_marker = ArtifactStore.read_marker

    def read_before_the_other(store: ArtifactStore) -> str | None:
        found = read_marker(store)
        monkeypatch.setattr(ArtifactStore, "read_marker", read_marker)
        open_store(database, tmp_path / "store").check()
        return found

    monkeypatch.setattr(ArtifactStore, "read_marker", read_before_the_other)
    store = open_store(database, tmp_path / "store")
    digest = store.put(b"seeds")
    assert store.get(digest) == b"seeds"
