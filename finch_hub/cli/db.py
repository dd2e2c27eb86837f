"""`finch-hub db`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from finch_hub.cli import output

if TYPE_CHECKING:
    from finch_hub.registry.database import Database


@click.group()
def db() -> None:
    """Upgrade and inspect the database.

    It is the database of FINCH_DATABASE_URL. Without that variable it is the home's own, which is upgraded on first
    use.
    """


@db.command()
def upgrade() -> None:
    """Upgrade the schema to this version of Finch Hub."""
    database = _open_database()
    try:
        before = database.revision()
        database.upgrade()
        after = database.revision()
    finally:
        database.close()
    if before == after:
        click.echo(f"{database} is already at schema {after}")
    else:
        click.echo(f"Upgraded {database} from {f'schema {before}' if before else 'empty'} to schema {after}")


@db.command()
@output.json_option
def check(as_json: bool) -> None:
    """Check that the database answers and has this version's schema."""
    database = _open_database()
    try:
        database.check()
        revision = database.revision()
    finally:
        database.close()
    value = {"database": str(database), "revision": revision}
    output.emit(value, as_json, lambda: f"{database} is ready, at schema {revision}")


def _open_database() -> Database:
    from finch_hub import settings
    from finch_hub.registry.database import Database

    current = settings.load()
    return Database(current.database, allow_insecure=current.allow_insecure)
