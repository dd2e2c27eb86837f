"""`finch-hub gc`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from finch_hub.cli import options, output
from finch_hub.display import progress, tables

if TYPE_CHECKING:
    from finch_hub.specs.collections import CollectionReport


@click.command()
@click.option("--dry-run", is_flag=True, help="Remove nothing, and show what would be removed.")
@click.option(
    "--unused-days",
    type=options.Days(),
    help="Age in days from which on unused things are removed.  [default: FINCH_UNUSED_DAYS, or 7]",
)
@click.option("--quiet", is_flag=True, help="Show no progress.")
@output.yes_option
@output.json_option
def gc(dry_run: bool, unused_days: float | None, quiet: bool, yes: bool, as_json: bool) -> None:
    """Remove what nobody refers to, while the hub runs.

    That is data of jobs whose history and versions are gone, files of deleted versions, files of writers that died,
    checkpoints and outputs of ended jobs, and in this home fetched adapters, converted bases and folders of processes
    that were killed. Workers do so once a day. With fewer --unused-days than in the settings, it asks before it removes
    anything: what was just deleted cannot be restored then. Without a terminal it needs --yes for that.
    """
    with output.open_hub(deletes=True) as hub, progress.show_advances(quiet=quiet):
        is_usual = unused_days is None or unused_days >= hub.settings.unused_days
        asks = not (yes or dry_run or is_usual)
        report = hub.collect(unused_days=unused_days, dry_run=dry_run or asks)
        if asks and report.collected:
            question = _ask(report, hub.settings.unused_days)
            output.confirm(lambda: question, yes=False)
            report = hub.collect(unused_days=unused_days)
        elif asks:
            report = report.evolve(is_dry_run=False)
    output.emit(report, as_json, lambda: _describe(report))


def _ask(planned: CollectionReport, usual_days: float) -> str:
    parts = ", ".join(f"{item.count:,} {item.what}" for item in planned.collected)
    return f"Remove {parts} ({tables.format_bytes(planned.bytes)}), also what was used in the last {usual_days:g} days?"


def _describe(report: CollectionReport) -> list[str]:
    verb = "Would remove" if report.is_dry_run else "Removed"
    lines = [f"{verb} {item.count:,} {item.what}: {tables.format_bytes(item.bytes)}" for item in report.collected]
    freed = "would be freed" if report.is_dry_run else "freed"
    return [*lines, f"{tables.format_bytes(report.bytes)} {freed}"]
