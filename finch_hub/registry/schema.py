"""The schema's revisions: which one a database has, and how it gets to ours (Alembic)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from finch_hub import errors

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0002"  # known without importing Alembic; a test holds it against the scripts
_LOCK = 0x66696E6368  # "finch": the key of PostgreSQL's advisory lock


def scripts() -> Path:
    """Return the folder of the migrations: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def config(connection: sa.Connection | None = None) -> Config:
    """Return Alembic's configuration, to run on the connection."""
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", str(scripts()).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def revision(connection: sa.Connection) -> str | None:
    """Return the database's revision, None for an empty one."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return found


def check(found: str | None, database: str) -> None:
    """Make sure that the revision is this code's.

    Raises:
        SchemaMismatch: it is older or newer; says what to do.

    """
    if found == HEAD:
        return
    if found is None or _is_known(found):
        state = "has no tables yet" if found is None else f"has the older schema {found}, this code needs {HEAD}"
        raise errors.SchemaMismatch(f"{database} {state}: run `finch-hub db upgrade`")
    raise errors.SchemaMismatch(
        f"{database} has the schema {found}, which is newer than this code's {HEAD}: update finch-hub on this machine"
    )


def upgrade(connection: sa.Connection, database: str) -> None:
    """Bring the database to our revision within the connection's transaction.

    Raises:
        SchemaMismatch: it is newer than this code.

    """
    from alembic import command

    if connection.dialect.name == "postgresql":  # SQLite's write lock is held already
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    found = revision(connection)
    if found is not None and not _is_known(found):
        check(found, database)
    if found != HEAD:
        command.upgrade(config(connection), "head")


def _is_known(found: str) -> bool:
    from alembic.script import ScriptDirectory

    return any(script.revision == found for script in ScriptDirectory.from_config(config()).walk_revisions())
