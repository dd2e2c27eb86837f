"""`finch-hub quantize`."""

from __future__ import annotations

from typing import Any

import click

from finch_hub.cli import following, options, output


@click.command()
@click.argument("adapter")
@click.option(
    "--scheme",
    type=click.Choice(["auto", "int8", "int4"]),
    help='Number format. "auto" takes the smallest within the tolerance.  [default: auto]',
)
@click.option("--group", type=int, help="Number of values that share one scale.")
@click.option("--tolerance", type=float, help="Relative increase of the held-out loss that auto accepts.")
@following.job_options
def quantize(adapter: str, detach: bool, quiet: bool, as_json: bool, **quantizing: Any) -> None:
    """Store an adapter with fewer bits as a new version."""
    with output.open_hub() as hub:
        handle = hub.quantize(adapter, **options.drop_unset(**quantizing))
        following.conclude(handle, detach=detach, quiet=quiet, as_json=as_json)
