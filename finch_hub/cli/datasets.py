"""`finch-hub datasets`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finch_hub.cli import completion, options, output
from finch_hub.cli.bases import SMALL_BASE
from finch_hub.display import previews, progress, tables

if TYPE_CHECKING:
    from finch_hub.hub.datasets import AddedDataset
    from finch_hub.registry.values import Dataset
    from finch_hub.specs.reading import ReadingOptions
    from finch_hub.storage.purging import PurgedDataset


_MAX_SHOWN = 20  # versions that a purge names


@click.group()
def datasets() -> None:
    """Preview, check, list and purge data sets."""


@datasets.command()
@click.argument("data", type=click.Path(allow_dash=True), shell_complete=completion.complete_data)
@click.option("--name", help="Name of the data set.")
@click.option(
    "--replace",
    is_flag=True,
    help="Move the name from the data set that has it. Rows that are stored under another name are renamed.",
)
@click.option("--system", help="System prompt of the examples that have none. It is stored with them.")
@click.option("--license", "license_", metavar="ID", help="License of the data, such as cc-by-4.0.")
@options.reading_options
@output.json_option
def add(
    data: str,
    name: str | None,
    replace: bool,
    system: str | None,
    license_: str | None,
    reading: ReadingOptions,
    as_json: bool,
) -> None:
    """Check a data set and store it. Warnings name rows that are left out and columns that are not used.

    DATA is a file, a folder of files, or - for standard input: JSON Lines, JSON, CSV, TSV, Parquet or Arrow, also
    compressed. The validation split of a folder becomes a data set of its own.
    """
    with output.open_hub() as hub:
        dataset = hub.datasets.add(
            data, name=name, replace=replace, system=system, license=license_, progress=progress.RowCounter(), **reading
        )
        bases = hub.bases.find()
    parts = [dataset] if dataset.validation is None else [dataset, dataset.validation]
    output.emit(dataset, as_json, lambda: list(map(_describe, parts)))
    train, *held_out = map(_argument, parts)
    validation = ["--validation", *held_out] if held_out else []
    if bases:
        words = ("train", train, *validation, "--adapter", _suggest_name(dataset), "--base", bases[-1].name)
        output.suggest("Train an adapter on it", *words, as_json=as_json)
    else:
        output.suggest("Add a base to train an adapter for", "bases", "add", SMALL_BASE, as_json=as_json)


@datasets.command()
@click.argument("data", type=click.Path(allow_dash=True), shell_complete=completion.complete_data)
@click.option(
    "--base", required=True, shell_complete=completion.complete_bases, help="Base model that is to see the rows."
)
@click.option("--revision", help="Revision of a Hugging Face model.")
@click.option("--system", help="System prompt of the examples that have none.")
@click.option("--max-length", type=click.IntRange(8), help="Tokens to which rows are cut.  [default: as in a training]")
@click.option("--limit", type=click.IntRange(1, 1000), default=3, show_default=True, help="Maximum number of rows.")
@options.reading_options
@output.json_option
def preview(
    data: str,
    base: str,
    revision: str | None,
    system: str | None,
    max_length: int | None,
    limit: int,
    reading: ReadingOptions,
    as_json: bool,
) -> None:
    """Show the first rows as a base sees them: what is learned, and what is dropped.

    DATA is a file, a folder of files, a stored data set, or - for standard input. Nothing is stored. Without colors,
    [[double brackets]] mark what is learned and ~~tildes~~ what is dropped.
    """
    output.tell(f"reading the data and the tokenizer of {base}")
    with output.open_hub() as hub:
        found = hub.datasets.preview(
            data,
            base=base,
            revision=revision,
            system=system,
            max_length=max_length,
            limit=limit,
            progress=progress.RowCounter(),
            **reading,
        )
    output.emit(found, as_json, lambda: previews.draw_data_preview(found))


@datasets.command("list")
@click.option(
    "--limit", type=click.IntRange(1, 10**9), default=100, show_default=True, help="Maximum number of data sets."
)
@output.list_options
def list_(limit: int, quiet: bool, as_json: bool) -> None:
    """List the stored data sets, including those of jobs."""
    with output.open_hub() as hub:
        datasets = hub.datasets.find(limit=limit)
    rows = [
        (d.digest[:12], d.name, d.examples, d.format, tables.format_bytes(d.bytes), d.created_at, d.purged_at)
        for d in datasets
    ]
    columns = ("digest", "name", "examples", "format", "bytes", "created", "purged")
    empty, advice = "There are no data sets.", ("Read how to add one", "datasets", "add", "--help")
    output.emit_list(datasets, columns, rows, as_json=as_json, quiet=quiet, empty=empty, advice=advice)


@datasets.command()
@click.argument("name", shell_complete=completion.complete_datasets)
@output.json_option
def show(name: str, as_json: bool) -> None:
    """Show one data set, without its rows.

    NAME is the name of the data set, or the first characters of its digest.
    """
    with output.open_hub() as hub:
        dataset = hub.datasets.get(name)
    fields = {
        "data set": dataset.name,
        "license": dataset.license or "unknown",
        "examples": dataset.examples,
        "format": dataset.format,
        "size": tables.format_bytes(dataset.bytes),
        "stored by": "jobs" if dataset.of_jobs else "a user",
        "stored": dataset.created_at,
        "purged": dataset.purged_at,
        "digest": dataset.digest,
    }
    output.emit(dataset, as_json, lambda: tables.draw_fields(fields))


@datasets.command()
@click.argument("name", shell_complete=completion.complete_datasets)
@click.option("--quiet", is_flag=True, help="Show no progress.")
@output.yes_option
@output.json_option
def purge(name: str, quiet: bool, yes: bool, as_json: bool) -> None:
    """Delete the text of a data set, and every copy of its rows that the hub has.

    NAME is the name of the data set, or the first characters of its digest. Its hash stays in the lineage of the
    adapters trained on it. Backups keep the rows, and so do data sets that you added with a name or with other rows.
    """
    with output.open_hub(deletes=True) as hub, progress.show_advances(quiet=quiet):
        output.confirm(lambda: _ask_purge(hub.datasets.get(name)), yes=yes)
        dataset = hub.datasets.purge(name)
    output.emit(dataset, as_json, lambda: _describe_purge(dataset))
    for other in dataset.also_in:
        rows = tables.format_count(other.rows, "row")
        again = output.name_command("datasets", "purge", other.dataset)
        output.tell(f"Data set {other.dataset} stays and has {rows} of it. To purge it too: {again}")
    output.tell("Backups and exports that were made before are not changed.")
    if dataset.keeps_versions is not False:
        keeps = "keeps" if dataset.keeps_versions else "may keep"
        output.tell(f"The artifact store {keeps} earlier versions of the deleted files: see docs/data.md.")
    if not dataset.is_erased:
        output.tell("The files of the database may hold deleted text for some time: see docs/operations.md.")


def _ask_purge(dataset: Dataset) -> str:
    size = f"{tables.format_count(dataset.examples, 'example')}, {tables.format_bytes(dataset.bytes)}"
    return f"Delete the text of data set {_label(dataset)} ({size}), which cannot be undone?"


def _describe_purge(dataset: PurgedDataset) -> list[str]:
    lines = [f"Deleted the text of data set {_label(dataset)}. Its hash and figures remain."]
    if dataset.parts:
        count = tables.format_count(len(dataset.parts), "data set")
        lines.append(f"Deleted {count} without a name that had rows of it.")
    if dataset.versions:
        more = " and more" if len(dataset.versions) > _MAX_SHOWN else ""
        lines.append(f"These versions cannot be reproduced now: {', '.join(dataset.versions[:_MAX_SHOWN])}{more}")
    if dataset.changed_records:
        count = tables.format_count(dataset.changed_records, "record")
        lines.append(f"Removed its texts from {count} of jobs, versions and logs.")
    return lines


def _suggest_name(dataset: Dataset) -> str:
    """Return a valid name of an adapter that reads like that of the data set."""
    return re.sub(r"[^a-z0-9._-]+", "-", (dataset.name or "").lower()).strip("-._")[:40] or "first"


def _label(dataset: Dataset) -> str:
    return dataset.name or dataset.digest[:12]


def _argument(dataset: Dataset) -> str:
    """Return the argument that names a data set, also if a file of the working directory has its name."""
    return _label(dataset) if not Path(_label(dataset)).exists() else dataset.digest[:12]


def _describe(added: AddedDataset) -> str:
    count = tables.format_count(added.examples, "example")
    if added.moved_from is not None:
        before = f", which was {added.renamed_from}" if added.renamed_from not in (None, added.digest) else ""
        name = f"the name {added.name} from data set {added.moved_from[:12]}"
        return f"Moved {name} to {added.digest[:12]}{before}: {count}"
    if added.renamed_from == added.digest:
        return f"Named data set {added.digest[:12]}, which had no name, {added.name}: {count}"
    if added.renamed_from is not None:
        return f"Renamed data set {added.renamed_from} to {added.name}: {count}"
    if not added.is_new:
        return f"Data set {_label(added)} was stored before: {count}"
    return f"Added data set {_label(added)}: {count}"
