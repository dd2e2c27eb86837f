"""`finch-hub datasets`."""

from __future__ import annotations

import click

from finch_hub.cli import output
from finch_hub.display import tables


@click.group()
def datasets() -> None:
    """Check, list and purge data sets."""


@datasets.command()
@click.argument("data", type=click.Path())
@click.option("--name", help="What to call it.")
@click.option("--format", "format_name", help="Row format; else each row is recognized by its fields.")
@output.json_option
def add(data: str, name: str | None, format_name: str | None, as_json: bool) -> None:
    """Check a data set and store it; every bad line is named."""
    with output.open_hub() as hub:
        found = hub.datasets.add(data, name=name, format=format_name)
    output.emit(
        found, as_json, lambda: f"{found.name or found.digest[:12]}: {tables.counted(found.examples, 'example')}"
    )


@datasets.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="How many at most.")
@output.json_option
def list_(limit: int, as_json: bool) -> None:
    """List the stored data sets, those of jobs among them."""
    with output.open_hub() as hub:
        found = hub.datasets.find(limit=limit)
    rows = [(d.digest[:12], d.name, d.examples, tables.size(d.bytes), d.created_at, d.purged_at) for d in found]
    columns = ("digest", "name", "examples", "size", "stored", "purged")
    output.emit(found, as_json, lambda: tables.table(columns, rows))


@datasets.command()
@click.argument("name")
def purge(name: str) -> None:
    """Remove the text of a data set; its hash stays in the lineage of what it trained."""
    with output.open_hub() as hub:
        found = hub.datasets.purge(name)
    click.echo(f"{found.name or found.digest[:12]}: the text is gone, the hash stays")
