"""`finch-hub compose`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from finch_hub.cli import following, options, output
from finch_hub.display import reports

if TYPE_CHECKING:
    from finch_hub.specs.jobs import Requirements


@click.command()
@click.argument("adapters", nargs=-1, required=True)
@click.option("--adapter", help="Name of the result; a new version of it is made.")
@click.option("--plan", is_flag=True, help="Only report the conflicts; compose nothing.")
@click.option(
    "--probe", is_flag=True, help="With --plan: also measure interference on held-out examples, and forecast."
)
@click.option("--weights", type=options.Numbers(), help="Weights of the adapters, in their order.")
@click.option("--strategy", help="A strategy plugin, or auto, which measures several.  [default: auto]")
@click.option("--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="Of the strategy.")
@click.option("--resolver", help="A conflict resolver, run before the strategy.  [default: keep]")
@click.option("--resolver-parameter", "resolver_parameters", multiple=True, metavar="NAME=VALUE", help="Of it.")
@click.option("--scale", type=float, help="Factor of the whole update; else it is swept.")
@click.option("--rank", type=options.Rank(), help="Rank of the result; else what the strategy gives.")
@click.option("--evaluations", type=int, help="Held-out evaluations that the search may spend.")
@click.option("--min-retention", type=float, help="A version that keeps less of a parent gets no alias.")
@click.option("--seed", type=int, help="Of random strategies.")
@click.option("--after", "depends_on", multiple=True, metavar="JOB", help="Wait for this job to succeed.")
@options.requirements
@following.job_options
def compose(
    adapters: tuple[str, ...],
    adapter: str | None,
    plan: bool,
    probe: bool,
    weights: tuple[float, ...] | None,
    parameters: tuple[str, ...],
    resolver_parameters: tuple[str, ...],
    depends_on: tuple[str, ...],
    requirements: Requirements,
    detach: bool,
    quiet: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Compose adapters of one base into one.

    The conflicts of the ADAPTERS are reported before, and after it how much of each adapter's gain on its own
    validation data is kept.
    """
    if plan:
        composing = {"weights": weights, "parameter": parameters, "resolver-parameter": resolver_parameters}
        if unused := [
            f"--{name.replace('_', '-')}" for name, value in {**composing, **given}.items() if value not in (None, ())
        ]:
            raise click.UsageError(f"--plan looks at the adapters alone: leave out {', '.join(unused)}")
        with output.open_hub() as hub:
            report = hub.plan(adapters, probe=probe)
        output.emit(report, as_json, lambda: reports.conflicts(report))
        return
    if adapter is None:
        raise click.UsageError("name the result with --adapter, or only look with --plan")
    with output.open_hub() as hub:
        handle = hub.compose(
            adapters,
            adapter=adapter,
            weights=weights,
            requirements=requirements,
            depends_on=depends_on,
            parameters=options.settings_of(parameters, "--parameter"),
            resolver_parameters=options.settings_of(resolver_parameters, "--resolver-parameter"),
            **options.given(**given),
        )
        following.conclude(handle, detach=detach, quiet=quiet, as_json=as_json)
