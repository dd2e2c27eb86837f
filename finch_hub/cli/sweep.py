"""`finch-hub sweep`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from finch_hub import errors
from finch_hub.cli import options, output
from finch_hub.display import progress, sweeps

if TYPE_CHECKING:
    from finch_hub.hub.sweeping import SweepHandle
    from finch_hub.specs.jobs import Requirements
    from finch_hub.specs.sweeps import SweepReport


@click.command()
@click.argument("data")
@options.training_source_options
@options.reading_options
@click.option("--rank", "rank", type=options.Values(options.Rank()), help="Ranks to try, such as 8,16.")
@click.option("--alpha", type=options.Values(click.FLOAT), help="Values of alpha to try.")
@click.option("--learning-rate", type=options.Values(click.FLOAT), help="Learning rates to try, such as 1e-4,3e-4.")
@click.option("--epochs", type=options.Values(click.INT), help="Numbers of epochs to try.")
@click.option("--batch-size", type=options.Values(click.INT), help="Batch sizes to try.")
@click.option("--seed", type=options.Values(click.INT), help="Seeds to try. The held-out rows stay the same.")
@options.settings_option("--vary", "vary", "Other setting, with a JSON list of values to try.")
@options.settings_option("--set", "settings", "Other setting of all points. Lists are JSON, as in [8,9].")
@click.option("--priority", type=int, default=0, show_default=True, help="Priority. Higher ones start first.")
@click.option(
    "--together/--no-together",
    default=True,
    show_default=True,
    help="Train points in one step where possible. Their bytes are those of a training alone only up to rounding.",
)
@options.requirement_options
@click.option("--detach", is_flag=True, help="Submit the jobs and print the id of the sweep only.")
@click.option("--quiet", is_flag=True, help="Print only the versions, the lowest loss first.")
@options.config_option
@output.json_option
def sweep(
    data: str,
    adapter: str,
    validation: str | None,
    reading: dict[str, Any],
    vary: tuple[str, ...],
    settings: tuple[str, ...],
    requirements: Requirements,
    detach: bool,
    quiet: bool,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Train one adapter with several settings, and compare the results.

    Each combination of the values is a training, and makes a version of the adapter. All learn from the same rows and
    are measured on the same held-out rows. The table has the lowest held-out loss first, and says how far behind the
    others are: a difference whose interval includes 0 means nothing. The same command a second time goes on with the
    first sweep, and tries again what failed.
    """
    source = {name: overrides.pop(name) for name in ("base", "start", "revision", "preset", "system", "priority")}
    lists = options.parse_further_settings(vary, "--vary")
    in_config = click.get_current_context().meta.get(options.SETTINGS_OF_CONFIG, ())
    in_config = [pair for pair in in_config if pair.partition("=")[0] not in lists]
    fixed = options.parse_further_settings([*in_config, *settings], "--set")
    problems = [_explain(name) for name, values in lists.items() if not isinstance(values, list)]
    for name in lists.keys() & fixed.keys():
        what = "is given with --set, too"
        problems.append(errors.Problem(where=f"--vary {name}", what=what, fix="leave out one of them"))
    if problems:
        raise errors.InvalidSpec(problems)
    # A list would be values to try.
    fixed = {name: tuple(value) if isinstance(value, list) else value for name, value in fixed.items()}
    with output.open_hub() as hub:
        handle = hub.sweep(
            data,
            adapter=adapter,
            validation=options.parse_validation(validation),
            requirements=requirements.evolve(together=False),  # of all points, whether they can or not
            together=requirements.together,
            progress=progress.RowCounter(),
            **source,
            **reading,
            **{name: value if len(value) > 1 else value[0] for name, value in options.drop_unset(**overrides).items()},
            **fixed,
            **lists,
        )
        if detach:
            output.emit(handle.report(), as_json, lambda: handle.id)
            output.suggest("Follow it", "jobs", "sweep", handle.id, "--wait", as_json=as_json)
            return
        conclude(handle, quiet=quiet, as_json=as_json)


def conclude(handle: SweepHandle, *, quiet: bool, as_json: bool) -> None:
    """Follow a sweep to its end, and print its table."""
    try:
        with progress.open_view(quiet=quiet) as view:
            report = handle.wait(view=view)
    except KeyboardInterrupt:
        output.tell("")  # behind the ^C of the terminal
        output.tell(f"Stopped following sweep {handle.id}. Its jobs continue in the background.")
        output.suggest("Follow it again", "jobs", "sweep", handle.id, "--wait")
        raise
    show_report(report, quiet=quiet, as_json=as_json)
    if report.smallest is not None:
        (chosen,) = (point.adapter for point in report.points if point.number == report.smallest)
        output.suggest("Name it", "adapters", "alias", str(chosen), "best", as_json=as_json or quiet)
    else:
        from finch_hub.hub.sweeping import explain_failure

        raise explain_failure(report)


def show_report(report: SweepReport, *, quiet: bool, as_json: bool) -> None:
    """Print the table of a sweep, or with `quiet` its versions only."""
    if not quiet or as_json:
        output.emit(report, as_json, lambda: sweeps.draw_sweep(report))
        return
    for point in report.points:
        if point.adapter is not None:
            output.say(point.adapter)


def _explain(name: str) -> errors.Problem:
    fix = f"write a list such as --vary '{name}=[1,2]', or use --set for one value"
    return errors.Problem(where=f"--vary {name}", what="is not a JSON list", fix=fix)
