"""`finch-hub backup`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from finch_hub.cli import output
from finch_hub.display import progress, tables

if TYPE_CHECKING:
    from finch_hub.specs.backups import BackupReport


@click.command()
@click.argument("folder", type=click.Path())
@click.option("--replace", is_flag=True, help="Replace an earlier backup.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@output.json_option
def backup(folder: str, replace: bool, quiet: bool, as_json: bool) -> None:
    """Back up the registry and the artifacts, while the hub runs.

    FOLDER is a new folder, which appears when it is complete. It has no base models, checkpoints or settings. If an
    artifact is missing or damaged, the backup is finished without it and the exit code is 10.
    """
    from finch_hub import errors

    with output.open_hub() as hub, progress.show_advances(quiet=quiet):
        report = hub.back_up(folder, replace=replace)
    output.emit(report, as_json, lambda: _describe(report))
    if report.problems:
        lines = errors.list_problems([errors.Problem(what=problem) for problem in report.problems])
        advice = "restore these from an earlier backup, or make them again, and back up again"
        raise errors.IncompleteBackup("\n  ".join([f"backup {folder} is incomplete ({advice}):", *lines]))
    output.suggest("Restore it into a new hub", "restore", folder, as_json=as_json)


def _describe(report: BackupReport) -> str:
    backup = report.backup
    rows = tables.format_count(sum(backup.rows.values()), "row")
    artifacts = f"{tables.format_count(backup.artifacts, 'artifact file')}, {tables.format_bytes(backup.bytes)}"
    return f"Backed up {rows} and {artifacts}, to {report.folder}"
