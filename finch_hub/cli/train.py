"""`finch-hub train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from finch_hub.cli import following, options, output

if TYPE_CHECKING:
    from finch_hub.specs.jobs import Requirements


@click.command()
@click.argument("data")
@click.option("--adapter", required=True, help="Name of the adapter; a new version of it is made.")
@click.option("--base", required=True, help="A base's name, a folder, a GGUF file, or a Hugging Face id.")
@click.option("--revision", help="Revision of a Hugging Face id.")
@click.option("--preset", help="Where the settings begin; see `finch-hub plugins list --kind preset`.")
@click.option(
    "--validation",
    metavar="DATA|SHARE",
    help="Held-out data, or the share of DATA to hold out; else the validation split of a folder that has one.",
)
@click.option("--system", help="System prompt of the examples that have none.")
@click.option("--format", "format_name", help="Row format; else each row is recognized by its fields.")
@click.option("--epochs", type=int, help="Passes over the data.")
@click.option("--learning-rate", type=float, help="Peak of the schedule.")
@click.option("--batch-size", type=int, help="Examples in one micro-batch.")
@click.option("--max-steps", type=int, help="Steps after which training ends, whatever the epochs.")
@click.option("--patience", type=int, help="Evaluations without improvement after which training ends.")
@click.option("--rank", type=options.Rank(), help="Rank of the adapter; auto finds the one that held-out loss needs.")
@click.option("--alpha", type=float, help="The update is scaled by alpha / rank.")
@click.option("--dropout", type=float, help="Probability of dropping an input while training.")
@click.option("--target-modules", metavar="NAME,…", help="Modules to adapt: names, all-linear, attention or mlp.")
@click.option("--seed", type=int, help="Fixes order, dropout and the split.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other field of LoRAConfig or TrainingConfig; lists as JSON, layers_to_transform=[8,9].",
)
@click.option("--priority", type=int, default=0, show_default=True, help="Higher ones are taken first.")
@click.option("--after", "depends_on", multiple=True, metavar="JOB", help="Wait for this job to succeed.")
@click.option("--key", "idempotency_key", help="Submitting again with the same key returns the first job.")
@click.option("--together", is_flag=True, help="Train it in one step with other queued jobs that say so.")
@options.requirements
@following.job_options
def train(
    data: str,
    adapter: str,
    base: str,
    revision: str | None,
    preset: str | None,
    validation: str | None,
    system: str | None,
    format_name: str | None,
    target_modules: str | None,
    settings: tuple[str, ...],
    priority: int,
    depends_on: tuple[str, ...],
    idempotency_key: str | None,
    requirements: Requirements,
    detach: bool,
    quiet: bool,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Train an adapter on a data set.

    DATA is a JSONL, CSV or Parquet file or a folder of them, with prompt and completion, messages, Alpaca, ShareGPT or
    text rows; or the name of a stored data set.
    """
    modules: tuple[str, ...] | str | None = None
    if target_modules is not None:
        names = tuple(name.strip() for name in target_modules.split(","))
        modules = names[0] if names in (("all-linear",), ("attention",), ("mlp",)) else names
    taken = {option.name for option in click.get_current_context().command.params if option.name}
    with output.open_hub() as hub:
        handle = hub.train(
            data,
            adapter=adapter,
            base=base,
            revision=revision,
            preset=preset,
            validation=options.data_or_share(validation),
            system=system,
            format=format_name,
            requirements=requirements,
            priority=priority,
            depends_on=depends_on,
            idempotency_key=idempotency_key,
            **options.given(target_modules=modules, **overrides),
            **options.settings_of(settings, "--set", taken=taken),
        )
        following.conclude(handle, detach=detach, quiet=quiet, as_json=as_json)
