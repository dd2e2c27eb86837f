"""`finch-hub quantize`."""

from __future__ import annotations

import click

from finch_hub.cli import following, options, output


@click.command()
@click.argument("adapter")
@click.option(
    "--scheme", type=click.Choice(["auto", "int8", "int4"]), help="auto takes the smallest within the tolerance."
)
@click.option("--group", type=int, help="Values that share one scale.")
@click.option("--tolerance", type=float, help="Relative rise of the held-out loss that auto accepts.")
@following.job_options
def quantize(
    adapter: str,
    scheme: str | None,
    group: int | None,
    tolerance: float | None,
    detach: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Store an adapter at fewer bits as a new version."""
    with output.open_hub() as hub:
        handle = hub.quantize(adapter, **options.given(scheme=scheme, group=group, tolerance=tolerance))
        following.conclude(handle, detach=detach, quiet=quiet, as_json=as_json)
