"""`finch-hub audit`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from finch_hub.cli import output
from finch_hub.display import tables

if TYPE_CHECKING:
    from finch_hub.registry.audit import AuditEntry

_TIMES = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S")


@click.command()
@click.option("--who", help="Name of the user, or the owner of the job.")
@click.option("--action", help="Action, such as alias.move or version.delete.")
@click.option("--on", help="Name of an adapter, a base or a data set, a reference such as name/3, or the id of a job.")
@click.option(
    "--since", type=click.DateTime(_TIMES), metavar="DATE", help="Day or time of the oldest entry, as 2026-01-31."
)
@click.option(
    "--limit", type=click.IntRange(1, 10**9), default=50, show_default=True, help="Maximum number of entries."
)
@click.option("--after", type=click.IntRange(1, 2**62), metavar="NUMBER", help="Last entry of the previous page.")
@output.json_option
def audit(
    who: str | None,
    action: str | None,
    on: str | None,
    since: datetime | None,
    limit: int,
    after: int | None,
    as_json: bool,
) -> None:
    """Show who changed what, and what was refused.

    The newest entry is first. FINCH_USER sets the name of the user. Submissions of jobs have no entry: `finch-hub jobs
    list` shows their owner and time.
    """
    with output.open_hub() as hub:
        entries = hub.audit.find(who=who, action=action, on=on, since=since, limit=limit, after=after)
    rows = [(entry.at, entry.who, entry.action, entry.on, entry.outcome, _describe(entry)) for entry in entries]
    columns = ("when", "who", "action", "on", "outcome", "details")
    output.emit(entries, as_json, lambda: tables.draw_list(columns, rows, without="There are no such entries."))
    if len(entries) == limit:
        output.suggest(
            "More", "audit", *_repeat(who, action, on, since), "--after", str(entries[-1].id), as_json=as_json
        )


def _describe(entry: AuditEntry) -> str:
    job = [f"job {entry.job_id}"] if entry.job_id is not None else []
    details = [f"{name.replace('_', ' ')} {tables.format_value(value)}" for name, value in entry.details.items()]
    return "; ".join([*job, *details, *([entry.reason] if entry.reason is not None else [])]) or "-"


def _repeat(who: str | None, action: str | None, on: str | None, since: datetime | None) -> list[str]:
    """Return the filters as words of a command."""
    given = {"--who": who, "--action": action, "--on": on, "--since": since.isoformat() if since is not None else None}
    return [word for option, value in given.items() if value is not None for word in (option, value)]
