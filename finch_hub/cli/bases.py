"""`finch-hub bases`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from finch_hub.cli import completion, options, output
from finch_hub.display import progress, tables

if TYPE_CHECKING:
    from finch_hub.registry import values

SMALL_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"  # for a first try; it has 270 MB


@click.group()
def bases() -> None:
    """Add, list and remove base models."""


@bases.command()
@click.argument("source")
@click.option("--name", help="Name of the base.  [default: SOURCE]")
@options.renamed_option(
    "--public-id", former="--id", help="Hugging Face id of the model, which exported adapters name as their base."
)
@click.option("--revision", help="Revision of a Hugging Face model.")
@click.option("--license", "license_", metavar="ID", help="License, such as apache-2.0.  [default: that of its files]")
@click.option("--replace", is_flag=True, help="Take the name from another base, or rename the base.")
@output.json_option
def add(
    source: str,
    name: str | None,
    public_id: str | None,
    revision: str | None,
    license_: str | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Fetch a base model and register it.

    SOURCE is a folder of safetensors, a GGUF file, or a Hugging Face id. A GGUF file is converted once. Code that comes
    with a model never runs.
    """
    with output.open_hub() as hub, progress.show_advances():
        base = hub.bases.add(
            source,
            name=name,
            public_id=public_id,
            revision=revision,
            license=license_,
            replace=replace,
            progress=output.tell,
        )
    summary = f"{base.architecture}, {base.parameters:,} parameters, in {base.path}"
    before = f"Renamed base {base.renamed_from} to" if base.renamed_from is not None else "Added base"
    lines = [f"{before} {base.name}: {summary}"]
    if base.is_relicensed:
        lines.append(f"Its license is now {base.license}, and was {base.license_before or 'unknown'}.")
    output.emit(base, as_json, lambda: lines)
    if base.earlier is not None:
        _tell_earlier(base, base.earlier)
    output.suggest("Add the data to train an adapter on", "datasets", "add", "--help", as_json=as_json)


def _tell_earlier(base: values.Base, earlier: values.Base) -> None:
    """Say that a source has other files than before, and how those come back."""
    name = f" as {earlier.name}" if earlier.name != earlier.fingerprint else ""
    output.tell(f"{base.source} has other files than before. The earlier base and its adapters stay{name}.")
    if earlier.revision is not None:
        again = output.name_command("bases", "add", base.source, "--revision", earlier.revision)
        output.tell(f"To bring it back: {again}")


@bases.command("list")
@output.list_options
def list_(quiet: bool, as_json: bool) -> None:
    """List the base models."""
    with output.open_hub() as hub:
        bases = hub.bases.find()
    rows = [
        (b.name, b.hub_id, b.architecture, f"{b.parameters:,}", b.fingerprint[:12], b.source, b.created_at)
        for b in bases
    ]
    columns = ("name", "hub id", "architecture", "parameters", "fingerprint", "source", "created")
    empty, advice = "There are no bases.", ("Add a small one", "bases", "add", SMALL_BASE)
    output.emit_list(bases, columns, rows, as_json=as_json, quiet=quiet, empty=empty, advice=advice)


@bases.command()
@click.argument("name", shell_complete=completion.complete_bases)
@output.json_option
def show(name: str, as_json: bool) -> None:
    """Show one base model.

    NAME is the name or the fingerprint of the base.
    """
    with output.open_hub() as hub:
        base = hub.bases.get(name)
    fields = {
        "base": base.name,
        "id": base.hub_id,
        "license": base.license or "unknown",
        "license text": base.license_link,
        "architecture": base.architecture,
        "parameters": f"{base.parameters:,}",
        "source": base.source,
        "revision": base.revision,
        "folder": base.path,
        "fingerprint": base.fingerprint,
        "added": base.created_at,
    }
    output.emit(base, as_json, lambda: tables.draw_fields(fields))


@bases.command()
@click.argument("name", shell_complete=completion.complete_bases)
@output.yes_option
@output.json_option
def remove(name: str, yes: bool, as_json: bool) -> None:
    """Remove a base model that no adapter and no unfinished job needs.

    NAME is the name or the fingerprint of the base. Files that were converted from GGUF are deleted. A folder or
    download of yours stays.
    """
    with output.open_hub(deletes=True) as hub:
        output.confirm(lambda: _ask_removal(hub.bases.get(name)), yes=yes)
        base = hub.bases.remove(name)
    freed = f", and freed {tables.format_bytes(base.freed)}" if base.freed else ""
    output.emit(base, as_json, lambda: f"Removed base {base.name}{freed}")
    if base.kept is not None:
        output.tell(f"Its files stay in {base.kept}.")


def _ask_removal(base: values.Base) -> str:
    return f"Remove base {base.name} ({base.architecture}, {base.parameters:,} parameters)?"
