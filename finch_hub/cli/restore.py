"""`finch-hub restore`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from finch_hub.cli import output
from finch_hub.display import progress, tables

if TYPE_CHECKING:
    from finch_hub.specs.backups import RestoreReport


@click.command()
@click.argument("folder", type=click.Path())
@click.option("--quiet", is_flag=True, help="Show no progress.")
@output.json_option
def restore(folder: str, quiet: bool, as_json: bool) -> None:
    """Restore a backup into a new hub.

    The hub is that of the settings, on either database. It must have no rows and no running workers. Everything in
    FOLDER is checked first. After an interruption, run the command again.
    """
    with output.open_hub() as hub, progress.show_advances(quiet=quiet):
        report = hub.restore(folder)
    output.emit(report, as_json, lambda: _describe(report))
    for name, path in report.absent_bases.items():
        output.tell(f"warning: the files of base {name} are not on this machine: {path} (add the base again)")
    for digest, lost in zip(report.missing, report.lost, strict=True):
        output.tell(f"warning: the backup was finished without {lost}, artifact {digest[:12]} (make it again)")
    if report.queued:
        output.suggest("Start a worker for the queued jobs", "worker", "start", as_json=as_json)


def _describe(report: RestoreReport) -> list[str]:
    rows = tables.format_count(sum(report.backup.rows.values()), "row")
    artifacts = f"{tables.format_count(report.artifacts, 'artifact file')}, {tables.format_bytes(report.bytes)}"
    lines = [f"Restored {rows} and {artifacts}, into {report.database}"]
    if report.queued:
        verb, which = ("is", "It") if report.queued == 1 else ("are", f"{len(report.requeued):,} of them")
        ran = f". {which} ran when the backup was taken" if report.requeued else ""
        lines.append(f"{tables.format_count(report.queued, 'job')} {verb} queued{ran}")
    return lines
