"""`finch-hub audit`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from finch_hub.cli import output, paging
from finch_hub.display.tables import format_value

if TYPE_CHECKING:
    from finch_hub.registry.audit import AuditEntry

_TIMES = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S")


class _Moment(click.DateTime):
    """A day or a time, whose refusal shows examples and not the language of `strptime`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the time."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(
                f"{value!r} is not a time (write a day or time, such as 2026-01-31 or 2026-01-31T12:30)", param, ctx
            )


@click.command()
@click.option("--who", help="Name of the user, or the owner of the job.")
@click.option("--action", help="Action, such as alias.move or version.delete.")
@click.option("--on", help="Name of an adapter, a base or a data set, a reference such as name/3, or the id of a job.")
@click.option("--since", type=_Moment(_TIMES), metavar="DATE", help="Day or time of the oldest entry, as 2026-01-31.")
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
    columns = ("at", "who", "action", "on", "outcome", "details")
    empty, advice = "There are no such entries.", ("Show the newest entries", "audit")
    output.emit_list(entries, columns, rows, as_json=as_json, empty=empty, advice=advice)
    if len(entries) == limit:
        filters = [*_repeat(who, action, on, since), *paging.repeat_limit()]
        output.suggest("next page", "audit", *filters, f"--after={entries[-1].id}", as_json=as_json)


def _describe(entry: AuditEntry) -> str:
    job = [f"job {entry.job_id}"] if entry.job_id is not None else []
    name = entry.on.partition("@")[0] if entry.action.startswith("alias.") else None
    details = [f"{field.replace('_', ' ')} {_name(name, value)}" for field, value in entry.details.items()]
    reason = [" ".join(entry.reason.split())] if entry.reason is not None else []
    return "; ".join([*job, *details, *reason]) or "-"


def _name(adapter: str | None, value: object) -> str:
    """Return a value of an entry. Numbers in entries of aliases are those of versions, and 0 is none."""
    if adapter is None or not isinstance(value, int):
        return format_value(value)
    return f"{adapter}/{value}" if value else "none"


def _repeat(who: str | None, action: str | None, on: str | None, since: datetime | None) -> list[str]:
    """Return the filters as words of a command."""
    given = {"--who": who, "--action": action, "--on": on, "--since": since.isoformat() if since is not None else None}
    return [word for option, value in given.items() if value is not None for word in (option, value)]
