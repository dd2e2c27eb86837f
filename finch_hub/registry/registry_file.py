"""Registry files: SQLite files with all rows of a registry, as backups have them."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
import sys
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import (
    attempts,
    column_values,
    outbox,
    row_copies,
    schema_revisions,
    search_index,
    sqlite,
    transitions,
)
from finch_hub.registry.tables import Deployment, Table, jobs
from finch_hub.registry.types import from_json, now, to_json
from finch_hub.specs.jobs import Job, JobState
from finch_hub.specs.outputs import OutputPlace

_REVISIONS = "alembic_version"
_OWN_OBJECTS = "sqlite_"  # prefix of the indexes, counters and statistics that SQLite makes by itself
_MAX_EVENTS = 2**62  # of a job, so that more can be added


@contextlib.contextmanager
def open_file(file: Path, *, create: bool = False) -> Iterator[Session]:
    """Open a registry file that only this process uses, on any file system, and commit the block's changes.

    The file is not flushed. There are no foreign keys.

    Args:
        create: whether to make the tables of this code's revision in a new file, without rows.

    Raises:
        OSError: the disk is full, or the file cannot be read or written.
    """
    engine = _create_engine(file)
    try:
        if create:
            _create_tables(engine, schema_revisions.HEAD)
        with Session(engine) as session:
            yield session
            session.commit()
    finally:
        engine.dispose()


def read_time(session: Session) -> datetime:
    """Return the time by the database's clock."""
    return session.scalars(sa.select(now())).one()


def rebuild(untrusted: Path, file: Path, revision: str, *, count: Callable[[int], None]) -> None:
    """Build a registry file of this code's revision from one that may come from anybody.

    Only the rows of known tables are read, each value is checked, and nothing else of that file is kept: the schema,
    with its constraints, is made here. An older schema is then upgraded.

    Args:
        revision: revision that the file should have.
        count: called with the number of rows of each batch.

    Raises:
        SchemaMismatch: this code does not know the revision.
        RefusedArtifact: the file is damaged, or has anything that no registry has.
        OSError: the disk is full, or a file cannot be read or written.
    """
    if not schema_revisions.is_known(revision):
        raise errors.SchemaMismatch(
            f"the backup has the newer schema {revision}: this code needs {schema_revisions.HEAD}"
            " (update finch-hub on this machine)"
        )
    engine = _create_engine(file)
    try:
        with contextlib.closing(_open_untrusted(untrusted)) as source:
            _create_tables(engine, revision)
            with _refuse_damaged():
                _check_objects(source, engine, revision)
            names = _list_tables(engine)
            with engine.connect() as connection:
                _switch_foreign_keys(connection, "ON")
                for name in names:
                    _load_table(source, connection, name, count)
                connection.commit()
            _upgrade(engine)
    finally:
        engine.dispose()


def queue_jobs(session: Session, reason: str) -> tuple[list[Job], int]:
    """Queue the running jobs of a rebuilt file again, and let all queued jobs have a message.

    Return the jobs that ran and are queued now, and the number of all queued jobs.

    Raises:
        RefusedArtifact: numbers of a job contradict each other.
    """
    is_odd = sa.or_(~jobs.c.last_seq.between(0, _MAX_EVENTS), jobs.c.attempts < 0, jobs.c.fence < 0)
    try:
        if odd := session.scalar(sa.select(jobs.c.id).where(is_odd).limit(1)):
            raise _refuse(f"table jobs: the numbers of job {_quote(odd)} are invalid")
        _bring_outputs_to_store(session)
        handed_back = attempts.hand_back_all(session, reason)
        queued = outbox.ring_all(session)
        transitions.insert_events(session)
    except exc.IntegrityError as error:
        raise _refuse(f"the running jobs cannot be queued again: {error.orig}") from error
    return [job for job in handed_back if job.state is JobState.QUEUED], queued


def _bring_outputs_to_store(session: Session) -> None:
    """Let old jobs that do not say whose disk their output belongs on write it to the store, to be fetched.

    The disk was that of the worker, which the restored hub may not have.
    """
    rows = session.execute(sa.select(jobs.c.id, jobs.c.spec).where(jobs.c.finished_at.is_(None))).all()
    for row in rows:
        spec = row.spec if isinstance(row.spec, dict) else {}
        if isinstance(out := spec.get("out"), str) and spec.get("place") is None:
            place = OutputPlace(folder=str(Path(out).parent), mark="restored")  # the mark of no folder
            changed = {**spec, "place": place.model_dump()}
            session.execute(sa.update(jobs).where(jobs.c.id == row.id).values(spec=changed))


def _create_engine(file: Path) -> sa.Engine:
    # Without locks and shared memory, the file may lie on a network file system.
    uri = f"file:{urllib.parse.quote(str(file.absolute()))}?nolock=1"
    engine = sa.create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(uri, uri=True, check_same_thread=False),
        poolclass=sa.pool.StaticPool,
        json_serializer=to_json,
        json_deserializer=from_json,
    )
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    event.listen(engine, "handle_error", _translate_error)
    return engine


def _translate_error(context: sa.ExceptionContext) -> None:
    """Turn an error about the disk into that of the operating system, since it is none of the hub's database.

    Raises:
        OSError: the disk is full or damaged.
    """
    error = context.original_exception
    if isinstance(error, sqlite3.OperationalError):
        is_full = "full" in str(error) or "disk I/O" in str(error)
        raise OSError(errno.ENOSPC if is_full else errno.EIO, str(error)) from error


def _configure(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # keeps the driver from beginning transactions by itself
    for pragma in ("journal_mode = DELETE", "synchronous = OFF", "foreign_keys = OFF", "temp_store = MEMORY"):
        connection.execute(f"PRAGMA {pragma}")


def _create_tables(engine: sa.Engine, revision: str) -> None:
    with engine.connect() as connection:
        schema_revisions.create(connection, revision)
        if sa.inspect(connection).has_table(Deployment.__tablename__):
            connection.execute(sa.text("DELETE FROM deployment"))  # the migration gave the file an id of its own
        search_index.drop(connection)  # which backups leave out
        connection.commit()


def _switch_foreign_keys(connection: sa.Connection, value: str) -> None:
    """Turn foreign keys on or off, through the driver, since this has no effect in a transaction."""
    driver: Any = connection.connection.driver_connection
    driver.execute(f"PRAGMA foreign_keys = {value}")


def _upgrade(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        _switch_foreign_keys(connection, "OFF")
        try:
            schema_revisions.upgrade(connection, "of the backup")
            sqlite.check_references(connection)
        except (errors.Conflict, exc.IntegrityError, ValueError, TypeError, LookupError) as error:
            raise errors.RefusedArtifact(f"its rows cannot be upgraded: {error}", where="registry.db") from error
        connection.commit()


def _open_untrusted(file: Path) -> sqlite3.Connection:
    """Open a file that may come from anybody, so that nothing in it is executed or written."""
    uri = f"file:{urllib.parse.quote(str(file.absolute()))}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True)
    connection.isolation_level = None
    if sys.version_info >= (3, 12):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "query_only = ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _check_objects(source: sqlite3.Connection, engine: sa.Engine, revision: str) -> None:
    """Refuse a file with other tables and columns than its revision has, or with views and triggers."""
    state = source.execute("PRAGMA quick_check(1)").fetchone()[0]
    if state != "ok":
        raise _refuse(f"is damaged: {str(state)[:200]}")
    inspector = sa.inspect(engine)
    tables = [*_list_tables(engine), _REVISIONS]
    indexes = {index["name"] for table in tables for index in inspector.get_indexes(table)}
    known = {("table", table) for table in tables} | {("index", str(name)) for name in indexes}
    known |= {("index", name) for (name,) in _read_index_names(engine)}
    found = [tuple(row) for row in source.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master")]
    for kind, name, sql in found:
        is_own = str(name).startswith(_OWN_OBJECTS) and kind in ("index", "table")
        is_plain = not str(sql).upper().startswith("CREATE VIRTUAL")
        if not (is_own or ((kind, name) in known and is_plain)):
            raise _refuse(f"has the {str(kind)[:20]} {_quote(name)}, which no registry has")
    if missing := sorted(set(tables) - {name for _, name, _ in found}):
        raise _refuse(f"has no table {missing[0]}")
    for table in tables:
        wanted = {column["name"] for column in inspector.get_columns(table)}
        columns = {row[1]: row[6] for row in source.execute(f"PRAGMA table_xinfo({table})")}
        if set(columns) != wanted or any(columns.values()):  # a column that is not 0 is computed or hidden
            raise _refuse(f"has other columns in table {table} than schema {revision}")
    numbers = source.execute(f"SELECT version_num FROM {_REVISIONS} LIMIT 2").fetchall()  # noqa: S608
    if numbers != [(revision,)]:
        raise _refuse(f"does not have the schema {revision} that the record of the backup names")


def _read_index_names(engine: sa.Engine) -> Sequence[sa.Row[Any]]:
    with engine.connect() as connection:  # the inspector omits indexes of expressions
        return connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'index'").all()


def _list_tables(engine: sa.Engine) -> list[str]:
    """Return the tables with rows of the file's revision, each behind those that it refers to."""
    names = set(sa.inspect(engine).get_table_names()) - {_REVISIONS}
    ordered = [table.name for table in row_copies.list_tables() if table.name in names]
    return [*ordered, *sorted(names - set(ordered))]


def _load_table(source: sqlite3.Connection, target: sa.Connection, name: str, count: Callable[[int], None]) -> None:
    columns = sa.inspect(target).get_columns(name)
    keys = sa.inspect(target).get_pk_constraint(name)["constrained_columns"]
    names = [column["name"] for column in columns]
    current = dict(Table.metadata.tables[name].c.items()) if name in Table.metadata.tables else {}
    # The names come from the schema that was made here.
    listed = ", ".join(f'"{column}"' for column in names)
    order = ", ".join(f'"{key}"' for key in keys)
    places = ", ".join("?" for _ in names)
    with _refuse_damaged():
        rows = source.execute(f'SELECT {listed} FROM "{name}" NOT INDEXED ORDER BY {order}')  # noqa: S608
    while True:
        with _refuse_damaged():
            batch = rows.fetchmany(row_copies.BATCH)
        if not batch:
            return
        for row in batch:
            for column, value in zip(names, row, strict=True):
                if column in current and value is not None and not column_values.fits(current[column].type, value):
                    key = ", ".join(_quote(row[names.index(part)]) for part in keys)
                    raise _refuse(f"table {name}, row {key}: the value of {column} is invalid: {_quote(value)}")
        try:
            target.exec_driver_sql(f'INSERT INTO "{name}" ({listed}) VALUES ({places})', [*map(tuple, batch)])  # noqa: S608
        except exc.IntegrityError as error:
            raise _refuse(f"table {name}: {error.orig}") from error
        count(len(batch))


def _quote(value: Any) -> str:
    return str(value)[:100]


def _refuse(what: str) -> errors.RefusedArtifact:
    return errors.RefusedArtifact(what, where="registry.db", fix="use another backup")


@contextlib.contextmanager
def _refuse_damaged() -> Iterator[None]:
    """Turn SQLite's errors about the file from outside into `RefusedArtifact`."""
    try:
        yield
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise _refuse(f"is damaged or not a SQLite file: {error}") from error
