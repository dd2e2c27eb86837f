"""`finch-hub export`."""

from __future__ import annotations

import click

from finch_hub.cli import following, options, output


@click.command()
@click.argument("adapter")
@click.option("--out", required=True, type=click.Path(), help="Path of the new folder.")
@click.option("--replace", is_flag=True, help="Replace an earlier export of the same format.")
@click.option("--format", "format_name", default="peft", show_default=True, help="Export format plugin.")
@click.option(
    "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="Format parameter. Can be repeated."
)
@following.job_options
def export(
    adapter: str,
    out: str,
    replace: bool,
    format_name: str,
    parameters: tuple[str, ...],
    detach: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Export an adapter to another system's format."""
    settings = options.parse_settings(parameters, "--parameter") | ({"replace": True} if replace else {})
    with output.open_hub() as hub:
        handle = hub.export(adapter, out, format=format_name, parameters=settings)
        following.conclude(handle, detach=detach, quiet=quiet, as_json=as_json)
