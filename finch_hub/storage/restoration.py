"""Restoration of a backup into a hub that has nothing yet."""

from __future__ import annotations

import os
from pathlib import Path

from finch_hub import errors, progress
from finch_hub.artifacts.store import blob_path
from finch_hub.formats.atomic_writes import scratch_folder, translate_write_errors
from finch_hub.registry import (
    artifact_references,
    audit,
    bases,
    registry_file,
    row_copies,
    schema_revisions,
    search_index,
    workers,
)
from finch_hub.registry.database import Session
from finch_hub.registry.tables import Announcement, AuditRow, Deployment, Listener, Measurement, Worker
from finch_hub.specs.backups import RestoreReport
from finch_hub.storage.backup_folder import ARTIFACTS, BackupFolder
from finch_hub.storage.changes import Change
from finch_hub.storage.stores import Stores

# Rows of the hub itself. It keeps its own id, so that it shares no queue in a broker with the hub of the backup. Its
# own listeners hear of what happens from then on.
_OWN = frozenset(table.__tablename__ for table in (Deployment, Measurement, Worker, Listener, Announcement))


def restore_backup(folder: BackupFolder, change: Change, stores: Stores) -> RestoreReport:
    """Fill an unused hub with a backup.

    Everything is checked before anything is written. The artifacts are written first, and the registry in one
    transaction. So after an interruption, the same call continues.

    Raises:
        Conflict: the hub is in use.
        RefusedArtifact: the backup is damaged, or has what no backup has.
        SchemaMismatch: the backup has a newer schema.
        Unavailable: database or store do not answer, are full, or the store is another deployment's.
    """
    with stores.database.read() as session:
        _refuse_used(session, stores)
    place = stores.settings.home / "restore"
    with translate_write_errors(place), scratch_folder(place) as scratch:
        file = scratch / "rebuilt.db"
        _rebuild_registry(folder, scratch / "copy.db", file)
        with registry_file.open_file(file) as session:
            requeued, queued = registry_file.queue_jobs(session, "the hub was restored from a backup")
            references = artifact_references.find_references(session)
            missing = sorted(references.needed & set(folder.backup.missing))
            lost = tuple(artifact_references.name_users(session, digest) for digest in missing)
            absent = {name: path for name, path in bases.list_paths(session).items() if not _exists(path)}
        blobs = folder.find_blobs(references)
        size = folder.verify(blobs)
        stores.artifacts.check(again=True)  # refuses the store of another deployment, and one with artifacts of others
        trees = folder.list_trees(references)
        for digest in progress.track(blobs, "storing artifacts", total=len(blobs)):
            stored = stores.artifacts.put_file(folder.path / ARTIFACTS / blob_path(digest))
            if stored != digest:
                what = f"{blobs[digest]}: its bytes have changed during the restoration"
                raise errors.RefusedArtifact(what, where=f"backup {folder.path}")
        for digest in trees:
            data = folder.artifacts.read_manifest(digest)
            stores.artifacts.put_manifest(data)
            size += len(data)
        with registry_file.open_file(file) as source, change.write() as target:
            row_copies.lock_tables(target)
            _refuse_used(target, stores)  # again, since the work took a while
            audit.clear(target)  # of refusals, whose numbers the entries of the backup may have
            meter = progress.Meter("storing rows", sum(folder.backup.rows.values()))
            search_index.drop(target.connection())  # it would be changed for each row
            for table in row_copies.list_tables():
                if table.name not in _OWN:
                    row_copies.copy_rows(source, target, table, count=meter.add)
            row_copies.advance_sequences(target)
            search_index.build(target.connection())
    return RestoreReport(
        folder=str(folder.path),
        database=str(stores.database),
        backup=folder.backup,
        artifacts=len(blobs) + len(trees),
        bytes=size,
        requeued=tuple(job.id for job in requeued),
        queued=queued,
        absent_bases=absent,
        missing=tuple(missing),
        lost=lost,
    )


def _refuse_used(session: Session, stores: Stores) -> None:
    """Refuse a hub that has rows or living workers.

    Raises:
        Conflict: the hub is in use.
    """
    what = f"cannot restore into database {stores.database}, which is in use"
    if living := workers.find_living(session):
        fix = "stop them; one that was killed counts as running for a minute"
        raise errors.Conflict(f"{what}: workers are running: {', '.join(living)} ({fix})")
    unused = _OWN | {AuditRow.__tablename__} if audit.is_empty(session) else _OWN
    if filled := [name for name in row_copies.find_filled(session) if name not in unused]:
        fix = "set FINCH_HOME or FINCH_DATABASE_URL to a new hub"
        raise errors.Conflict(f"{what}: there are rows in {', '.join(filled)} ({fix})")


def _rebuild_registry(folder: BackupFolder, copy: Path, file: Path) -> None:
    folder.copy_registry(copy)
    meter = progress.Meter("checking rows", sum(folder.backup.rows.values()))
    registry_file.rebuild(copy, file, folder.backup.revision, count=meter.add)
    copy.unlink()
    if folder.backup.revision != schema_revisions.HEAD:
        return
    with registry_file.open_file(file) as session:
        if row_copies.count_rows(session) != folder.backup.rows:
            what = "has other numbers of rows than the record of the backup"
            raise errors.RefusedArtifact(what, where=f"backup {folder.path}: registry.db", fix="use another backup")


def _exists(path: str) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises errors for paths from elsewhere
