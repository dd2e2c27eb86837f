"""`finch-hub eval`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from finch_hub.cli import completion, following, options
from finch_hub.display import progress

if TYPE_CHECKING:
    from finch_hub.hub.facade import Hub
    from finch_hub.hub.jobs import JobHandle
    from finch_hub.specs.reading import ReadingOptions


@click.command("eval")
@click.argument("data", shell_complete=completion.complete_data)
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    shell_complete=completion.complete_references,
    help="Adapter to measure. Can be repeated.",
)
@click.option(
    "--base",
    shell_complete=completion.complete_bases,
    help="Base model, which is always measured too.  [default: the adapters' base]",
)
@click.option("--revision", help="Revision of a Hugging Face model.")
@click.option("--evaluator", default="held_out_loss", show_default=True, help="Evaluator plugin.")
@options.settings_option("--parameter", "parameters", "Evaluator parameter.")
@click.option(
    "--system", help="System prompt of rows that have none.  [default: the one that each adapter was trained with]"
)
@options.reading_options
@options.config_option
@following.job_command
def evaluate(
    hub: Hub,
    data: str,
    adapters: tuple[str, ...],
    base: str | None,
    revision: str | None,
    evaluator: str,
    parameters: tuple[str, ...],
    system: str | None,
    reading: ReadingOptions,
) -> JobHandle:
    """Measure the base and adapters on a data set."""
    return hub.evaluate(
        data,
        adapters,
        base=base,
        revision=revision,
        evaluator=evaluator,
        parameters=options.parse_settings(parameters, "--parameter"),
        system=system,
        progress=progress.RowCounter(),
        **reading,
    )
