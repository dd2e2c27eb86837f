"""`finch-hub merge`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from finch_hub.cli import following, options

if TYPE_CHECKING:
    from finch_hub.hub.facade import Hub
    from finch_hub.hub.jobs import JobHandle


@click.command()
@click.argument("adapters", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(), help="Path of the new folder.")
@click.option("--replace", is_flag=True, help="Replace an earlier merge.")
@click.option("--weights", type=options.Numbers(), help="Weights of the adapters, in the same order.")
@following.job_command
def merge(hub: Hub, adapters: tuple[str, ...], out: str, replace: bool, weights: tuple[float, ...] | None) -> JobHandle:
    """Merge adapters into their base as a standalone model.

    Transformers and vLLM can load the folder. The report compares its logits with those of the base with the ADAPTERS.
    """
    return hub.merge(adapters, out, weights=weights, replace=replace)
