"""The connection to the database: SQLite for one machine, PostgreSQL for many."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.orm import Session as Session
from sqlalchemy.orm import sessionmaker

from finch_hub import errors
from finch_hub.registry.group_commit import GroupCommits
from finch_hub.registry.types import to_json

# WAL needs memory that all processes share, and locks that hold: neither crosses a network.
_NETWORK_FILE_SYSTEMS = frozenset(
    {"afs", "beegfs", "ceph", "cifs", "davfs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs"}
    | {"lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"}
)
_SQLITE_BUSY_MS = 30_000
# libpq's; without them a connection to a machine that is gone waits for a quarter of an hour.
_PATIENCE = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
# A connection that lay for so long is asked whether it still is one; asking at each use would double a short read.
_FRESH_SECONDS = 1.0
# A client that is stopped within a transaction would keep its locks for good; none of ours thinks for so long.
_IDLE_IN_TRANSACTION = "30s"


# What drivers and servers say, and what to do about it. Servers that speak another language get the general advice.
_WRONG_PASSWORD = "password authentication failed"  # noqa: S105
_ADVICE = {
    _WRONG_PASSWORD: "mend the user or the password in FINCH_DATABASE_URL",
    "no password supplied": "put the password into FINCH_DATABASE_URL",
    "deadlock detected": "it waited for another transaction that waited for it; try again",
    "too many clients": "let the server take more connections (max_connections), or run fewer workers",
    " does not exist": "mend the names in FINCH_DATABASE_URL, or create the database",
    "disk is full": "free some space, or set FINCH_HOME to a larger disk",
    "No space left": "free some space on the server",
    "disk I/O error": "the disk is full or damaged; free some space, or set FINCH_HOME to another disk",
    "database is locked": "another process holds it for too long; end that one",
    "not a database": "restore the file from a backup, or set FINCH_HOME to another folder",
    "malformed": "restore the file from a backup, or set FINCH_HOME to another folder",
}


class Database:
    """An engine with its sessions: `read` for looking, `write` for one transaction that is committed or undone whole.

    Args:
        url: ``sqlite:///path`` or ``postgresql://…`` (by psycopg).
        allow_insecure: connect without credentials to a server that is not on this machine.

    Raises:
        InvalidSpec: the URL is none of these; the file lies on a network file system; no credentials off loopback.
        Unavailable: the driver is not installed.

    """

    def __init__(self, url: str, *, allow_insecure: bool = False) -> None:
        self.url = _parse(url)
        self._transaction: Callable[[], contextlib.AbstractContextManager[Session]]
        if self.is_sqlite:
            refuse_network_file_system(self._file)
            self._engine = self._sqlite(reading=False)
            # Connections of their own: to make one fit for the other use would be a statement at each change.
            self._reader = self._sqlite(reading=True)
            self._transaction = GroupCommits(self._engine, patience_seconds=_SQLITE_BUSY_MS / 1000).transaction
        else:
            if not allow_insecure:
                _refuse_open_server(self.url)
            self._engine = self._postgresql()
            self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            self._transaction = sessionmaker(self._engine, expire_on_commit=False).begin
        self._readers = sessionmaker(self._reader, expire_on_commit=False)

    def _sqlite(self, *, reading: bool) -> sa.Engine:
        timeout = {"timeout": _SQLITE_BUSY_MS / 1000}
        engine = sa.create_engine(self.url, json_serializer=to_json, connect_args=timeout)
        event.listen(engine, "connect", functools.partial(_configure_sqlite, reading=reading))
        # A deferred transaction that reads first and writes later fails with "locked" without waiting.
        begin = "BEGIN" if reading else "BEGIN IMMEDIATE"
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        return engine

    def _postgresql(self) -> sa.Engine:
        try:
            engine = sa.create_engine(
                self.url,
                pool_recycle=1800,
                json_serializer=to_json,
                connect_args={name: value for name, value in _PATIENCE.items() if name not in self.url.query},
            )
        except ModuleNotFoundError as error:
            raise errors.Unavailable(
                f"the driver {error.name} is not installed: pip install 'finch-hub[postgres]'"
            ) from None
        # Several new rows are one statement; by itself the driver sends one for each.
        engine.dialect.use_insertmanyvalues_wo_returning = True
        event.listen(engine, "connect", _configure_postgresql)
        event.listen(engine, "checkin", _note_last_use)
        event.listen(engine, "checkout", _ask_if_alive)
        return engine

    @property
    def is_sqlite(self) -> bool:
        """Whether it is the file of one machine."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def _file(self) -> Path:
        return Path(self.url.database or "")

    def __str__(self) -> str:
        return str(self.url.difference_update_query(("password", "sslpassword")))  # its password is drawn as ***

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session that looks at one state of the data, and can change nothing.

        Raises:
            Unavailable: the database does not answer.

        """
        # Ended by a commit too: at each ROLLBACK psycopg forgets what the server has prepared for the connection.
        with self._translated(), self._readers.begin() as session:
            yield session

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """Open one transaction: committed at the end of the block, undone by an exception.

        On SQLite it takes the only write lock at once, so nothing read in it can change before it is written; threads
        that wait for each other there are committed together.

        Raises:
            Conflict: a constraint of the database forbids it.
            Unavailable: the database does not answer, is locked for too long, or is full.

        """
        with self._translated(), self._transaction() as session:
            yield session

    def revision(self) -> str | None:
        """Return the schema's revision, None for an empty database."""
        from finch_hub.registry import schema

        if self.is_sqlite and not self._file.exists():
            return None  # and looking does not make it
        with self._translated(), self._reader.connect() as connection:
            return schema.revision(connection)

    def check(self) -> None:
        """Make sure that the schema is this code's.

        Raises:
            SchemaMismatch: it is older or newer; says what to do.

        """
        from finch_hub.registry import schema

        schema.check(self.revision(), str(self))

    def upgrade(self) -> None:
        """Bring the schema to this code's revision; two at once do it once.

        Raises:
            SchemaMismatch: it is newer than this code.

        """
        from finch_hub.registry import schema

        if self.is_sqlite:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._translated(), self._engine.begin() as connection:
            schema.upgrade(connection, str(self))

    def close(self) -> None:
        """Close all pooled connections."""
        self._engine.dispose()
        self._reader.dispose()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.TimeoutError as error:
            raise errors.Unavailable(f"all connections to {self} are in use: {error}") from error
        except exc.DBAPIError as error:
            what = str(error.orig).strip().partition("\n")[0]
            if isinstance(error, exc.IntegrityError):
                raise errors.Conflict(f"the database refused it: {what}") from error
            if _lacks_table(error):
                raise errors.SchemaMismatch(f"{self} has no tables of ours: run `finch-hub db upgrade`") from error
            if isinstance(error, (exc.ProgrammingError, exc.DataError, exc.NotSupportedError)):
                raise  # ours to mend, not the user's
            kind = errors.AccessDenied if _WRONG_PASSWORD in what else errors.Unavailable
            raise kind(f"{self} cannot be used: {what} ({self._advice(what)})") from error

    def _advice(self, what: str) -> str:
        for sign, advice in _ADVICE.items():
            if sign in what:
                return advice
        if self.is_sqlite:
            return "make sure that the folder can be written, or set FINCH_HOME to another one"
        return "make sure that the server runs and that FINCH_DATABASE_URL names its host and port"


def refuse_network_file_system(path: Path) -> None:
    """Refuse a SQLite file where its locks do not hold.

    Raises:
        InvalidSpec: the path lies on a network file system.

    """
    kind = file_system(path)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise errors.InvalidSpec(
            errors.Problem(
                what=f"{path} lies on a network file system ({kind}), where SQLite's locks do not hold",
                fix="set FINCH_HOME to a local disk, or FINCH_DATABASE_URL to a PostgreSQL server",
            ),
            subject="database",
        )


def file_system(path: Path) -> str:
    """Return the type of the file system that the path is, or would be, on; empty where it cannot be told."""
    import psutil

    path = path.absolute()
    while not path.exists():
        path = path.parent
    path = path.resolve()
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}  # the last one is on top
    return next((mounts[place] for place in (path, *path.parents) if place in mounts), "")


def _parse(url: str) -> sa.URL:
    fix = "give sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
    try:
        parsed = sa.make_url(url)
        # Here no part is shown: what looks like a host or a name may be a piece of the password.
        if parsed.drivername.startswith("postgres") and "@" in f"{parsed.host}{parsed.database}":
            raise ValueError
    except (exc.ArgumentError, ValueError):
        fix += ", with @ / and : of a password as %40 %2F and %3A"
        raise errors.InvalidSpec(errors.Problem(what="is no database URL", fix=fix), subject="database") from None
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise errors.InvalidSpec(
            errors.Problem(what=f"{parsed.drivername!r} is no database that we use", fix=fix), subject="database"
        )
    if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
        raise errors.InvalidSpec(errors.Problem(what="SQLite needs a file", fix=fix), subject="database")
    return parsed


def _refuse_open_server(url: sa.URL) -> None:
    hosts = [*(url.normalized_query.get("host", ())), *([url.host] if url.host else [])]
    in_url = url.password or {"passfile", "sslcert", "password", "service"} & set(url.query)
    if in_url or {"PGPASSWORD", "PGPASSFILE"} & set(os.environ) or Path("~/.pgpass").expanduser().exists():
        return
    for host in hosts:
        if not _is_local(host.rsplit(":", 1)[0] if host.count(":") == 1 else host):
            raise errors.InvalidSpec(
                errors.Problem(
                    what=f"no password for the database at {host}, which is not this machine",
                    fix="put one into FINCH_DATABASE_URL, or set FINCH_ALLOW_INSECURE=1 if the network is trusted",
                ),
                subject="database",
            )


def _is_local(host: str) -> bool:
    if host in ("", "localhost") or host.startswith(("/", "@")):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _configure_sqlite(connection: Any, _record: Any, *, reading: bool) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself; we do
    for pragma in (
        f"busy_timeout = {_SQLITE_BUSY_MS}",
        "journal_mode = WAL",
        "synchronous = FULL",  # WAL's usual NORMAL may lose the last commits with the power
        "foreign_keys = ON",
        "temp_store = MEMORY",
        f"query_only = {int(reading)}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _configure_postgresql(connection: Any, _record: Any) -> None:
    connection.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_IN_TRANSACTION}'")
    connection.commit()


def _note_last_use(_connection: Any, record: Any) -> None:
    record.info["last_used"] = time.monotonic()


def _ask_if_alive(connection: Any, record: Any, _proxy: Any) -> None:
    if time.monotonic() - record.info.get("last_used", float("inf")) > _FRESH_SECONDS:
        try:
            connection.execute("SELECT 1")
            connection.commit()
        except Exception as error:
            raise exc.DisconnectionError from error  # the pool then takes another one, or makes one


def _lacks_table(error: exc.DBAPIError) -> bool:
    return "no such table" in str(error.orig) or getattr(error.orig, "sqlstate", None) == "42P01"
