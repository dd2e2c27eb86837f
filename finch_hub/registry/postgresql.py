"""PostgreSQL connections: a server that many machines share."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event, exc

from finch_hub import errors, settings
from finch_hub.registry.postgresql_options import PostgresOptions, read_options
from finch_hub.registry.types import to_json

if TYPE_CHECKING:
    from finch_hub.registry.postgresql_connection import Connection

# A connection that was idle longer is checked before use. A check at each use would double the time of a short read.
_CHECK_AFTER_SECONDS = 1.0
_CHECK_SECONDS = 5.0  # for the answer
# A migration that waits for a table makes all later transactions wait behind it, so it gives up soon.
_MIGRATION_LOCK_TIMEOUT = "5s"
_MIGRATION_LOCK = 0x66696E6368  # "finch": the key of the advisory lock
_POLL_SECONDS = 0.2


def create_engine(url: sa.URL, *, connections: int) -> sa.Engine:
    """Return an engine whose connections notice a lost server. The execution option `read_only` is for readers.

    Args:
        connections: largest number of connections.

    Raises:
        InvalidSpec: an option in the URL is invalid.
        Unavailable: the driver is not installed.
    """
    options = _read_options(url)
    # The driver begins no transactions, so that the statement that begins one can also set its timeouts.
    engine = _make_engine(options, autocommit=True, pool_size=connections, max_overflow=0)
    # One statement inserts several rows; by default the driver sends one statement for each row.
    engine.dialect.use_insertmanyvalues_wo_returning = True
    event.listen(engine, "begin", functools.partial(_begin, _set_locally(**options.server)))
    event.listen(engine, "connect", functools.partial(_limit_answers, options.answer_seconds))
    event.listen(engine, "checkin", _record_last_use)
    event.listen(engine, "checkout", _check_connection)
    return engine


def create_migration_engine(url: sa.URL) -> sa.Engine:
    """Return an engine for statements of any length, which do not wait long for a lock.

    Raises:
        InvalidSpec: an option in the URL is invalid.
        Unavailable: the driver is not installed.
    """
    options = _read_options(url)
    engine = _make_engine(options)
    server = options.server | {"statement_timeout": "0", "lock_timeout": _MIGRATION_LOCK_TIMEOUT}
    event.listen(engine, "begin", functools.partial(_begin_migration, _set_locally(**server)))
    return engine


@contextlib.contextmanager
def hold_migration_lock(engine: sa.Engine, *, wait_seconds: float = 60.0) -> Iterator[None]:
    """Keep other upgrades out. A transaction holds the lock, since a pooler would give the session to others.

    Raises:
        Unavailable: another upgrade has the lock for longer than `wait_seconds`.
    """
    deadline = time.monotonic() + wait_seconds
    # CREATE INDEX CONCURRENTLY waits for each transaction that has a snapshot. So no transaction waits for the lock,
    # and none of these statements has parameters, since psycopg then keeps the snapshot until the next statement.
    while True:
        with engine.begin() as connection:
            if _execute_all(connection, f"SELECT pg_try_advisory_xact_lock({_MIGRATION_LOCK})").scalar():
                _execute_all(connection, _set_locally(idle_in_transaction_session_timeout="0"))
                yield
                return
        if time.monotonic() > deadline:
            what = f"another process has been upgrading the database for {wait_seconds:g} s"
            raise errors.Unavailable(f"{what} (wait until it ends, or end it, and try again)")
        time.sleep(_POLL_SECONDS)


def refuse_open_server(url: sa.URL) -> None:
    """Refuse a URL without credentials, unless its server is on this machine.

    Raises:
        InvalidSpec: the server is on another machine and the connection has no password.
    """
    hosts = [*(url.normalized_query.get("host", ())), *([url.host] if url.host else [])]
    in_url = url.password or {"passfile", "sslcert", "password", "service"} & set(url.query)
    if in_url or {"PGPASSWORD", "PGPASSFILE"} & set(os.environ) or settings.expand_home("~/.pgpass").exists():
        return
    for host in hosts:
        if not _is_local(host.rsplit(":", 1)[0] if host.count(":") == 1 else host):
            raise errors.InvalidSpec(
                f"no password for the database at {host}, which is not this machine",
                fix="set FINCH_DATABASE_PASSWORD, or FINCH_ALLOW_INSECURE=1 in a trusted network",
                subject="database",
            )


def _read_options(url: sa.URL) -> PostgresOptions:
    try:
        return read_options(url)
    except ModuleNotFoundError as error:
        what = f"cannot use PostgreSQL: the driver {error.name} is not installed (pip install 'finch-hub[postgres]')"
        raise errors.Unavailable(what) from None


def _make_engine(options: PostgresOptions, *, autocommit: bool = False, **pool: int) -> sa.Engine:
    from finch_hub.registry.postgresql_connection import Connection, Cursor

    arguments = {**options.connect, "autocommit": autocommit, "cursor_factory": Cursor}
    engine = sa.create_engine(options.url, pool_recycle=1800, json_serializer=to_json, connect_args=arguments, **pool)
    event.listen(engine, "do_connect", lambda _dialect, _record, args, options: Connection.connect(*args, **options))
    return engine


def _set_locally(**settings: str) -> str:
    """Return the statements that change settings of the server for one transaction."""
    return "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in settings.items())


def _begin(settings: str, connection: sa.Connection) -> None:
    is_reader = connection.get_execution_options().get("read_only", False)
    begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if is_reader else "BEGIN"
    _execute_all(connection, begin, settings)


def _begin_migration(settings: str, connection: sa.Connection) -> None:
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":  # for indexes built concurrently
        _execute_all(connection, settings)


def _execute_all(connection: sa.Connection, *statements: str) -> sa.CursorResult[Any]:
    """Execute statements in one round trip, which is possible without parameters only."""
    return connection.exec_driver_sql("; ".join(statements), execution_options={"no_parameters": True})


def _is_local(host: str) -> bool:
    if host in ("", "localhost") or host.startswith(("/", "@")):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _limit_answers(seconds: float, connection: Connection, _record: Any) -> None:
    connection.answer_seconds = seconds


def _record_last_use(_connection: Any, record: Any) -> None:
    record.info["last_used"] = time.monotonic()


def _check_connection(connection: Connection, record: Any, _proxy: Any) -> None:
    is_rested = time.monotonic() - record.info.get("last_used", float("inf")) > _CHECK_AFTER_SECONDS
    if is_rested and not connection.answers(within_seconds=_CHECK_SECONDS):
        raise exc.DisconnectionError  # the pool then uses another connection, or makes a new one
