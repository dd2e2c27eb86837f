"""`finch-hub db`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from finch_hub.cli import output

if TYPE_CHECKING:
    from finch_hub.registry.database import Database


@click.group()
def db() -> None:
    """Upgrade, inspect and reindex the database.

    It is the database of FINCH_DATABASE_URL. Without that variable it is the home's own, which is upgraded on first
    use.
    """


@db.command()
@click.option("--ignore-workers", is_flag=True, help="Upgrade although workers are running.")
def upgrade(ignore_workers: bool) -> None:
    """Upgrade the schema to this version of Finch Hub.

    Workers may run on if all migrations are additive. They claim no more jobs, finish those that they have, and stop.
    Other migrations need workers that are stopped. A worker that was killed counts as running for a minute.
    """
    from finch_hub.registry import schema_revisions

    with _open_database() as database:
        before = database.revision()
        is_older = before is not None and before != schema_revisions.HEAD and schema_revisions.is_known(before)
        if is_older and not ignore_workers and (breaking := schema_revisions.list_breaking(str(before))):
            _refuse_living_workers(database, breaking)
        database.upgrade()
        database.check(tables=True)
        after = database.revision()
    if before == after:
        output.say(f"{database} is already at schema {after}")
    else:
        output.say(f"Upgraded {database} from {f'schema {before}' if before else 'empty'} to schema {after}")


@db.command()
@output.json_option
def check(as_json: bool) -> None:
    """Check that the database answers and has this version's schema."""
    with _open_database() as database:
        database.check(tables=True)
        revision = database.revision()
    value = {"database": str(database), "revision": revision}
    output.emit(value, as_json, lambda: f"{database} is ready, at schema {revision}")


@db.command()
@click.option("--quiet", is_flag=True, help="Show no progress.")
def reindex(quiet: bool) -> None:
    """Make the index of searches anew from the rows.

    Run it if `finch-hub fsck` names the search index. The hub may run meanwhile.
    """
    from finch_hub.display import progress

    with _open_database() as database, progress.show_advances(quiet=quiet):
        database.check(tables=True)
        database.reindex()
    output.say(f"Made the search index of {database} anew")


def _refuse_living_workers(database: Database, breaking: list[str]) -> None:
    from finch_hub import errors
    from finch_hub.registry import workers

    with database.read() as session:
        names = workers.find_living(session)
    if names:
        what = f"cannot upgrade database {database}: workers are running: {', '.join(names)}"
        why = f"they cannot outlive migration {', '.join(breaking)}"
        raise errors.Conflict(f"{what}; {why} (stop them and try again, or add --ignore-workers)")


def _open_database() -> contextlib.closing[Database]:
    from finch_hub import settings
    from finch_hub.registry.database import Database

    current = settings.load()
    return contextlib.closing(Database(current.database, allow_insecure=current.allow_insecure))
