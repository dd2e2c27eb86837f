"""`finch-hub compose`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from finch_hub import errors
from finch_hub.cli import completion, following, options, output
from finch_hub.display import compositions

if TYPE_CHECKING:
    from finch_hub.hub.facade import Hub
    from finch_hub.hub.jobs import JobHandle
    from finch_hub.specs.jobs import Requirements

_OF_PLAN = frozenset({"adapters", "as_json", "config", "plan", "probe", "quiet"})


@click.command()
@click.argument("adapters", nargs=-1, required=True, shell_complete=completion.complete_references)
@click.option(
    "--adapter",
    shell_complete=completion.complete_adapters,
    help="Name of the result. Each run makes a new version of it.",
)
@click.option("--plan", is_flag=True, help="Report the conflicts without composing.")
@click.option(
    "--probe", is_flag=True, help="With --plan: measure interference on held-out examples and forecast the retention."
)
@click.option("--weights", type=options.Numbers(), help="Weights of the adapters, in the same order.")
@click.option("--strategy", help='Strategy plugin. "auto" measures several and keeps the best.  [default: auto]')
@options.settings_option("--parameter", "parameters", "Strategy parameter.")
@click.option("--resolver", help="Conflict resolver plugin, run before the strategy.  [default: keep]")
@options.settings_option("--resolver-parameter", "resolver_parameters", "Resolver parameter.")
@click.option("--scale", type=float, help="Factor where several adapters meet.  [default: the best of several]")
@click.option("--rank", type=options.Rank(), help="Rank of the result.  [default: the strategy's]")
@click.option("--evaluations", type=int, help="Maximum number of held-out evaluations in the search.")
@click.option("--min-retention", type=float, help="Retention that each adapter must reach for the result to be ready.")
@click.option("--seed", type=int, help="Seed of random strategies.")
@click.option("--system", help="System prompt of the result.  [default: the one that all adapters have]")
@options.depends_on
@options.requirement_options
@options.config_option
@following.job_command
def compose(
    hub: Hub,
    adapters: tuple[str, ...],
    adapter: str | None,
    plan: bool,
    probe: bool,
    weights: tuple[float, ...] | None,
    parameters: tuple[str, ...],
    resolver_parameters: tuple[str, ...],
    depends_on: tuple[str, ...],
    requirements: Requirements,
    **composing: Any,
) -> JobHandle | None:
    """Compose adapters of one base into one.

    Before it composes, it reports the conflicts of the ADAPTERS. Afterwards it reports the retention: how much of its
    gain each adapter keeps on its own validation data.
    """
    if plan:
        known = {str(parameter.name) for parameter in click.get_current_context().command.params}
        options.refuse_unused("--plan", "compares the adapters without composing", known - _OF_PLAN)
        report = hub.plan(adapters, probe=probe)
        if report.structural:
            problems = [errors.Problem(what=reason) for reason in report.structural]
            raise errors.Incompatible(problems, subject="these adapters cannot be composed")
        as_json = click.get_current_context().params["as_json"]
        output.emit(report, as_json, lambda: compositions.draw_conflicts(report))
        return None
    if probe:
        raise click.UsageError("--probe measures what --plan reports: add --plan, or leave out --probe")
    if adapter is None:
        raise click.UsageError("the result has no name: add --adapter NAME, or --plan to see the conflicts only")
    return hub.compose(
        adapters,
        adapter=adapter,
        weights=weights,
        requirements=requirements,
        depends_on=[hub.jobs.get(job).id for job in depends_on],
        parameters=options.parse_settings(parameters, "--parameter"),
        resolver_parameters=options.parse_settings(resolver_parameters, "--resolver-parameter"),
        **options.drop_unset(**composing),
    )
