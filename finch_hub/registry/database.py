"""The database of the registry: SQLite for one machine, PostgreSQL for many."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.orm import Session as Session
from sqlalchemy.orm import sessionmaker

from finch_hub import errors, progress
from finch_hub.registry import postgresql, schema_revisions, search_index, sqlite
from finch_hub.registry.group_commit import GroupCommits

# Messages of drivers and servers, and the advice for each. Messages in another language get the general advice.
_WRONG_PASSWORD = "password authentication failed"  # noqa: S105
_FEWER_CONNECTIONS = (
    "too many connections: raise max_connections on the server, lower FINCH_DATABASE_CONNECTIONS, or run fewer workers"
)
_ZERO_BYTE = "cannot contain NUL"
_LOST_STATEMENT = ("26000", "42P05")  # a prepared statement that is missing, or there already
_REFUSED = ("42501", "3F000")  # a right or a schema that is missing
# Tables or columns that are missing, or there already: those of another program, or of a schema that was changed.
_OTHER_TABLES = ("42P01", "42703", "42701", "42710", "42P07")
_OTHER_TABLES_ON_SQLITE = ("no such table", "no such column", "has no column", "already exists")
_DAMAGED_ON_SQLITE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_DAMAGED_ON_POSTGRESQL = ("XX001", "XX002")
_UNPREPARED = "a pooler lost a prepared statement: add prepare_threshold=none to the options of FINCH_DATABASE_URL"
_ADVICE = {
    "prepared statement": _UNPREPARED,
    _WRONG_PASSWORD: "check the user and the password in FINCH_DATABASE_URL or FINCH_DATABASE_PASSWORD",
    "no password supplied": "set FINCH_DATABASE_PASSWORD",
    "lock timeout": "another transaction holds the lock: wait until it ends, or end it, and try again",
    "deadlock detected": "two transactions waited for each other: try again",
    "statement timeout": "the statement took too long: try again, or raise statement_timeout in FINCH_DATABASE_URL",
    "too many clients": _FEWER_CONNECTIONS,
    "too many connections": _FEWER_CONNECTIONS,
    "connection slots": _FEWER_CONNECTIONS,
    "no more connections allowed": _FEWER_CONNECTIONS,
    "query_wait_timeout": "all connections of the pooler are in use: raise its pool size, or run fewer workers",
    "unsupported startup parameter": "the pooler refuses an option of FINCH_DATABASE_URL: remove it",
    "permission denied": "grant the user the rights to create and use tables",
    "no schema has been selected": "check search_path in FINCH_DATABASE_URL, or create the schema",
    " does not exist": "check the names in FINCH_DATABASE_URL, or create the database",
    "disk is full": "free some space, or set FINCH_HOME to a larger disk",
    "No space left": "free some space on the server",
    "disk I/O error": "the disk is full or damaged: free some space, or set FINCH_HOME to another disk",
    "readonly database": "make the file and its folder writable for this user",
    "database is locked": "stop the process that holds the lock",
    "not a database": "restore the file from a backup, or set FINCH_HOME to another folder",
    "malformed": "restore the file from a backup, or set FINCH_HOME to another folder",
}
_SQLITE_ADVICE = "check that the folder is writable, or set FINCH_HOME to another folder"
_POSTGRESQL_ADVICE = "check that the server runs and that FINCH_DATABASE_URL names its host and port"


class Database:
    """A database with sessions: `read` to query, `write` for one transaction that is committed or rolled back.

    Args:
        url: ``sqlite:///path`` or ``postgresql://…``.
        allow_insecure: connect without credentials to a server on another machine.
        connections: largest number of connections to a server.

    Raises:
        InvalidSpec: the URL is invalid, the file lies on a network file system, or the server needs a password.
        Unavailable: the driver is not installed.
    """

    def __init__(self, url: str, *, allow_insecure: bool = False, connections: int = 3) -> None:
        self.url = _parse(url)
        self._file = Path(self.url.database or "")  # for SQLite
        self._open_file = sqlite.OpenFile(self._file)
        self._begin: Callable[[], contextlib.AbstractContextManager[Session]]
        if self.is_sqlite:
            sqlite.refuse_network_file_system(self._file)
            self._engine = sqlite.create_engine(self.url)
            # An engine of its own: to switch a connection between both uses would take a statement each time.
            self._reader = sqlite.create_engine(self.url, read_only=True)
            for engine in (self._engine, self._reader):
                sa.event.listen(engine, "connect", self._open_file.note)
            self._begin = GroupCommits(self._engine, patience_seconds=sqlite.LOCK_TIMEOUT_SECONDS).transaction
        else:
            if not allow_insecure:
                postgresql.refuse_open_server(self.url)
            self._engine = postgresql.create_engine(self.url, connections=connections)
            self._reader = self._engine.execution_options(read_only=True)
            self._begin = sessionmaker(self._engine, expire_on_commit=False).begin
        self._readers = sessionmaker(self._reader, expire_on_commit=False)

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a file of one machine."""
        return self.url.get_backend_name() == "sqlite"

    def __str__(self) -> str:
        return str(self.url.difference_update_query(("password", "sslpassword")))  # SQLAlchemy masks the URL's password

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session that sees one state of the data and cannot change it.

        Raises:
            Unavailable: the database does not answer.
            ReplacedDatabase: its file was replaced or removed.
        """
        self._open_file.check()
        # A commit ends it: after each ROLLBACK psycopg forgets the statements that the server has prepared.
        with self._translate_errors(), self._readers.begin() as session:
            yield session

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """Open one transaction, which the end of the block commits and an exception rolls back.

        On SQLite it takes the only write lock at once, so that nothing read in it changes before it writes. Threads
        that wait for each other there are committed together.

        Raises:
            Conflict: a constraint of the database forbids the change.
            Unavailable: the database does not answer, stays locked too long, or is full.
            ReplacedDatabase: its file was replaced or removed.
        """
        self._open_file.check()
        with self._translate_errors(), self._begin() as session:
            yield session

    def revision(self) -> str | None:
        """Return the revision of the schema, None for an empty database.

        Raises:
            SchemaMismatch: the table of the revision is damaged.
        """
        if self.is_sqlite and not self._file.exists():
            return None  # a connection would create the file
        with self._translate_errors(), self._reader.connect() as connection:
            return schema_revisions.revision(connection, str(self))

    def check(self, *, tables: bool = False) -> None:
        """Refuse a schema that this code cannot use.

        Args:
            tables: whether to look for all tables and columns, too.

        Raises:
            SchemaMismatch: the schema is older or newer than this code, or of another program.
        """
        schema_revisions.check(self.revision(), str(self))
        if tables:
            with self._translate_errors(), self._reader.connect() as connection:
                schema_revisions.query_tables(connection)

    def upgrade(self, *, is_private: bool = False) -> None:
        """Upgrade the schema to this code's revision. Of two processes that do so at once, one waits.

        Args:
            is_private: whether other users cannot read a new file of SQLite, otherwise the umask decides.

        Raises:
            SchemaMismatch: the schema is newer than this code, or of another program.
            Conflict: references between rows are broken.
            Unavailable: the database does not answer, is read-only or full, or other transactions use its tables.
        """
        if self.is_sqlite:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.is_sqlite and is_private and not self._file.exists():
            sqlite.make_private(self._file)
        with self.migrate() as connection:
            if self.is_sqlite and schema_revisions.revision(connection, str(self)) is None:
                sqlite.mark_clean(connection.connection)
            schema_revisions.upgrade(connection, str(self))

    @contextlib.contextmanager
    def migrate(self) -> Iterator[sa.Connection]:
        """Open a connection for migrations, which no other process has at that time.

        SQLite undoes all migrations if one fails. PostgreSQL keeps the finished ones, and the next upgrade continues.
        """
        create_engine = sqlite.create_migration_engine if self.is_sqlite else postgresql.create_migration_engine
        engine = create_engine(self.url)
        is_alone = contextlib.nullcontext() if self.is_sqlite else postgresql.hold_migration_lock(engine)
        try:
            with self._translate_errors(), is_alone, engine.connect() as connection:
                yield connection
                connection.commit()
        finally:
            engine.dispose()

    def reindex(self) -> int:
        """Make the search index anew, in batches beside which the hub works, and return the number of batches.

        Raises:
            Unavailable: the database does not answer.
        """
        with self.read() as session:
            batches = list(search_index.list_batches(session.connection()))
        for first, last in progress.track(batches, "indexing versions", total=len(batches)):
            with self.write() as session:
                search_index.refresh(session.connection(), first, last)
        return len(batches)

    def is_unclean(self) -> bool:
        """Return whether the file of SQLite may keep copies of deleted texts, until `erase_deleted` rewrites it."""
        if not self.is_sqlite:
            return False
        with self.read() as session:
            return not sqlite.is_clean(session.connection().connection)

    def erase_deleted(self) -> bool:
        """Remove what was deleted from the files of the database, and return whether all of it is gone.

        Nothing is done on PostgreSQL: its server keeps deleted rows until it reuses their place. A file of SQLite may
        have to be written anew, for which the disk needs as much free space.

        Raises:
            Unavailable: other processes keep the file locked, or the disk is full.
        """
        if not self.is_sqlite:
            return False
        self.close()  # a reader of this process would keep the log from being emptied
        try:
            return sqlite.erase_deleted(self._file)
        except sqlite3.Error as error:
            advice = next((advice for part, advice in _ADVICE.items() if part in str(error)), _SQLITE_ADVICE)
            raise errors.Unavailable(f"could not use database {self}: {error} ({advice})") from error

    def close(self) -> None:
        """Close all pooled connections."""
        self._engine.dispose()
        self._reader.dispose()
        self._open_file.forget()

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as error:  # arguments of commands may be any bytes
            raise errors.InvalidInput("is not text in UTF-8", where=repr(errors.shorten(error.object))) from error
        except exc.TimeoutError as error:
            what = f"could not connect to database {self}: all connections of this process are in use"
            raise errors.Unavailable(f"{what} (raise FINCH_DATABASE_CONNECTIONS)") from error
        except exc.DBAPIError as error:
            message = str(error.orig).strip().partition("\n")[0]
            if isinstance(error, exc.IntegrityError):
                raise errors.Conflict(f"database {self} rejected the change: {message}") from error
            state = getattr(error.orig, "sqlstate", None)
            is_of_sqlite = self.is_sqlite and any(part in message for part in _OTHER_TABLES_ON_SQLITE)
            if state in _OTHER_TABLES or is_of_sqlite:
                raise errors.SchemaMismatch(
                    f"database {self} does not have the tables of schema {schema_revisions.HEAD}: {message} (run"
                    " `finch-hub db upgrade`, or else restore the database or set FINCH_DATABASE_URL to another)"
                ) from error
            if isinstance(error, exc.DataError) and _ZERO_BYTE in message:
                raise errors.InvalidInput("a text has a zero byte", fix="remove it") from error
            is_fault = isinstance(error, (exc.ProgrammingError, exc.DataError, exc.NotSupportedError))
            if is_fault and state not in (*_LOST_STATEMENT, *_REFUSED):
                raise  # a fault of this code, which no user can fix
            kind = errors.AccessDenied if _WRONG_PASSWORD in message else errors.Unavailable
            general = _SQLITE_ADVICE if self.is_sqlite else _POSTGRESQL_ADVICE
            advice = next((advice for part, advice in _ADVICE.items() if part in message), general)
            raise kind(f"could not use database {self}: {message} ({advice})") from error
        except exc.StatementError as error:  # what a type of a column refuses
            if isinstance(error.orig, errors.FinchError):
                raise error.orig from None
            raise


def is_damage(error: errors.Unavailable) -> bool:
    """Return whether an error of a database says that its files are damaged, so that other rows may be readable."""
    original = getattr(error.__cause__, "orig", None)
    code = getattr(original, "sqlite_errorcode", None)
    is_of_sqlite = code is not None and code & 0xFF in _DAMAGED_ON_SQLITE  # the rest tells where
    is_text = "Could not decode to UTF-8" in str(original)
    return is_of_sqlite or is_text or getattr(original, "sqlstate", None) in _DAMAGED_ON_POSTGRESQL


def _parse(url: str) -> sa.URL:
    fix = "use sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
    try:
        parsed = sa.make_url(url)
        # The message shows no part of the URL: what looks like a host or a name may be a piece of the password.
        if parsed.drivername.startswith("postgres") and "@" in f"{parsed.host}{parsed.database}":
            raise ValueError
    except (exc.ArgumentError, ValueError):
        fix += ", and write @ / and : of a password as %40 %2F and %3A"
        raise errors.InvalidSpec("the URL is not a database URL", fix=fix, subject="database") from None
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise errors.InvalidSpec(f"{parsed.drivername!r} is not supported", fix=fix, subject="database")
    if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
        raise errors.InvalidSpec("SQLite needs a file", fix=fix, subject="database")
    if parsed.query:
        raise errors.InvalidSpec("SQLite has no options", fix=fix, subject="database")
    return parsed
