"""SQLite connections: a file on a local disk, shared by the processes of one machine."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import search_index
from finch_hub.registry.types import from_json, to_json

LOCK_TIMEOUT_SECONDS = 30.0
_CLEAN = 1  # mark of a file without copies of deleted texts; earlier versions left 0
# WAL needs shared memory and reliable locks, and no network file system has both.
_NETWORK_FILE_SYSTEMS = frozenset(
    {"afs", "beegfs", "ceph", "cifs", "davfs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs"}
    | {"lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"}
)


def create_engine(url: sa.URL, *, read_only: bool = False, foreign_keys: bool = True) -> sa.Engine:
    """Return an engine whose connections only read, or take the write lock when they begin."""
    engine = sa.create_engine(
        url, json_serializer=to_json, json_deserializer=from_json, connect_args={"timeout": LOCK_TIMEOUT_SECONDS}
    )
    event.listen(engine, "connect", functools.partial(_configure, read_only=read_only, foreign_keys=foreign_keys))
    # A deferred transaction that reads first and writes later would fail with "locked" without waiting.
    begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def create_migration_engine(url: sa.URL) -> sa.Engine:
    """Return an engine without foreign keys: a table that is rebuilt would delete the rows that refer to its rows."""
    return create_engine(url, foreign_keys=False)


class OpenFile:
    """File of a database while it has connections.

    After somebody replaced or removed it, SQLite would go on with a file that nobody else sees.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: os.stat_result | None = None

    def note(self, *_: Any) -> None:
        """Remember the file of the first connection. While this is open, no other file gets its number."""
        if self._opened is None:
            self._opened = self._path.stat()

    def forget(self) -> None:
        """Forget the file, since all connections are closed."""
        self._opened = None

    def check(self) -> None:
        """Refuse to go on without the file.

        Raises:
            ReplacedDatabase: another file is at the path, or none.
        """
        opened = self._opened  # another thread may close the database meanwhile
        if opened is None:
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(self._path.stat(), opened):
                return
        fix = "stop all workers before you replace it, and start this process again"
        raise errors.ReplacedDatabase(
            f"the database file {self._path} was replaced or removed while it was open ({fix})"
        )


def refuse_foreign_keys(connection: sa.Connection) -> None:
    """Refuse a connection on which a table that a migration rebuilds would take its referring rows along.

    Raises:
        RuntimeError: foreign keys are on. A transaction cannot turn them off.
    """
    if connection.exec_driver_sql("PRAGMA foreign_keys").scalar():
        raise RuntimeError("migrations need a connection without foreign keys (use Database.upgrade)")


def check_references(connection: sa.Connection) -> None:
    """Check all references after a migration, before its commit.

    Raises:
        Conflict: rows refer to rows that do not exist.
    """
    tables = sorted({f"{row[0]} to {row[2]}" for row in connection.exec_driver_sql("PRAGMA foreign_key_check")})
    if tables:
        raise errors.Conflict(
            f"cannot change the schema: references between tables are broken, from {', '.join(tables)}"
            " (nothing was changed; restore the file from a backup)"
        )


def erase_deleted(file: Path) -> bool:
    """Empty the log of a file, and return whether no other process kept it from being emptied.

    The log has the pages from before a deletion. In the file, `secure_delete` overwrites what is deleted. But a page
    that was divided may keep a copy of a row that moved, and versions before 0013 of the schema overwrote nothing. So a
    file of such a version, and one from which texts were removed, is written anew, without what it no longer uses.

    Raises:
        sqlite3.Error: the file is locked for too long, or the disk is full.
    """
    connection = sqlite3.connect(file, timeout=LOCK_TIMEOUT_SECONDS, isolation_level=None)
    try:
        mark = _read_mark(connection)
        if mark != _CLEAN:
            connection.execute("PRAGMA secure_delete = ON")
            search_index.merge_texts(connection)
            connection.execute("VACUUM")
        is_busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if mark != _CLEAN and not is_busy:
            connection.execute("BEGIN IMMEDIATE")
            if _read_mark(connection) == mark:  # otherwise texts were removed since, whose copies are still there
                mark_clean(connection)
            connection.execute("COMMIT")
        return not is_busy
    finally:
        connection.close()


def make_private(file: Path) -> None:
    """Make an empty file that other users cannot read. SQLite gives its log the same permissions.

    Raises:
        Unavailable: the file cannot be made.
    """
    try:
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError as error:
        what = f"could not make the database {file}: {error.strerror}"
        raise errors.Unavailable(f"{what} (set FINCH_HOME to a folder that you can write to)") from error


def is_clean(connection: Any) -> bool:
    """Return whether everything that was ever deleted from a file was overwritten."""
    return _read_mark(connection) == _CLEAN


def _read_mark(connection: Any) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def mark_clean(connection: Any) -> None:
    """Record in a file that everything that was deleted from it was overwritten."""
    connection.execute(f"PRAGMA user_version = {_CLEAN}")


def mark_unclean(session: Session) -> None:
    """Record in a transaction that deletes texts that the file may keep copies of them, until it is rewritten.

    Each transaction writes another mark, so that a process that rewrites the file at that time sees it.
    """
    session.execute(sa.text(f"PRAGMA user_version = {-1 - secrets.randbelow(2**31 - 1)}"))


def refuse_network_file_system(path: Path) -> None:
    """Refuse a path where SQLite's locks do not work.

    Raises:
        InvalidSpec: the path lies on a network file system.
    """
    kind = get_file_system(path)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise errors.InvalidSpec(
            f"the file {path} lies on a network file system ({kind}), where SQLite's locks do not work",
            fix="set FINCH_HOME to a local disk, or FINCH_DATABASE_URL to a PostgreSQL server",
            subject="database",
        )


def get_file_system(path: Path) -> str:
    """Return the type of the file system of a path, which need not exist; empty if it is unknown."""
    import psutil

    path = path.absolute()
    while not path.exists():
        path = path.parent
    path = path.resolve()
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}  # the last is on top
    return next((mounts[folder] for folder in (path, *path.parents) if folder in mounts), "")


def _configure(connection: Any, _record: Any, *, read_only: bool, foreign_keys: bool) -> None:
    connection.isolation_level = None  # keeps the driver from beginning transactions by itself
    connection.text_factory = lambda text: text.decode(errors="replace")  # one damaged text must not hide other rows
    for pragma in (
        f"busy_timeout = {int(LOCK_TIMEOUT_SECONDS * 1000)}",
        "journal_mode = WAL",
        "synchronous = FULL",  # WAL's usual NORMAL may lose the last commits in a power failure
        "wal_autocheckpoint = 4000",  # pages; a version changes thirty, mostly the same, which are copied less often
        f"foreign_keys = {int(foreign_keys)}",
        "secure_delete = ON",  # what users delete or purge must not stay in the file
        "temp_store = MEMORY",
        f"query_only = {int(read_only)}",
    ):
        connection.execute(f"PRAGMA {pragma}")
