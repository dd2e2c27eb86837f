from __future__ import annotations

import contextlib
import functools
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub import errors
from finch_hub.registry import sqlite
from finch_hub.registry.database import Database


def test_sqlite_uses_wal_full_sync_and_foreign_keys(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'finch.db'}")
    database.upgrade()
    with database.read() as session:
        pragmas = {name: session.scalar(sa.text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous")}
        pragmas["foreign_keys"] = session.scalar(sa.text("PRAGMA foreign_keys"))
    database.close()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_sqlite_on_a_network_file_system_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A test machine has no network file system. The next test reads the real mounts.
    monkeypatch.setattr(sqlite, "get_file_system", lambda path: kind)
    with pytest.raises(errors.InvalidSpec, match=f"network file system \\({kind}\\).*FINCH_HOME to a local disk"):
        Database(f"sqlite:///{tmp_path / 'finch.db'}")


def test_file_system_is_that_of_the_nearest_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "not" / "yet" / "there.db"
    assert sqlite.get_file_system(missing) == sqlite.get_file_system(tmp_path) != ""
    (tmp_path / "share").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "share")
    mounts = [
        ("/", "ext4"),
        (str(tmp_path), "xfs"),
        (str(tmp_path / "share"), "ext4"),
        (str(tmp_path / "share"), "nfs4"),
    ]
    partitions = [SimpleNamespace(mountpoint=place, fstype=kind) for place, kind in mounts]
    monkeypatch.setattr("psutil.disk_partitions", lambda **_: partitions)
    assert sqlite.get_file_system(missing) == "xfs"
    assert sqlite.get_file_system(tmp_path / "shared.db") == "xfs"
    assert sqlite.get_file_system(tmp_path / "share" / "finch.db") == "nfs4", "the last mount of a place is on top"
    assert sqlite.get_file_system(tmp_path / "link" / "finch.db") == "nfs4"
    assert sqlite.get_file_system(Path("/")) == "ext4"


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_file_that_is_gone_is_noticed_by_open_connections(tmp_path: Path, how: str) -> None:
    file = tmp_path / "finch.db"
    database = Database(f"sqlite:///{file}")
    database.upgrade()
    job = registry.submit(database)
    file.rename(tmp_path / "old.db")
    if how == "replaced":
        shutil.copy(tmp_path / "old.db", file)
    for use in (database.read, database.write):
        with pytest.raises(errors.ReplacedDatabase, match=r"finch\.db was replaced or removed"), use():
            pass
    database.close()
    (tmp_path / "old.db").replace(file)
    assert registry.get(database, job).id == job.id
    database.close()


def test_thread_may_close_the_database_while_another_looks_at_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, usual = tmp_path / "finch.db", Path.stat
    file.touch()
    opened = sqlite.OpenFile(file)
    opened.note()

    def close_meanwhile(path: Path) -> object:
        opened.forget()
        return usual(path)

    monkeypatch.setattr(Path, "stat", close_meanwhile)
    opened.check()


def test_texts_that_are_removed_while_the_file_is_rewritten_leave_it_unclean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The purge that removes them must rewrite the file once more."""
    database = Database(f"sqlite:///{tmp_path / 'finch.db'}")
    database.upgrade()
    with database.write() as session:
        sqlite.mark_unclean(session)
    connect = sqlite3.connect
    is_marked: list[bool] = []

    class Connection(sqlite3.Connection):
        def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
            done = super().execute(statement, *arguments)
            if statement == "VACUUM" and not is_marked:
                is_marked.append(True)
                with Database(str(database.url)).write() as session:
                    sqlite.mark_unclean(session)
            return done

    monkeypatch.setattr(sqlite3, "connect", functools.partial(connect, factory=Connection))
    file = tmp_path / "finch.db"
    sqlite.erase_deleted(file)
    with contextlib.closing(connect(file)) as connection:
        assert not sqlite.is_clean(connection)
    sqlite.erase_deleted(file)
    with contextlib.closing(connect(file)) as connection:
        assert sqlite.is_clean(connection)
    database.close()


def test_file_whose_log_another_process_reads_stays_unclean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log may have deleted texts. So the next collection erases them, too."""
    monkeypatch.setattr(sqlite, "LOCK_TIMEOUT_SECONDS", 0.1)
    file = tmp_path / "finch.db"
    database = Database(f"sqlite:///{file}")
    database.upgrade()
    with database.write() as session:
        sqlite.mark_unclean(session)
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM datasets").fetchone()
        assert not database.erase_deleted()
    assert database.is_unclean()
    assert database.erase_deleted()
    assert not database.is_unclean()
    database.close()
