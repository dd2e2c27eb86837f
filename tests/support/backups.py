"""Backups that are restored, and changed as somebody who wants to deceive would change them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finch_hub.formats.finch_record import RECORD
from finch_hub.registry import deployment, row_copies
from finch_hub.registry.database import Database
from finch_hub.specs.backups import RestoreReport
from finch_hub.storage.backup import hash_file
from finch_hub.storage.backup_folder import REGISTRY, BackupFolder
from finch_hub.storage.changes import Change
from finch_hub.storage.restoration import restore_backup
from finch_hub.storage.stores import Stores

Open = Callable[..., Stores]


def restore(folder: Path, stores: Stores) -> RestoreReport:
    return restore_backup(BackupFolder(folder), Change(stores, "hub.restore", str(folder), {}), stores)


def find_id(database: Database) -> str:
    with database.read() as session:
        return deployment.find_id(session)


def assert_unused(stores: Stores) -> None:
    """Assert that nothing was written."""
    with stores.database.read() as session:
        assert row_copies.find_filled(session) == ["deployment"]
    assert stores.artifacts.is_empty
    left = [path.name for path in stores.settings.cache.glob("*")] if stores.settings.cache.exists() else []
    assert left == []


def seal(folder: Path, **changes: Any) -> None:
    """Write the record of a backup anew, with the hash that its registry file has now."""
    record = json.loads((folder / RECORD).read_text())
    changes.setdefault("registry", hash_file(folder / REGISTRY))
    (folder / RECORD).write_text(json.dumps(record | changes))


def change_registry(folder: Path, script: str, **changes: Any) -> None:
    """Execute SQL in the registry file of a backup, as somebody who wants to deceive would."""
    connection = sqlite3.connect(folder / REGISTRY)
    connection.executescript(f"PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON; {script}")
    connection.close()
    seal(folder, **changes)
