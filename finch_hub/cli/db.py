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

    It is the one of FINCH_DATABASE_URL, or the home's own, which is upgraded on first use.
    """


@db.command()
def upgrade() -> None:
    """Bring the schema to this version's."""
    database = _database()
    try:
        before = database.revision()
        database.upgrade()
        after = database.revision()
    finally:
        database.close()
    change = "already at" if before == after else f"{before or 'empty'} ->"
    click.echo(f"{database}: {change} {after}")


@db.command()
@output.json_option
def check(as_json: bool) -> None:
    """Tell whether database and schema are usable."""
    database = _database()
    try:
        database.check()
        revision = database.revision()
    finally:
        database.close()
    output.emit({"database": str(database), "revision": revision}, as_json, lambda: f"{database}: {revision}, usable")


def _database() -> Database:
    from finch_hub import settings
    from finch_hub.registry.database import Database

    in_force = settings.load()
    return Database(in_force.database, allow_insecure=in_force.allow_insecure)
