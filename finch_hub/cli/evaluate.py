"""`finch-hub eval`."""

from __future__ import annotations

import click

from finch_hub.cli import following, options, output


@click.command("eval")
@click.argument("data")
@click.option("--adapter", "adapters", multiple=True, help="Adapter to measure. Can be repeated.")
@click.option("--base", help="Base model, which is always measured too.  [default: the adapters' base]")
@click.option("--evaluator", default="held_out_loss", show_default=True, help="Evaluator plugin.")
@click.option(
    "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="Evaluator parameter. Can be repeated."
)
@click.option(
    "--system", help="System prompt of rows that have none.  [default: the one that each adapter was trained with]"
)
@options.row_format
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
            parameters=options.parse_settings(parameters, "--parameter"),
            system=system,
            format=format_name,
        )
        following.conclude(handle, detach=detach, quiet=quiet, as_json=as_json)
