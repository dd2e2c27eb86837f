"""`finch-hub merge`."""

from __future__ import annotations

import click

from finch_hub.cli import following, options, output


@click.command()
@click.argument("adapters", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(), help="Path of the new folder.")
@click.option("--replace", is_flag=True, help="Replace an earlier merge.")
@click.option("--weights", type=options.Numbers(), help="Weights of the adapters, in the same order.")
@following.job_options
def merge(
    adapters: tuple[str, ...],
    out: str,
    replace: bool,
    weights: tuple[float, ...] | None,
    detach: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Merge adapters into their base as a standalone model.

    Transformers and vLLM can load the folder. The report compares its logits with those of the base with the ADAPTERS.
    """
    with output.open_hub() as hub:
        handle = hub.merge(adapters, out, weights=weights, replace=replace)
        following.conclude(handle, detach=detach, quiet=quiet, as_json=as_json)
