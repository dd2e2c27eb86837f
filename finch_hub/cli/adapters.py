"""`finch-hub adapters`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from finch_hub import errors
from finch_hub.cli import exchange, following, output
from finch_hub.display import tables
from finch_hub.display.adapters import draw_version, format_evidence, format_import
from finch_hub.display.inspections import describe_inspection
from finch_hub.display.lineage import draw_lineage, format_mermaid

if TYPE_CHECKING:
    from finch_hub.registry.values import Direction


@click.group()
def adapters() -> None:
    """List, show, tag, import and delete adapters.

    A REFERENCE is `name` (its newest ready version), `name/3` or `name@alias`.
    """


adapters.add_command(exchange.push)
adapters.add_command(exchange.pull)


@adapters.command("list")
@click.option("--name", help="Text that the adapter's name contains.")
@click.option("--tag", help="Tag of a version of the adapter.")
@click.option("--base", help="Base of the adapter.")
@click.option(
    "--limit", type=click.IntRange(1, 10**9), default=100, show_default=True, help="Maximum number of adapters."
)
@output.json_option
def list_(name: str | None, tag: str | None, base: str | None, limit: int, as_json: bool) -> None:
    """List the adapters with their newest versions."""
    with output.open_hub() as hub:
        summaries = hub.adapters.find(name=name, tag=tag, base=base, limit=limit)
    rows = []
    for summary in summaries:
        v, aliases = summary.newest, [f"{alias}={number}" for alias, number in summary.aliases.items()]
        rows.append((v.reference, v.kind, v.state, v.base.name, format_evidence(v), aliases, v.created_at))
    columns = ("newest", "made by", "state", "base", "evidence", "aliases", "made")
    output.emit(summaries, as_json, lambda: tables.draw_table(columns, rows))


@adapters.command()
@click.argument("reference")
@output.json_option
def show(reference: str, as_json: bool) -> None:
    """Show one version with its metrics, lineage and files."""
    with output.open_hub() as hub:
        version = hub.adapters.get(reference)
        folder = str(hub.adapters.folder(version.reference))
        limits = hub.adapters.limits(version.reference)
        evaluations = hub.adapters.evaluations(version.reference)
    value = {**tables.to_json(version), "folder": folder, "limits": limits}
    value["evaluations"] = tables.to_json(evaluations)
    output.emit(value, as_json, lambda: draw_version(version, folder, evaluations, limits))


@adapters.command()
@click.argument("name")
@output.json_option
def versions(name: str, as_json: bool) -> None:
    """List the versions of one adapter."""
    with output.open_hub() as hub:
        versions = hub.adapters.versions(name)
    rows = [(v.reference, v.kind, v.state, format_evidence(v), v.aliases, v.tags, v.created_at) for v in versions]
    columns = ("version", "made by", "state", "evidence", "aliases", "tags", "made")
    output.emit(versions, as_json, lambda: tables.draw_table(columns, rows))


@adapters.command()
@click.argument("reference")
@click.option(
    "--direction",
    type=click.Choice(["ancestors", "descendants", "both"]),
    default="ancestors",
    show_default=True,
    help="Which relatives to show.",
)
@click.option("--mermaid", is_flag=True, help="Print a Mermaid flowchart.")
@output.json_option
def lineage(reference: str, direction: Direction, mermaid: bool, as_json: bool) -> None:
    """Show what a version was made from, and what was made from it."""
    with output.open_hub() as hub:
        graph = hub.adapters.lineage(reference, direction)
    output.emit(graph, as_json, lambda: format_mermaid(graph) if mermaid else draw_lineage(graph))


@adapters.command()
@click.argument("reference")
@output.json_option
def verify(reference: str, as_json: bool) -> None:
    """Hold every stored byte of a version against its hash.

    If something is damaged, the exit code is 11.
    """
    with output.open_hub() as hub:
        version = hub.adapters.get(reference)
        report = hub.adapters.verify(version.reference)
    output.emit(report, as_json, lambda: describe_inspection(report))
    report.raise_damage(f"adapter {version.reference}")


@adapters.command()
@click.argument("reference")
@output.json_option
def path(reference: str, as_json: bool) -> None:
    """Print a local folder with a version's files in PEFT's format."""
    with output.open_hub() as hub:
        folder = str(hub.adapters.folder(reference))
    output.emit({"folder": folder}, as_json, lambda: folder)


@adapters.command()
@click.argument("reference")
@click.argument("alias")
@click.option("--expected", type=int, help="Version number that the alias must point at now. 0 means no version.")
@click.option("--delete", is_flag=True, help="Delete the alias. REFERENCE is then the adapter's name.")
def alias(reference: str, alias: str, expected: int | None, delete: bool) -> None:
    """Make name@ALIAS point at a version."""
    with output.open_hub() as hub:
        if delete:
            hub.adapters.delete_alias(reference, alias)
            output.say(f"Deleted alias {reference}@{alias}")
        else:
            version = hub.adapters.set_alias(reference, alias, expected=expected)
            output.say(f"Set alias {version.name}@{alias} to {version.reference}")


@adapters.command()
@click.argument("reference")
@click.argument("tags", nargs=-1, required=True)
@click.option("--remove", is_flag=True, help="Remove the tags.")
def tag(reference: str, tags: tuple[str, ...], remove: bool) -> None:
    """Add tags to a version, or remove them.

    A tag is a name, or a name with a value, such as owner=ana. A tag that the version has takes the new value.
    """
    with output.open_hub() as hub:
        change = hub.adapters.untag if remove else hub.adapters.tag
        version = change(reference, *tags)
    output.say(f"Tagged {version.reference}: {', '.join(version.tags) or 'no tags'}")


@adapters.command()
@click.argument("name")
@click.argument("new")
def rename(name: str, new: str) -> None:
    """Rename an adapter. References with its former name go on naming it."""
    with output.open_hub() as hub:
        hub.adapters.rename(name, new)
    output.say(f"Renamed adapter {name} to {new}. References with the former name go on naming it.")


@adapters.command()
@click.argument("name")
@click.argument("text")
def describe(name: str, text: str) -> None:
    """Say what an adapter is for. TEXT replaces its description."""
    with output.open_hub() as hub:
        hub.adapters.describe(name, text)
    output.say(f"Described adapter {name}")


@adapters.command()
@click.argument("reference")
@click.argument("text")
def note(reference: str, text: str) -> None:
    """Write notes on a version. TEXT replaces its notes."""
    with output.open_hub() as hub:
        version = hub.adapters.note(reference, text)
    output.say(f"Wrote notes on {version.reference}")


@adapters.command()
@click.argument("reference")
@following.job_options
def reproduce(reference: str, detach: bool, quiet: bool, as_json: bool) -> None:
    """Repeat the job that made a version and compare the bytes.

    If they differ, the command shows where and what may be the cause, and exits with 9. It makes no version.
    """
    from finch_hub.specs.reports import ReproductionReport

    with output.open_hub() as hub:
        handle = hub.reproduce(reference)
        following.conclude(handle, detach=detach, quiet=quiet, as_json=as_json)
        report = None if detach else handle.report()
        if isinstance(report, ReproductionReport) and not report.identical:
            raise errors.NotReproduced(f"{report.adapter} was not reproduced: {len(report.tensors)} tensors differ")


@adapters.command("import")
@click.argument("source", type=click.Path())
@click.option("--name", required=True, help="Name of the adapter in this hub.")
@click.option("--base", required=True, help="Registered base that the adapter was trained on.")
@output.json_option
def import_(source: str, name: str, base: str, as_json: bool) -> None:
    """Import an adapter after checking its files.

    SOURCE is a PEFT folder, a .safetensors file, or a zip or tar archive of either. Pickle files are not read. The
    adapter is held against its base. If the files of the base are not on this machine, the version is unchecked.
    """
    with output.open_hub() as hub:
        version = hub.import_adapter(source, name=name, base=base)
        limits = hub.adapters.limits(version.reference)
    lines = [f"Imported {version.reference} ({version.state})", *format_import(version, limits)]
    output.emit(version, as_json, lambda: lines)
    next_step = "check" if version.state == "unchecked" else "show"
    output.suggest(f"{next_step.capitalize()} it", "adapters", next_step, version.reference, as_json=as_json)


@adapters.command()
@click.argument("reference")
@output.json_option
def check(reference: str, as_json: bool) -> None:
    """Hold an unchecked version against its base.

    A version is unchecked if the files of its base were not on the machine that imported it. Run this where they are.
    """
    with output.open_hub() as hub:
        version = hub.adapters.check(reference)
    output.emit(version, as_json, lambda: f"Checked {version.reference} ({version.state})")


@adapters.command()
@click.argument("reference")
def delete(reference: str) -> None:
    """Delete one version, given as name/3."""
    with output.open_hub(deletes=True) as hub:
        version = hub.adapters.delete(reference)
    output.say(f"Deleted {version.reference}. Its number will not be reused.")
