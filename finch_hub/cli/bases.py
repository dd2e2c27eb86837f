"""`finch-hub bases`."""

from __future__ import annotations

import click

from finch_hub.cli import output
from finch_hub.display import tables


@click.group()
def bases() -> None:
    """Add and list base models."""


@bases.command()
@click.argument("source")
@click.option("--name", help="What to call it; else as the source.")
@click.option("--revision", help="Revision of a Hugging Face id.")
@click.option("--replace", is_flag=True, help="Take the name from the base that has it.")
@output.json_option
def add(source: str, name: str | None, revision: str | None, replace: bool, as_json: bool) -> None:
    """Bring a base here and register it.

    SOURCE is a folder of safetensors, a GGUF file, which is converted once, or a Hugging Face id. Code that comes with
    a model is never executed.
    """
    with output.open_hub() as hub:
        base = hub.bases.add(
            source,
            name=name,
            revision=revision,
            replace=replace,
            progress=lambda text: click.echo(text, err=True),
        )
    output.emit(base, as_json, lambda: f"{base.name}: {base.architecture}, {base.parameters:,} parameters, {base.path}")


@bases.command("list")
@output.json_option
def list_(as_json: bool) -> None:
    """List the base models."""
    with output.open_hub() as hub:
        found = hub.bases.find()
    rows = [(b.name, b.architecture, f"{b.parameters:,}", b.fingerprint[:12], b.source, b.created_at) for b in found]
    columns = ("base", "architecture", "parameters", "fingerprint", "source", "added")
    output.emit(found, as_json, lambda: tables.table(columns, rows))
