"""Schema revisions: the revision of a database, and its upgrade with Alembic."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from finch_hub import errors
from finch_hub.registry import search_index
from finch_hub.registry.tables import Table, jobs

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy.orm import Session

HEAD = "0024"  # stands here so that a check needs no Alembic; a test compares it with the scripts

_NUMBER = re.compile(r"\d{4}")
_TABLE = "alembic_version"
_MAX_NAMED = 5  # tables in a message


def scripts() -> Path:
    """Return the folder of the migrations, in the installed package or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def config(connection: sa.Connection | None = None) -> Config:
    """Return Alembic's configuration for the connection."""
    from alembic.config import Config

    options = Config()
    options.set_main_option("script_location", str(scripts()).replace("%", "%%"))
    options.attributes["connection"] = connection
    return options


def revision(connection: sa.Connection, database: str) -> str | None:
    """Return the revision of the database, None if it is empty.

    Raises:
        SchemaMismatch: the table of the revision is damaged.
    """
    if not sa.inspect(connection).has_table(_TABLE):
        return None
    return read(connection, database)


def read(connection: sa.Connection | Session, database: str) -> str | None:
    """Return the revision of a database that has tables, None if no migration has made one.

    Raises:
        SchemaMismatch: the table of the revision is damaged.
    """
    numbers = connection.scalars(sa.text(f"SELECT version_num FROM {_TABLE}")).all()  # noqa: S608 - a constant
    if not numbers:
        plain = connection if isinstance(connection, sa.Connection) else connection.connection()
        if not sa.inspect(plain).has_table(jobs.name):
            return None
    if len(numbers) == 1 and numbers[0] is not None:
        return str(numbers[0])
    found = "no rows" if not numbers else "a null" if len(numbers) == 1 else f"{len(numbers)} rows"
    raise errors.SchemaMismatch(
        f"database {database} is damaged: table {_TABLE} has {found}: it must have one revision (restore the database"
        " from a backup)"
    )


def check(number: str | None, database: str) -> None:
    """Refuse a revision that this code cannot use.

    Raises:
        SchemaMismatch: the revision is older or newer than this code.
    """
    if number == HEAD:
        return
    if number is None:
        raise errors.SchemaMismatch(f"database {database} has no tables yet (run `finch-hub db upgrade`)")
    if is_known(number):
        what = f"database {database} has the older schema {number}: this code needs {HEAD} (run `finch-hub db upgrade`)"
        raise errors.SchemaMismatch(what)
    if not _NUMBER.fullmatch(str(number)):
        raise errors.SchemaMismatch(
            f"database {database} is of another program, with schema {number!r} (set FINCH_DATABASE_URL to another)"
        )
    raise errors.SchemaMismatch(
        f"database {database} has the newer schema {number}: this code needs {HEAD} (update finch-hub on this machine)"
    )


def query_tables(connection: sa.Connection) -> None:
    """Name all tables and columns of this code in queries that return no rows.

    Raises:
        DBAPIError: one is missing.
    """
    for table in (*Table.metadata.sorted_tables, *search_index.list_tables(connection)):
        connection.execute(sa.select(table).where(sa.false()))


def create(connection: sa.Connection, number: str) -> None:
    """Create the tables of a known revision in an empty database."""
    from alembic import command

    command.upgrade(config(connection), number)


def upgrade(connection: sa.Connection, database: str) -> None:
    """Upgrade the database to this code's revision.

    Raises:
        SchemaMismatch: the database is newer than this code, or of another program.
    """
    number = revision(connection, database)
    if number == HEAD:
        return  # without Alembic, whose import would take a tenth of a second of each command
    if number is None and connection.dialect.name == "sqlite":
        _refuse_other_file(connection, database)
    if number is not None and not is_known(number):
        check(number, database)
    if connection.dialect.name == "postgresql":
        connection.rollback()  # each migration has its own transaction; on SQLite, this one holds the write lock
    from alembic import command

    command.upgrade(config(connection), HEAD)


def _refuse_other_file(connection: sa.Connection, database: str) -> None:
    """Refuse a file with tables of another program. The programs on a server may share a database."""
    if others := [name for name in sa.inspect(connection).get_table_names() if name != _TABLE]:
        named = ", ".join(others[:_MAX_NAMED])
        raise errors.SchemaMismatch(
            f"database {database} is of another program, with the tables {named} (set FINCH_DATABASE_URL to another,"
            " or restore it from a backup)"
        )


def list_breaking(number: str) -> list[str]:
    """Return the migrations from a known revision to this code's that workers of that revision cannot outlive.

    All others say that they are additive: statements of older code have the same effects afterwards.
    """
    from alembic.script import ScriptDirectory

    pending = ScriptDirectory.from_config(config()).iterate_revisions(HEAD, number)
    return sorted(script.revision for script in pending if not getattr(script.module, "is_additive", False))


def is_known(number: str) -> bool:
    """Return whether this code has the migrations up to a revision.

    Later ones do not count. An update may have put them beside code that is running.
    """
    from alembic.script import ScriptDirectory

    known = ScriptDirectory.from_config(config()).iterate_revisions(HEAD, "base")
    return any(script.revision == number for script in known)
