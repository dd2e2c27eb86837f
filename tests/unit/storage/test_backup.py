from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import sqlalchemy as sa
from support import full_hub, registry
from support.backups import Open, restore

from finch_hub import errors, progress
from finch_hub.artifacts.store import blob_path, tree_path
from finch_hub.formats.finch_record import RECORD
from finch_hub.registry import artifact_references, datasets, jobs, registry_file, tables
from finch_hub.specs.jobs import BaseModelSource, TrainSpec
from finch_hub.storage.backup import take_backup
from finch_hub.storage.backup_folder import ARTIFACTS, REGISTRY, BackupFolder
from finch_hub.storage.stores import Stores


def find_text(backup: Path, text: bytes) -> Path:
    """Return the place of a text in a backup."""
    return backup / ARTIFACTS / blob_path(hashlib.sha256(text).hexdigest())


def test_backup_is_for_its_owner_alone(backup: Path) -> None:
    assert backup.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in backup.iterdir()} == {RECORD, REGISTRY, ARTIFACTS}


def test_purged_text_is_not_backed_up(backup: Path) -> None:
    assert find_text(backup, full_hub.TEXTS[0]).read_bytes() == full_hub.TEXTS[0]
    assert not find_text(backup, full_hub.PURGED).exists()


def purge(stores: Stores, text: bytes) -> None:
    """Delete the text of a data set while a backup is taken."""
    digest = hashlib.sha256(text).hexdigest()
    with stores.database.write() as session:
        session.execute(sa.delete(tables.job_datasets))
        datasets.purge(session, digest)
    stores.artifacts.remove(digest)


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each advance be told, however fast the work is."""
    monkeypatch.setattr(progress, "_LEAST_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_SHARE", 0.0)


@pytest.mark.usefixtures("prompt")
def test_purge_while_artifacts_are_copied_leads_to_another_snapshot(source: Stores, tmp_path: Path) -> None:
    """Rows say that a text is there or purged, and the backup has it or not."""
    texts = sorted(full_hub.TEXTS, key=lambda text: hashlib.sha256(text).hexdigest())
    works: list[str] = []

    def interfere(advance: progress.Advance) -> None:
        works.append(advance.work)
        if advance.work == "copying artifacts" and works.count("copying artifacts") == 1:
            for text in texts:  # the first has been copied, and the second has not
                purge(source, text)

    with progress.listen(interfere):
        report = take_backup(tmp_path / "backup", source)
    assert report.backup.is_complete
    assert not any(find_text(tmp_path / "backup", text).exists() for text in texts)
    with registry_file.open_file(tmp_path / "backup" / REGISTRY) as session:
        assert artifact_references.find_references(session).texts == frozenset()


def test_purged_data_of_no_job_is_recorded_without_another_snapshot(
    source: Stores, tmp_path: Path, told: list[progress.Advance]
) -> None:
    """Purges that are faster than snapshots do not hold a backup up."""
    texts = [f"text {number}".encode() for number in range(9)]
    digests = [source.artifacts.put(text) for text in texts]
    with source.database.write() as session:
        for digest in digests:
            datasets.add(session, digest=digest, format="messages", examples=1)
    last = max(digests)

    def interfere(advance: progress.Advance) -> None:
        told.append(advance)
        if advance.work == "copying artifacts" and advance.done == 1:
            with source.database.write() as session:
                datasets.purge(session, last)
            source.artifacts.remove(last)

    with progress.listen(interfere):
        report = take_backup(tmp_path / "backup", source)
    assert report.backup.is_complete
    assert [advance.done for advance in told if advance.work == "copying artifacts"].count(1) == 1
    with registry_file.open_file(tmp_path / "backup" / REGISTRY) as session:
        assert {*digests} - artifact_references.find_references(session).texts == {last}


@pytest.mark.usefixtures("prompt")
def test_jobs_and_purges_without_end_do_not_hold_a_backup_up(source: Stores, tmp_path: Path) -> None:
    """The backup is finished, and says what it lacks."""
    rounds: list[list[str]] = []

    def submit() -> None:
        rounds.append([source.artifacts.put(f"{len(rounds)} {part}".encode()) for part in range(20)])
        for digest in rounds[-1]:
            with source.database.write() as session:
                datasets.add(session, digest=digest, format="messages", examples=1)
            spec = TrainSpec(adapter="birds", base=BaseModelSource(source="tiny"), train=digest)
            registry.submit(source.database, spec=spec)

    def interfere(advance: progress.Advance) -> None:
        if advance.work == "copying artifacts" and advance.done == 1:
            for text in rounds[-1]:
                with source.database.write() as session:
                    session.execute(sa.delete(tables.job_datasets).where(tables.job_datasets.c.digest == text))
                    datasets.purge(session, text)
                source.artifacts.remove(text)
            submit()

    submit()
    with progress.listen(interfere):
        report = take_backup(tmp_path / "backup", source)
    assert len(rounds) == 11
    assert len(report.problems) == len(report.backup.missing) > 0
    assert set(report.backup.missing) < set(rounds[9])


def test_missing_and_damaged_artifacts_are_listed_and_the_rest_is_backed_up(
    source: Stores, target: Stores, tmp_path: Path
) -> None:
    store = Path(source.settings.artifacts)
    versions = [row for row in full_hub.read_all(source.database)["adapter_versions"] if row["deleted_at"] is None]
    lost, kept = versions[0]["digest"], versions[1]["digest"]
    entry = source.artifacts.tree(lost)["README.md"]
    assert entry not in source.artifacts.tree(kept).values()
    damaged = store / blob_path(entry.digest)
    damaged.chmod(0o644)
    damaged.write_bytes(b"other bytes")
    purged = hashlib.sha256(full_hub.TEXTS[0]).hexdigest()
    (store / blob_path(purged)).unlink()
    report = take_backup(tmp_path / "backup", source)
    assert set(report.backup.missing) == {lost, purged}
    with source.database.read() as session:
        adapter, data = (artifact_references.name_users(session, digest) for digest in (lost, purged))
    assert adapter.startswith("adapter ")
    assert data.startswith("data set ")
    assert any(problem.startswith(f"{adapter}: ") and "now has the SHA-256" in problem for problem in report.problems)
    assert any(problem.startswith(f"{data}: there is no artifact") for problem in report.problems)
    restored = restore(tmp_path / "backup", target)
    assert set(restored.missing) == {lost, purged}
    assert set(restored.lost) == {adapter, data}
    assert target.artifacts.fetch_tree(kept).is_dir()
    with pytest.raises(errors.MissingArtifact):
        target.artifacts.tree(lost)


def test_files_of_deleted_versions_may_be_gone(source: Stores, target: Stores, tmp_path: Path) -> None:
    deleted = [row for row in full_hub.read_all(source.database)["adapter_versions"] if row["deleted_at"]]
    for row in deleted:
        (Path(source.settings.artifacts) / tree_path(row["digest"])).unlink()
    assert take_backup(tmp_path / "backup", source).backup.is_complete
    assert restore(tmp_path / "backup", target).missing == ()


def test_earlier_backup_is_replaced_on_request_only(source: Stores, backup: Path) -> None:
    first = BackupFolder(backup).backup
    with pytest.raises(errors.Conflict, match=r"holds an earlier backup \(choose another path, or replace it"):
        take_backup(backup, source)
    take_backup(backup, source, replace=True)
    assert BackupFolder(backup).backup.taken_at > first.taken_at


def test_incomplete_backup_does_not_replace_a_complete_one(source: Stores, backup: Path) -> None:
    first = (backup / RECORD).read_bytes()
    (Path(source.settings.artifacts) / blob_path(hashlib.sha256(full_hub.TEXTS[0]).hexdigest())).unlink()
    with pytest.raises(errors.Conflict, match="was not replaced: artifacts are missing or damaged"):
        take_backup(backup, source, replace=True)
    assert (backup / RECORD).read_bytes() == first
    assert [path.name for path in backup.parent.glob(".backup*")] == []


def test_other_folder_is_not_replaced(source: Stores, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("years of work")
    with pytest.raises(errors.Conflict, match="is not an earlier backup"):
        take_backup(tmp_path / "thesis", source, replace=True)


def test_damaged_values_are_listed_and_replaced(source: Stores, target: Stores, tmp_path: Path) -> None:
    engine = sa.create_engine(source.database.url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE jobs SET created_at = 'once', spec = '{' WHERE number = 1")
        connection.exec_driver_sql("UPDATE jobs SET priority = 'high' WHERE number = 2")
    engine.dispose()
    report = take_backup(tmp_path / "backup", source)
    assert report.backup.damaged == ("jobs 1: created_at 'once'", "jobs 2: priority 'high'")
    restore(tmp_path / "backup", target)
    with target.database.read() as session:
        (first,) = (job for job in jobs.find(session) if job.unreadable)
    assert first.created_at.year == 1970


def test_hub_without_anything_is_backed_up_and_restored(target: Stores, open_hub: Open, tmp_path: Path) -> None:
    taken = take_backup(tmp_path / "backup", target)
    assert taken.backup.artifacts == 0
    assert restore(tmp_path / "backup", open_hub("other")).queued == 0
