"""`finch-hub quantize`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from finch_hub.cli import completion, following, options

if TYPE_CHECKING:
    from finch_hub.hub.facade import Hub
    from finch_hub.hub.jobs import JobHandle


@click.command()
@click.argument("adapter", shell_complete=completion.complete_references)
@click.option(
    "--scheme",
    type=click.Choice(["auto", "int8", "int4"]),
    help='Number format. "auto" takes the smallest within the tolerance.  [default: auto]',
)
@click.option("--group", type=int, help="Number of values that share one scale. 0 means one scale per channel.")
@click.option("--tolerance", type=float, help="Relative increase of the held-out loss that auto accepts.")
@options.config_option
@following.job_command
def quantize(hub: Hub, adapter: str, **quantizing: Any) -> JobHandle:
    """Store an adapter with fewer bits as its next version.

    The adapter's bare name then means the new version. The earlier versions stay.
    """
    options_given = options.drop_unset(**quantizing)
    if options_given.get("group") == 0:
        options_given["group"] = None
    return hub.quantize(adapter, **options_given)
