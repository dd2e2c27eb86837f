"""`finch-hub fsck`."""

from __future__ import annotations

import click

from finch_hub.cli import output
from finch_hub.display import progress
from finch_hub.display.inspections import describe_inspection


@click.command()
@click.option("--quiet", is_flag=True, help="Show no progress.")
@output.json_option
def fsck(quiet: bool, as_json: bool) -> None:
    """Read every stored byte and every row, and name what is damaged and what mends it.

    It changes nothing, and the hub may run meanwhile. What nobody refers to is named too. If something is damaged, the
    exit code is 11.
    """
    with output.open_hub() as hub, progress.show_advances(quiet=quiet):
        report = hub.fsck()
    output.emit(report, as_json, lambda: describe_inspection(report))
    report.raise_damage("the hub")
