"""Backups: the rows of the registry and the artifacts that they refer to, taken from a running hub."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
from datetime import datetime
from pathlib import Path

from finch_hub import errors, progress
from finch_hub.artifacts.store import ArtifactStore, blob_path, tree_path
from finch_hub.formats.atomic_writes import atomic_folder, check_replaceable
from finch_hub.formats.finch_record import write_record
from finch_hub.registry import artifact_references, datasets, deployment, evidence, registry_file, row_copies
from finch_hub.registry.artifact_references import References
from finch_hub.registry.database import Database
from finch_hub.registry.schema_revisions import HEAD
from finch_hub.specs.backups import FORMAT, Backup, BackupReport
from finch_hub.storage.backup_folder import ARTIFACTS, KIND, REGISTRY
from finch_hub.storage.stores import Stores

_MAX_SNAPSHOTS = 10  # of the registry, if jobs end and their data is purged again and again while it is copied


def take_backup(out: Path, stores: Stores, *, replace: bool = False) -> BackupReport:
    """Write a backup of the registry and the artifact store to a new folder, while the hub runs.

    The rows are those of one moment, and are read first: what a row refers to is stored before the row. Data that was
    purged since then is recorded as purged. If an unfinished job of that moment needs it, the rows are read again.

    Args:
        replace: whether to replace an earlier backup. One that lacks artifacts replaces none.

    Raises:
        Conflict: the path exists and may not be replaced.
        Unavailable: database or store do not answer, or the path cannot be written.
    """
    check_replaceable(out, kind=KIND, replace=replace)
    stores.artifacts.check(again=True)
    with atomic_folder(out, kind=KIND, replace=replace) as folder:
        folder.chmod(0o700)  # like the home, since the texts of data sets may be private
        copies = _Copies(stores.artifacts, folder / ARTIFACTS)
        for _ in range(_MAX_SNAPSHOTS):
            snapshot = _take_snapshot(stores.database, folder / REGISTRY)
            copies.copy(snapshot.references)
            lost = frozenset(copies.problems)
            gone = lost - _find_needed(stores.database) if lost else lost
            if gone:
                snapshot = _record_purges(snapshot, folder / REGISTRY, gone)
                copies.forget_problems(snapshot.references)
            if not gone & snapshot.references.needed:
                break
        copies.drop_others(snapshot.references)
        if copies.problems and out.exists() and any(out.iterdir()):
            raise errors.Conflict(
                f"backup {out} was not replaced: artifacts are missing or damaged, so the new one would be incomplete"
                " (choose another path)"
            )
        with registry_file.open_file(folder / REGISTRY) as session:
            owners = {digest: artifact_references.name_users(session, digest) for digest in copies.problems}
        backup = Backup(
            format=FORMAT,
            finch_hub=importlib.metadata.version("finch-hub"),
            revision=HEAD,
            deployment=snapshot.deployment,
            taken_at=snapshot.taken_at,
            rows=snapshot.rows,
            artifacts=len(copies.sizes),
            bytes=sum(copies.sizes.values()),
            registry=hash_file(folder / REGISTRY),
            missing=tuple(sorted(copies.problems)),
            damaged=tuple(snapshot.damaged),
        )
        write_record(folder, KIND, backup.model_dump(mode="json", exclude={"made"}))
    problems = [f"{owners[digest]}: {copies.problems[digest]}" for digest in backup.missing]
    problems += [f"a value of the registry could not be read and was left out: {value}" for value in backup.damaged]
    return BackupReport(folder=str(out), backup=backup, problems=tuple(problems))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Snapshot:
    deployment: str
    taken_at: datetime
    rows: dict[str, int]
    damaged: list[str]
    references: References


def _take_snapshot(database: Database, file: Path) -> _Snapshot:
    """Write all rows of one state of the database to a registry file."""
    file.unlink(missing_ok=True)
    damaged: list[str] = []
    with registry_file.open_file(file, create=True) as target, database.read() as source:
        taken_at = registry_file.read_time(source)
        meter = progress.Meter("copying rows")
        for table in row_copies.list_tables():
            damaged += row_copies.copy_rows(source, target, table, count=meter.add)
        return _Snapshot(
            deployment=deployment.find_id(target),
            taken_at=taken_at,
            rows=row_copies.count_rows(target),
            damaged=damaged,
            references=artifact_references.find_references(target),
        )


def _record_purges(snapshot: _Snapshot, file: Path, digests: frozenset[str]) -> _Snapshot:
    """Record in a registry file that data was purged since its rows were read."""
    with registry_file.open_file(file) as session:
        datasets.record_purges(session, digests)
        evidence.forget_samples(session, digests)
        return dataclasses.replace(snapshot, references=artifact_references.find_references(session))


def _find_needed(database: Database) -> frozenset[str]:
    """Return the digests of the artifacts that the store must have now."""
    with database.read() as session:
        return artifact_references.find_references(session).needed


class _Copies:
    """Artifacts that were copied to the store of a backup.

    Attributes:
        sizes: size of each copied file, by its path.
        problems: what is wrong with each needed artifact that could not be copied, by its digest.
    """

    def __init__(self, store: ArtifactStore, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._trees: dict[str, list[str]] = {}  # digests of the blobs of each copied tree
        self.sizes: dict[str, int] = {}
        self.problems: dict[str, str] = {}

    def copy(self, references: References) -> None:
        """Copy the artifacts that are not there yet, each verified by its hash."""
        self._folder.mkdir(exist_ok=True)
        self.problems = {}
        work = [(digest, self._copy_blob) for digest in sorted(references.texts)]
        work += [(digest, self._copy_blob) for digest in sorted(references.all_samples - references.texts)]
        work += [(digest, self._copy_tree) for digest in sorted(references.all_trees)]
        for digest, copy in progress.track(work, "copying artifacts", total=len(work)):
            try:
                copy(digest)
            except (errors.MissingArtifact, errors.RefusedArtifact) as error:
                if digest in references.needed:
                    self.problems[digest] = _describe_damage(error)

    def forget_problems(self, references: References) -> None:
        """Forget what is wrong with artifacts that are no longer needed."""
        self.problems = {digest: what for digest, what in self.problems.items() if digest in references.needed}

    def drop_others(self, references: References) -> None:
        """Remove what was copied and is no longer referred to, such as the text of data that was purged since then."""
        trees = self._trees.keys() & references.all_trees
        kept = {tree_path(digest) for digest in trees}
        kept |= {blob_path(digest) for digest in references.texts | references.all_samples}
        kept |= {blob_path(blob) for digest in trees for blob in self._trees[digest]}
        for path in self.sizes.keys() - kept:
            (self._folder / path).unlink()
            del self.sizes[path]

    def _copy_blob(self, digest: str) -> None:
        path = blob_path(digest)
        if path not in self.sizes:
            self.sizes[path] = self._store.save_blob(digest, self._folder / path)

    def _copy_tree(self, digest: str) -> None:
        path = tree_path(digest)
        if path in self.sizes:
            return
        blobs = [entry.digest for entry in self._store.tree(digest).values()]
        for blob in blobs:
            self._copy_blob(blob)
        data = self._store.read_manifest(digest)
        (self._folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self._folder / path).write_bytes(data)
        self.sizes[path] = len(data)
        self._trees[digest] = blobs


def _describe_damage(error: errors.MissingArtifact | errors.RefusedArtifact) -> str:
    """Return what is wrong with an artifact, without advice, which the whole command gives once."""
    if isinstance(error, errors.MissingArtifact):
        return str(error)
    return "; ".join(problem.what for problem in error.problems)


def hash_file(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
