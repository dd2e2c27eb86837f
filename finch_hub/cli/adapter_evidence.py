"""`finch-hub adapters evidence`, `samples`, `report`, `compare` and `metric`."""

from __future__ import annotations

import click

from finch_hub.cli import completion, options, output


@click.command()
@click.argument("reference", shell_complete=completion.complete_references)
@output.json_option
def evidence(reference: str, as_json: bool) -> None:
    """Show what was measured when a version was made.

    That is the loss curve, the data report, retention and conflicts by layer of a composition, the drift from the base
    and the environment. It stays when the job is pruned.
    """
    from finch_hub.display.evidence import draw_evidence

    with output.open_hub() as hub:
        found = hub.adapters.evidence(reference)
    output.emit(found, as_json, lambda: draw_evidence(found))


@click.command()
@click.argument("reference", shell_complete=completion.complete_references)
@output.json_option
def samples(reference: str, as_json: bool) -> None:
    """Show sample prompts with the answers before and after a training.

    `finch-hub train --set samples=4` keeps them. They quote rows of the data, and are purged with it.
    """
    from finch_hub.display.evidence import draw_samples

    with output.open_hub() as hub:
        found = hub.adapters.samples(reference)
    output.emit(found, as_json, lambda: draw_samples(found))


@click.command()
@click.argument("reference", shell_complete=completion.complete_references)
@options.report_options
def report(reference: str, html: str, samples: bool, replace: bool) -> None:
    """Write a report of a version with its pictures to one HTML file.

    It has the loss curve, the data, retention, conflicts, drift, lineage, settings and the command that repeats them.
    The file needs no network and can be printed. The command needs the extra `report`.
    """
    with output.open_hub() as hub:
        path = hub.adapters.write_report(reference, html, samples=samples, replace=replace)
    output.say(f"Wrote the report of {reference} to {path}")


@click.command()
@click.argument("references", nargs=-1, required=True, shell_complete=completion.complete_references)
@options.renamed_option("--show-equal", former="--all", is_flag=True, help="Also show what is equal.")
@click.option("--modules", is_flag=True, help="Also compare norms and overlaps of the updates by module.")
@output.json_option
def compare(references: tuple[str, ...], show_equal: bool, modules: bool, as_json: bool) -> None:
    """Compare versions of any adapters, or all versions of one.

    REFERENCES are two or more versions, or the name of one adapter for all its versions. The table has a column for
    each.
    """
    from finch_hub.display.comparisons import draw_comparison

    with output.open_hub() as hub:
        comparison = hub.adapters.compare(*references, show_equal=show_equal, modules=modules)
    output.emit(comparison, as_json, lambda: draw_comparison(comparison))


@click.command()
@click.argument("name", shell_complete=completion.complete_adapters)
@click.argument("metric")
@output.json_option
def metric(name: str, metric: str, as_json: bool) -> None:
    """Show a metric of each version of an adapter."""
    from finch_hub.display.comparisons import draw_metric

    with output.open_hub() as hub:
        points = hub.adapters.metric(name, metric)
    output.emit(points, as_json, lambda: draw_metric(metric, points))


COMMANDS = (evidence, samples, report, compare, metric)
