"""`finch-hub train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from finch_hub.cli import completion, following, options, output
from finch_hub.display import previews, progress, tables

if TYPE_CHECKING:
    from finch_hub.hub.facade import Hub
    from finch_hub.hub.jobs import JobHandle
    from finch_hub.specs.jobs import Requirements

_OF_JOBS = frozenset({
    "depends_on", "detach", "former_after", "former_key", "idempotency_key", "labels", "priority", "queue",
    "time_limit",
})  # fmt: skip
"""Options that say when and where a job runs."""


@click.command()
@click.argument("data", shell_complete=completion.complete_data)
@options.training_source_options
@options.reading_options
@click.option("--epochs", type=int, help="Passes over the data.")
@click.option("--learning-rate", type=float, help="Peak of the learning rate schedule.")
@click.option("--batch-size", type=int, help="Examples in one micro-batch.")
@click.option("--max-steps", type=int, help="Maximum number of steps.")
@click.option("--patience", type=int, help="Evaluations without improvement before training stops early.")
@click.option("--rank", type=options.Rank(), help='Rank of the adapter. "auto" finds it by held-out loss.')
@click.option("--alpha", type=float, help="Numerator of the update's scale, alpha / rank.")
@click.option("--dropout", type=float, help="Probability of dropping an input in training.")
@click.option("--target-modules", metavar="NAME,…", help="Modules: names, a pattern, all-linear, attention or mlp.")
@click.option("--seed", type=int, help="Seed of order, dropout and split.")
@options.settings_option("--set", "settings", "Other LoRAConfig or TrainingConfig field. Lists are JSON, as in [8,9].")
@click.option("--priority", type=int, default=0, show_default=True, help="Priority. Higher ones start first.")
@options.depends_on
@options.renamed_option(
    "--idempotency-key", former="--key", help="Idempotency key: a second submission returns the first job."
)
@click.option("--together", is_flag=True, help="Train in one step with other queued jobs that set this option.")
@click.option("--dry-run", is_flag=True, help="Show the data as the base sees it, time and memory. Store nothing.")
@options.requirement_options
@options.config_option
@following.job_command
def train(
    hub: Hub,
    data: str,
    adapter: str,
    base: str | None,
    revision: str | None,
    start: str | None,
    preset: str | None,
    validation: str | None,
    system: str | None,
    reading: dict[str, Any],
    target_modules: str | None,
    settings: tuple[str, ...],
    priority: int,
    depends_on: tuple[str, ...],
    idempotency_key: str | None,
    dry_run: bool,
    requirements: Requirements,
    **overrides: Any,
) -> JobHandle | None:
    """Train an adapter on a data set.

    DATA is the name of a stored data set, a JSON Lines, CSV or Parquet file, a folder of them, or - for standard input.
    With --from, the adapter of a version is trained further: the new version has its base, its shape and its prompts.
    Rows have prompt and completion, messages, Alpaca, ShareGPT or text fields.
    """
    from finch_hub.specs.lora import parse_target_modules

    if dry_run:
        options.refuse_unused("--dry-run", "submits no job", _OF_JOBS)
    modules = parse_target_modules(target_modules) if target_modules is not None else None
    context = click.get_current_context()
    in_config = context.meta.get(options.SETTINGS_OF_CONFIG, ())
    request: dict[str, Any] = {
        "adapter": adapter,
        "base": base,
        "revision": revision,
        "start": start,
        "preset": preset,
        "validation": options.parse_validation(validation),
        "system": system,
        "requirements": requirements,
        "progress": progress.RowCounter(),
        **reading,
        **options.drop_unset(target_modules=modules, **overrides),
        **options.parse_further_settings([*in_config, *settings], "--set"),
    }
    if dry_run:
        output.tell("reading the data and the tokenizer of the base")
        preview = hub.preview_training(data, **request)
        note = "Nothing was stored or submitted. Without --dry-run, the training starts."
        drawn = (previews.draw_training_preview(preview), "", note)
        output.emit(preview, context.params["as_json"], lambda: tables.group(drawn))
        return None
    jobs = [hub.jobs.get(job).id for job in depends_on]
    return hub.train(data, priority=priority, depends_on=jobs, idempotency_key=idempotency_key, **request)
