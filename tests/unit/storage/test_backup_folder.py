from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support import full_hub
from support.backups import assert_unused, change_registry, find_id, restore, seal

from finch_hub import errors
from finch_hub.artifacts.store import blob_path, tree_path
from finch_hub.formats.finch_record import RECORD
from finch_hub.registry.schema_revisions import HEAD
from finch_hub.storage.backup_folder import ARTIFACTS, REGISTRY, BackupFolder
from finch_hub.storage.stores import Stores


def add_link(folder: Path) -> None:
    (folder / "artifacts" / "blobs" / "aa").symlink_to("/etc")


def link_record(folder: Path) -> None:
    (folder / RECORD).rename(folder.parent / "record")
    (folder / RECORD).symlink_to(folder.parent / "record")


def link_registry(folder: Path) -> None:
    (folder / REGISTRY).unlink()
    (folder / REGISTRY).symlink_to("/etc/passwd")


def make_pipe(folder: Path) -> None:
    (folder / RECORD).unlink()
    os.mkfifo(folder / RECORD)


def make_folders(folder: Path) -> None:
    (folder / "/".join("abcdefgh")).mkdir(parents=True)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (add_link, "artifacts/blobs/aa: is a link or not a regular file"),
        (link_record, r"finch\.json: is a link"),
        (link_registry, r"registry\.db: is a link"),
        (make_pipe, r"finch\.json: is a link or not a regular file"),
        (make_folders, "a/b/c/d/e: is not a part of a backup"),
        (lambda folder: (folder / "registry.db-journal").write_bytes(b""), "db-journal: is not a part of a backup"),
        (lambda folder: (folder / "registry.db-wal").write_bytes(b""), "db-wal: is not a part of a backup"),
        (lambda folder: (folder / "\x1b[2J\n").write_bytes(b""), r"\\x1b\[2J\\n: is not a part of a backup"),
        (lambda folder: (folder / "artifacts" / "blobs" / "zz").mkdir(), "blobs/zz: is not a part of a backup"),
        (lambda folder: (folder / "artifacts" / "blobs" / "a").write_bytes(b""), "blobs/a: is not a part of a backup"),
        (lambda folder: (folder / REGISTRY).unlink(), r"registry\.db: is missing"),
        (lambda folder: (folder / RECORD).unlink(), r"finch\.json: is missing"),
        (lambda folder: (folder / RECORD).write_bytes(b" " * (2**24 + 1)), "is longer than any record"),
        (lambda folder: (folder / RECORD).write_bytes(b"[" * 2**20), "is not a record of a backup"),
        (lambda folder: (folder / RECORD).write_bytes(b"\xff"), "is not a record of a backup"),
        (lambda folder: (folder / RECORD).write_bytes(b'{"made": "merge"}'), "is not a record of a backup"),
        (lambda folder: (folder / RECORD).write_bytes(b'{"made": "backup"}'), r"is damaged: finch\.json: format, "),
        (lambda folder: seal(folder, registry="0"), r"is damaged: finch\.json: registry"),
        (lambda folder: seal(folder, format=1e400), "is damaged|is not a record"),
        (lambda folder: seal(folder, rows={"jobs": -1}), r"is damaged: finch\.json: rows\.jobs"),
        (lambda folder: seal(folder, revision="../0008"), r"is damaged: finch\.json: revision"),
    ],
)  # fmt: skip
def test_folder_that_is_no_backup_is_refused(backup: Path, change: Callable[[Path], object], text: str) -> None:
    change(backup)
    with pytest.raises(errors.RefusedArtifact, match=text):
        BackupFolder(backup)


def test_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="there is no backup folder"):
        BackupFolder(tmp_path / "none")


def test_record_describes_the_backup(source: Stores, backup: Path) -> None:
    record = BackupFolder(backup).backup
    assert record.rows == {name: len(rows) for name, rows in full_hub.read_all(source.database).items()}
    assert record.deployment == find_id(source.database)
    files = [file for file in (backup / ARTIFACTS).rglob("*") if file.is_file()]
    assert record.artifacts == len(files)
    assert record.bytes == sum(file.stat().st_size for file in files)
    assert record.is_complete


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("CREATE TABLE extra (a)", "has the table extra, which no registry has"),
        ("CREATE VIEW extra AS SELECT 1", "has the view extra, which no registry has"),
        ("CREATE TRIGGER extra AFTER INSERT ON jobs BEGIN SELECT 1; END", "has the trigger extra"),
        ("CREATE INDEX extra ON jobs (kind)", "has the index extra"),
        ("DROP TABLE tags", "has no table tags"),
        ("DROP TABLE tags; CREATE VIEW tags AS SELECT 1 AS version_id, 'a' AS name", "has the view tags"),
        ("DROP TABLE tags; CREATE VIRTUAL TABLE tags USING fts5(version_id, name)", "has the table tags, which no"),
        ("ALTER TABLE tags ADD COLUMN extra", "has other columns in table tags"),
        (
            "DROP TABLE tags; CREATE TABLE tags (version_id INTEGER, name TEXT AS (hex(version_id)))",
            "has other columns in table tags",
        ),
        ("UPDATE alembic_version SET version_num = '0001'", f"does not have the schema {HEAD}"),
        ("DELETE FROM alembic_version", f"does not have the schema {HEAD}"),
        ("UPDATE jobs SET priority = 3000000000", "table jobs, row 1: the value of priority is invalid: 3000000000"),
        ("UPDATE jobs SET priority = 'high'", "value of priority is invalid: high"),
        ("UPDATE jobs SET spec = '{'", "value of spec is invalid"),
        (f"UPDATE jobs SET spec = '{'[' * 90_000}'", "value of spec is invalid"),
        (f"UPDATE jobs SET spec = '{'[' * 400}{']' * 400}'", "value of spec is invalid"),
        ("UPDATE jobs SET created_at = 'yesterday'", "value of created_at is invalid: yesterday"),
        ("UPDATE jobs SET kind = CAST(zeroblob(3) AS TEXT)", "value of kind is invalid"),
        ("UPDATE jobs SET kind = x'ff'", "value of kind is invalid"),
        (f"UPDATE jobs SET kind = '{'k' * 17}'", "value of kind is invalid"),
        ("UPDATE jobs SET state = 'dreaming'", "table jobs: CHECK constraint failed"),
        ("UPDATE lineage SET parent_id = 77", "FOREIGN KEY constraint failed"),
        ("UPDATE lineage SET weight = 9e999", "value of weight is invalid: inf"),
        ("UPDATE jobs SET retry_of = (SELECT max(id) FROM jobs WHERE number = 5) WHERE number = 1", "FOREIGN KEY"),
        ("UPDATE jobs SET last_seq = 9223372036854775807", "table jobs: the numbers of job .* are invalid"),
        ("UPDATE jobs SET attempts = -1", "table jobs: the numbers of job .* are invalid"),
        ("UPDATE jobs SET last_seq = 0 WHERE state = 'running'", "the running jobs cannot be queued again: UNIQUE"),
        ("UPDATE bases SET path = 'a' || char(0)", "table bases, row 1: the value of path is invalid"),
        ("DELETE FROM tags", "has other numbers of rows than the record"),
    ],
)
def test_registry_file_with_anything_unusual_is_refused(backup: Path, target: Stores, script: str, text: str) -> None:
    change_registry(backup, script)
    with pytest.raises(errors.RefusedArtifact, match=text):
        restore(backup, target)
    assert_unused(target)


def test_duplicate_rows_without_constraints_are_refused(backup: Path, target: Stores) -> None:
    script = (
        "ALTER TABLE tags RENAME TO t; CREATE TABLE tags AS SELECT * FROM t UNION ALL SELECT * FROM t; DROP TABLE t"
    )
    change_registry(backup, f"DROP INDEX ix_tags_name; {script}")
    with pytest.raises(errors.RefusedArtifact, match="table tags: UNIQUE constraint failed"):
        restore(backup, target)
    assert_unused(target)


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\0" + b"\xff" * 4096])
def test_file_that_is_no_registry_is_refused(backup: Path, target: Stores, content: bytes) -> None:
    (backup / REGISTRY).write_bytes(content)
    seal(backup)
    with pytest.raises(errors.RefusedArtifact, match=r"registry\.db"):
        restore(backup, target)
    assert_unused(target)


def test_cut_or_damaged_registry_file_is_refused(backup: Path, target: Stores) -> None:
    data = (backup / REGISTRY).read_bytes()
    (backup / REGISTRY).write_bytes(data[: len(data) // 2])
    with pytest.raises(errors.RefusedArtifact, match=r"registry\.db: has another SHA-256"):
        restore(backup, target)
    seal(backup)
    with pytest.raises(errors.RefusedArtifact, match=r"registry\.db: is damaged"):
        restore(backup, target)
    assert_unused(target)


def find_blob(source: Stores, backup: Path) -> Path:
    """Return the file of the weights of a version, in a backup."""
    row = full_hub.read_all(source.database)["adapter_versions"][0]
    entry = source.artifacts.tree(row["digest"])["adapter_model.safetensors"]
    return backup / ARTIFACTS / blob_path(entry.digest)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda file: file.write_bytes(bytes(file.stat().st_size)), "adapter_model.safetensors.*bytes have changed"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "has another size than its tree says"),
        (lambda file: file.unlink(), "adapter_model.safetensors of adapter files .* is missing in the backup"),
    ],
)
def test_changed_cut_or_lost_artifact_is_refused(
    source: Stores, backup: Path, target: Stores, damage: Callable[[Path], object], text: str
) -> None:
    file = find_blob(source, backup)
    file.chmod(0o644)
    damage(file)
    with pytest.raises(errors.RefusedArtifact, match=text):
        restore(backup, target)
    assert_unused(target)


@pytest.mark.parametrize(
    "manifest",
    [b"[]", b"{", b'{"a":1}', b'{"../a":["%s",1]}' % (b"0" * 64), b'{"a":["../x",1]}', b'{"a":["x",-1]}', b"[" * 9000],
)
def test_tree_that_is_no_manifest_is_refused(backup: Path, target: Stores, manifest: bytes) -> None:
    digest = hashlib.sha256(manifest).hexdigest()
    file = backup / ARTIFACTS / tree_path(digest)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(manifest)
    change_registry(backup, f"UPDATE adapter_versions SET digest = '{digest}'")
    with pytest.raises(errors.RefusedArtifact, match=r"is not a manifest of files|is not a safe file name"):
        restore(backup, target)
    assert_unused(target)
