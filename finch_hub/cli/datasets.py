"""`finch-hub datasets`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from finch_hub.cli import options, output
from finch_hub.display import progress, tables

if TYPE_CHECKING:
    from finch_hub.registry.values import Dataset
    from finch_hub.specs.reading import ReadingOptions


@click.group()
def datasets() -> None:
    """Check, list and purge data sets."""


@datasets.command()
@click.argument("data", type=click.Path(allow_dash=True))
@click.option("--name", help="Name of the data set.")
@click.option("--system", help="System prompt of the examples that have none. It is stored with them.")
@options.reading_options
@output.json_option
def add(data: str, name: str | None, system: str | None, reading: ReadingOptions, as_json: bool) -> None:
    """Check a data set and store it. Warnings name rows that are left out and columns that are not used.

    DATA is a file, a folder of files, or - for standard input: JSON Lines, JSON, CSV, TSV, Parquet or Arrow, also
    compressed.
    """
    with output.open_hub() as hub:
        dataset = hub.datasets.add(data, name=name, system=system, progress=progress.RowCounter(), **reading)
    label = _label(dataset)
    output.emit(dataset, as_json, lambda: f"Added data set {label}: {tables.format_count(dataset.examples, 'example')}")
    output.suggest("Train an adapter on it", f"train {label} --adapter NAME --base BASE", as_json)


@datasets.command("list")
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Maximum number of data sets."
)
@output.json_option
def list_(limit: int, as_json: bool) -> None:
    """List the stored data sets, including those of jobs."""
    with output.open_hub() as hub:
        datasets = hub.datasets.find(limit=limit)
    rows = [
        (d.digest[:12], d.name, d.examples, tables.format_bytes(d.bytes), d.created_at, d.purged_at) for d in datasets
    ]
    columns = ("digest", "name", "examples", "size", "stored", "purged")
    output.emit(datasets, as_json, lambda: tables.draw_table(columns, rows))


@datasets.command()
@click.argument("name")
def purge(name: str) -> None:
    """Delete the text of a data set. Its hash stays in the lineage of the adapters trained on it."""
    with output.open_hub() as hub:
        dataset = hub.datasets.purge(name)
    click.echo(f"Deleted the text of data set {_label(dataset)}. Its hash and figures remain.")


def _label(dataset: Dataset) -> str:
    return dataset.name or dataset.digest[:12]
