"""`finch-hub eval`."""

from __future__ import annotations

import click

from finch_hub.cli import following, options, output


@click.command("eval")
@click.argument("data")
@click.option("--adapter", "adapters", multiple=True, help="An adapter to measure; repeat it for several.")
@click.option("--base", help="The base; else that of the adapters. It is always measured too.")
@click.option("--evaluator", default="held_out_loss", show_default=True, help="An evaluator plugin.")
@click.option("--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="Of the evaluator.")
@click.option("--system", help="System prompt of the rows that have none; else what each adapter was trained with.")
@click.option("--format", "format_name", help="Row format; else each row is recognized by its fields.")
@following.job_options
def evaluate(
    data: str,
    adapters: tuple[str, ...],
    base: str | None,
    evaluator: str,
    parameters: tuple[str, ...],
    system: str | None,
    format_name: str | None,
    detach: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure the base and adapters on a data set."""
    with output.open_hub() as hub:
        handle = hub.evaluate(
            data,
            adapters,
            base=base,
            evaluator=evaluator,
            parameters=options.settings_of(parameters, "--parameter"),
            system=system,
            format=format_name,
        )
        following.conclude(handle, detach=detach, quiet=quiet, as_json=as_json)
