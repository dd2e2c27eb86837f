"""`finch-hub export` and `finch-hub merge`, which write a folder on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from finch_hub.cli import completion, following, options

if TYPE_CHECKING:
    from finch_hub.hub.facade import Hub
    from finch_hub.hub.jobs import JobHandle


@click.command()
@click.argument("adapter", shell_complete=completion.complete_references)
@click.option("--out", required=True, type=click.Path(), help="Path of the new folder.")
@click.option("--replace", is_flag=True, help="Replace an earlier export of the same format.")
@click.option("--format", "format_name", default="peft", show_default=True, help="Export format plugin.")
@options.settings_option("--parameter", "parameters", "Format parameter.")
@options.config_option
@following.job_command
def export(hub: Hub, adapter: str, out: str, replace: bool, format_name: str, parameters: tuple[str, ...]) -> JobHandle:
    """Export an adapter to another system's format."""
    settings = options.parse_settings(parameters, "--parameter")
    return hub.export(adapter, out, format=format_name, parameters=settings, replace=replace)


@click.command()
@click.argument("adapters", nargs=-1, required=True, shell_complete=completion.complete_references)
@click.option("--out", required=True, type=click.Path(), help="Path of the new folder.")
@click.option("--replace", is_flag=True, help="Replace an earlier merge.")
@click.option("--weights", type=options.Numbers(), help="Weights of the adapters, in the same order.")
@options.config_option
@following.job_command
def merge(hub: Hub, adapters: tuple[str, ...], out: str, replace: bool, weights: tuple[float, ...] | None) -> JobHandle:
    """Merge adapters into their base as a standalone model.

    Transformers and vLLM can load the folder. The report compares its logits with those of the base with the ADAPTERS.
    """
    return hub.merge(adapters, out, weights=weights, replace=replace)
