from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support import full_hub, registry
from support.backups import Open, assert_unused, find_id, restore, seal
from support.services import Databases

from finch_hub import errors
from finch_hub.artifacts.store import MARKER
from finch_hub.registry import (
    adapter_versions,
    audit,
    evidence,
    jobs,
    listeners,
    outbox,
    row_copies,
    schema_revisions,
    tables,
    values,
    workers,
)
from finch_hub.specs.jobs import JobState, MergeSpec
from finch_hub.storage import outputs
from finch_hub.storage.backup import take_backup
from finch_hub.storage.backup_folder import REGISTRY, BackupFolder
from finch_hub.storage.stores import Stores


@pytest.fixture(params=["sqlite", "postgresql"])
def target_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a new database for a restored hub, on both engines in turn."""
    databases: Databases = request.getfixturevalue(f"{request.param}_databases")
    url = databases.new()
    yield url
    databases.drop(url)


def test_hub_moves_between_databases_with_all_rows_and_artifacts(
    database_url: str, target_url: str, open_hub: Open, tmp_path: Path
) -> None:
    """Both databases restore what each of them backed up."""
    source, target = open_hub("from", database_url), open_hub("to", target_url)
    full_hub.fill(source, tmp_path / "from")
    before = full_hub.read_all(source.database)
    taken = take_backup(tmp_path / "moved", source)
    assert taken.backup.is_complete
    report = restore(tmp_path / "moved", target)
    after = full_hub.read_all(target.database)
    own = {"deployment", "measurements", "workers", "listeners", "announcements", "audit"}
    unchanged = before.keys() - own - {"jobs", "attempts", "events"}
    assert {name: _plain(after[name]) for name in unchanged} == {name: _plain(before[name]) for name in unchanged}
    ended = [job["id"] for job in before["jobs"] if job["finished_at"] is not None]
    assert ended
    for name, key in (("jobs", "id"), ("attempts", "job_id"), ("events", "job_id")):
        old, new = ([row for row in rows[name] if row[key] in ended] for rows in (before, after))
        assert _plain(new) == _plain(old)
    assert report.artifacts == taken.backup.artifacts
    *entries, restoration = after["audit"]
    assert (_plain(entries), restoration["action"]) == (_plain(before["audit"]), "hub.restore")
    assert [row["purged_at"] is None for row in after["adapter_versions"]].count(False) == 1
    for row in after["adapter_versions"]:
        if row["purged_at"] is not None:
            with pytest.raises(errors.MissingArtifact):
                target.artifacts.fetch_tree(row["digest"])
            continue
        assert target.artifacts.fetch_tree(row["digest"]).is_dir()
    for text in full_hub.TEXTS:
        assert text in [target.artifacts.get(row["digest"]) for row in after["datasets"] if row["purged_at"] is None]


def _plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with times of milliseconds, since SQLite keeps no more."""
    return [
        {key: value.replace(microsecond=value.microsecond // 1000 * 1000) if hasattr(value, "microsecond") else value
         for key, value in row.items()}
        for row in rows
    ]  # fmt: skip


def test_hub_moves_between_object_stores(open_hub: Open, tmp_path: Path) -> None:
    places = (f"memory://{tmp_path.name}-{secrets.token_hex(4)}" for _ in range(2))
    source, target = (open_hub(name, artifacts_url=place) for name, place in zip(("from", "to"), places, strict=True))
    full_hub.fill(source, tmp_path / "from")
    assert take_backup(tmp_path / "moved", source).backup.is_complete
    restore(tmp_path / "moved", target)
    for row in full_hub.read_all(target.database)["adapter_versions"]:
        assert row["purged_at"] is not None or target.artifacts.fetch_tree(row["digest"]).is_dir()
    for text in full_hub.TEXTS:
        assert target.artifacts.get(hashlib.sha256(text).hexdigest()) == text
    assert target.artifacts.read_marker() == find_id(target.database)


def test_every_table_has_rows_in_the_full_hub(source: Stores) -> None:
    """A new table gets rows in `full_hub.fill`, so that the other tests see whether it is backed up and restored."""
    with source.database.read() as session:
        assert row_copies.find_filled(session) == [table.name for table in tables.Table.metadata.sorted_tables]


def test_new_rows_are_numbered_behind_the_restored_ones(
    source: Stores, backup: Path, target_url: str, open_hub: Open
) -> None:
    target = open_hub("to", target_url)
    restore(backup, target)
    numbers = [job["number"] for job in full_hub.read_all(target.database)["jobs"]]
    registry.submit(target.database)
    assert max(job["number"] for job in full_hub.read_all(target.database)["jobs"]) > max(numbers)
    made = registry.add_version(target.database, "birds")
    assert made.number == 3


def test_running_jobs_are_queued_again_without_counting_an_attempt(
    source: Stores, backup: Path, target: Stores
) -> None:
    before = {job["id"]: job for job in full_hub.read_all(source.database)["jobs"]}
    (running,) = (key for key, job in before.items() if job["state"] == "running" and not job["cancel_requested"])
    (cancelled,) = (key for key, job in before.items() if job["state"] == "running" and job["cancel_requested"])
    report = restore(backup, target)
    assert report.requeued == (running,)
    job = registry.get(target.database, running)
    assert (job.state, job.attempts, job.worker, job.lease_until) == (JobState.QUEUED, 0, None, None)
    assert registry.get(target.database, cancelled).state is JobState.CANCELLED
    with target.database.read() as session:
        assert [attempt.outcome for attempt in jobs.list_attempts(session, running)] == ["handed_back"]
        events = jobs.list_events(session, running)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    with target.database.write() as session:
        assert {job.id for job in outbox.take_due(session)} >= {running}
    assert report.queued == 2


def test_output_without_a_place_is_brought_to_the_store(source: Stores, tmp_path: Path, target: Stores) -> None:
    job = registry.submit(source.database, spec=registry.merge_spec())
    take_backup(tmp_path / "old", source)
    restore(tmp_path / "old", target)
    spec = MergeSpec.of_stored(registry.get(target.database, job.id).spec)
    assert (spec.out, registry.merge_spec().place) == (registry.merge_spec().out, None)
    assert not outputs.is_here(spec)


def test_restored_hub_keeps_its_own_id_and_marks_its_store(source: Stores, backup: Path, target: Stores) -> None:
    """The hub of the backup may still run, on the same broker."""
    own = find_id(target.database)
    report = restore(backup, target)
    assert report.backup.deployment == find_id(source.database) != own
    assert find_id(target.database) == own
    assert target.artifacts.read_marker() == own
    with target.database.read() as session:
        assert workers.find(session) == []
        assert listeners.find(session) == []


def test_listeners_of_the_restored_hub_hear_of_what_happens_from_then_on(backup: Path, target: Stores) -> None:
    with target.database.write() as session:
        listeners.register(session, ["own"])  # as a worker did that has stopped
    restore(backup, target)
    with target.database.read() as session:
        assert listeners.find(session) == [values.Listener(name="own", waiting=0, skipped=0)]
    job = registry.submit(target.database)
    with target.database.write() as session:
        assert [change.job.id for change in listeners.take(session, "own", "a", limit=9)] == [job.id]


def test_report_names_bases_whose_files_are_elsewhere(backup: Path, target: Stores) -> None:
    assert restore(backup, target).absent_bases == {"away": full_hub.AWAY}


def test_purged_text_and_deleted_versions_stay_so(backup: Path, target: Stores) -> None:
    restore(backup, target)
    with target.database.read() as session:
        assert [row.number for row in adapter_versions.find(session, "birds").versions] == [1]
    purged = [row for row in full_hub.read_all(target.database)["datasets"] if row["purged_at"] is not None]
    assert len(purged) == 1
    assert not target.artifacts.has(purged[0]["digest"])


@pytest.mark.parametrize("are_lost", [False, True])
def test_sample_answers_of_a_deleted_version_come_back_with_it(
    source: Stores, target: Stores, tmp_path: Path, are_lost: bool
) -> None:
    """If the store lacks them, as after a collection, the backup is whole without them."""
    samples = full_hub.SAMPLES.replace(b"A?", b"Why?")
    with source.database.read() as session:
        base = adapter_versions.resolve(session, "birds/1").base
    version = full_hub.add_version(source, tmp_path, "owls", base, text="owls")
    full_hub.add_evidence(source, version, samples)
    registry.delete(source.database, "owls")
    digest = hashlib.sha256(samples).hexdigest()
    if are_lost:
        source.artifacts.remove(digest)
    assert take_backup(tmp_path / "taken", source).backup.is_complete
    restore(tmp_path / "taken", target)
    assert target.artifacts.has(digest) is not are_lost
    assert registry.restore(target.database, "owls").versions == ("owls/1",)
    with target.database.read() as session:
        assert evidence.find(session, "owls/1")[1] == digest


@pytest.mark.parametrize("revision", ["0007", schema_revisions.HEAD])
def test_older_schema_is_upgraded(backup: Path, target: Stores, revision: str) -> None:
    if revision != schema_revisions.HEAD:
        engine = sa.create_engine(f"sqlite:///{backup / REGISTRY}")
        registry.migrate(engine, revision)
        engine.dispose()
        seal(backup, revision=revision)
    restore(backup, target)
    filled = full_hub.read_all(target.database)
    assert len(filled["jobs"]) == 5
    assert len(filled["settlements"]) == (1 if revision == schema_revisions.HEAD else 0)


def test_rows_of_the_first_schema_are_upgraded(tmp_path: Path, backup: Path, target: Stores) -> None:
    dump = Path(__file__).parents[2] / "data" / "hub-0002.sql"
    (backup / REGISTRY).unlink()
    with sqlite3.connect(backup / REGISTRY) as connection:
        connection.executescript(dump.read_text(encoding="utf-8"))
        trees = [digest for (digest,) in connection.execute("SELECT digest FROM adapter_versions")]
        texts = [digest for (digest,) in connection.execute("SELECT digest FROM datasets")]
        read = [text for (text,) in connection.execute("SELECT spec FROM jobs")]
    connection.close()
    missing = {*trees, *texts, *(json.loads(text).get("train") for text in read)} - {None}
    seal(backup, revision="0002", missing=sorted(missing))
    report = restore(backup, target)
    assert len(full_hub.read_all(target.database)["adapter_versions"]) == len(trees) > 0
    assert set(trees) <= set(report.missing) | {
        row["digest"] for row in full_hub.read_all(target.database)["adapter_versions"] if row["deleted_at"]
    }


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"format": 2, "finch_hub": "9.9", "new": 1}, errors.Incompatible, r"newer Finch Hub 9\.9 in format 2"),
        ({"revision": "9999"}, errors.SchemaMismatch, "newer schema 9999"),
    ],
)
def test_newer_backup_is_refused(
    backup: Path, target: Stores, changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    seal(backup, **changes)
    with pytest.raises(error, match=text):
        restore(backup, target)
    assert_unused(target)


def test_hub_with_rows_is_refused(backup: Path, target: Stores) -> None:
    registry.add_base(target.database)
    with pytest.raises(errors.Conflict, match=r"in use: there are rows in bases \(set FINCH_HOME"):
        restore(backup, target)
    assert target.artifacts.is_empty


def test_hub_with_living_workers_is_refused(backup: Path, target: Stores) -> None:
    with target.database.write() as session:
        workers.register(session, full_hub.describe_worker())
    with pytest.raises(errors.Conflict, match=r"workers are running: w \(stop them"):
        restore(backup, target)
    assert target.artifacts.is_empty


def test_store_of_another_hub_is_refused(source: Stores, backup: Path, open_hub: Open) -> None:
    target = open_hub("target", artifacts_url=source.settings.artifacts)
    with pytest.raises(errors.StoreUnavailable, match="belongs to deployment"):
        restore(backup, target)
    with target.database.read() as session:
        assert row_copies.find_filled(session) == ["deployment"]


def test_store_with_artifacts_and_without_a_marker_is_refused(backup: Path, open_hub: Open, tmp_path: Path) -> None:
    target = open_hub("target", artifacts_url=str(tmp_path / "store"))
    (tmp_path / "store" / "blobs" / "aa").mkdir(parents=True)
    (tmp_path / "store" / "blobs" / "aa" / "bb").touch()
    with pytest.raises(errors.StoreUnavailable, match="has artifacts, and the database knows none"):
        restore(backup, target)
    assert not (tmp_path / "store" / MARKER).exists()


def test_artifacts_that_were_left_in_the_home_are_no_obstacle(backup: Path, target: Stores) -> None:
    folder = Path(target.settings.artifacts) / "blobs" / "aa"
    folder.mkdir(parents=True)
    (folder / "bb").touch()
    assert restore(backup, target).missing == ()
    with target.database.read() as session:
        assert "adapter_versions" in row_copies.find_filled(session)


def test_rows_that_appear_during_the_restoration_are_kept(
    backup: Path, target: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = type(target.artifacts).put_manifest

    def put_and_submit(*arguments: Any) -> str:
        registry.add_base(target.database)
        return put(*arguments)

    monkeypatch.setattr(type(target.artifacts), "put_manifest", put_and_submit)
    with pytest.raises(errors.Conflict, match="in use: there are rows in bases"):
        restore(backup, target)
    with target.database.read() as session:
        assert row_copies.find_filled(session) == ["bases", "deployment"]


def test_interrupted_restoration_is_continued(backup: Path, target: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise errors.Unavailable("the power went out")

    with monkeypatch.context() as patch:
        patch.setattr(row_copies, "advance_sequences", fail)
        with pytest.raises(errors.Unavailable):
            restore(backup, target)
    with target.database.read() as session:
        assert row_copies.find_filled(session) == ["deployment"]
    assert not target.artifacts.is_empty
    restore(backup, target)
    assert len(full_hub.read_all(target.database)["jobs"]) == 5


def test_backup_of_a_restored_hub_has_the_same_rows(backup: Path, target: Stores, tmp_path: Path) -> None:
    restore(backup, target)
    again = take_backup(tmp_path / "again", target).backup
    first = BackupFolder(backup).backup
    changed = {"measurements", "workers", "events", "listeners", "announcements", "audit"}
    assert {k: v for k, v in again.rows.items() if k not in changed} == {
        k: v for k, v in first.rows.items() if k not in changed
    }
    assert again.artifacts == first.artifacts


def test_hub_that_only_refused_changes_is_restored_into(backup: Path, target: Stores) -> None:
    refused: dict[str, Any] = {"who": "ana", "action": "version.tag", "on": "x/1", "details": {}}
    with target.database.write() as session:
        audit.add(session, **refused, outcome="refused", reason="it is not there")
    restore(backup, target)
    with target.database.read() as session:
        assert [entry.action for entry in audit.find(session)] == ["hub.restore", "alias.move"]
