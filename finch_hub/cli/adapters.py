"""`finch-hub adapters`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from finch_hub.cli import following, output
from finch_hub.display import reports, tables

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.tree import Tree

    from finch_hub.registry.values import AdapterVersion, Ancestry


@click.group()
def adapters() -> None:
    """List, show, tag, import and delete adapters.

    A REFERENCE is `name` (its newest ready version), `name/3` or `name@alias`.
    """


@adapters.command("list")
@click.option("--name", help="Only names that contain this.")
@click.option("--tag", help="Only versions with this tag.")
@click.option("--base", help="Only adapters of this base.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="How many at most.")
@output.json_option
def list_(name: str | None, tag: str | None, base: str | None, limit: int, as_json: bool) -> None:
    """List the adapters, each with its newest version."""
    with output.open_hub() as hub:
        found = hub.adapters.find(name=name, tag=tag, base=base, limit=limit)
    rows = [
        (
            each.newest.reference,
            each.newest.kind,
            each.newest.state,
            each.newest.base.name,
            _evidence(each.newest),
            [f"{alias}={number}" for alias, number in each.aliases.items()],
            each.newest.created_at,
        )
        for each in found
    ]
    columns = ("newest", "made by", "state", "base", "evidence", "aliases", "made")
    output.emit(found, as_json, lambda: tables.table(columns, rows))


@adapters.command()
@click.argument("reference")
@output.json_option
def show(reference: str, as_json: bool) -> None:
    """Show one version: metrics, lineage, files."""
    with output.open_hub() as hub:
        version = hub.adapters.get(reference)
        folder = hub.adapters.folder(version.reference)
        measured = hub.adapters.evaluations(version.reference)
    value = {**tables.plain(version), "folder": str(folder), "evaluations": tables.plain(measured)}
    output.emit(value, as_json, lambda: tables.fields(_described(version, str(folder), measured)))


@adapters.command()
@click.argument("name")
@output.json_option
def versions(name: str, as_json: bool) -> None:
    """List the versions of one adapter."""
    with output.open_hub() as hub:
        found = hub.adapters.versions(name)
    rows = [(v.reference, v.kind, v.state, _evidence(v), v.aliases, v.tags, v.created_at) for v in found]
    columns = ("version", "made by", "state", "evidence", "aliases", "tags", "made")
    output.emit(found, as_json, lambda: tables.table(columns, rows))


@adapters.command()
@click.argument("reference")
@output.json_option
def lineage(reference: str, as_json: bool) -> None:
    """Show what a version descends from."""
    with output.open_hub() as hub:
        found = hub.adapters.lineage(reference)
    output.emit(found, as_json, lambda: _tree(found))


@adapters.command()
@click.argument("reference")
def path(reference: str) -> None:
    """Print a local folder with a version's files, in PEFT's format."""
    with output.open_hub() as hub:
        click.echo(hub.adapters.folder(reference))


@adapters.command()
@click.argument("reference")
@click.argument("alias")
@click.option("--expected", type=int, help="Only if it points at this version until now; 0: at none.")
@click.option("--delete", is_flag=True, help="Remove the alias; REFERENCE is then the adapter's name.")
def alias(reference: str, alias: str, expected: int | None, delete: bool) -> None:
    """Let name@ALIAS point at a version."""
    with output.open_hub() as hub:
        if delete:
            hub.adapters.delete_alias(reference, alias)
            click.echo(f"{reference}@{alias} is removed")
        else:
            version = hub.adapters.set_alias(reference, alias, expected=expected)
            click.echo(f"{version.name}@{alias} -> {version.reference}")


@adapters.command()
@click.argument("reference")
@click.argument("tags", nargs=-1, required=True)
@click.option("--remove", is_flag=True, help="Remove them instead.")
def tag(reference: str, tags: tuple[str, ...], remove: bool) -> None:
    """Add tags to a version, or remove them."""
    with output.open_hub() as hub:
        change = hub.adapters.untag if remove else hub.adapters.tag
        version = change(reference, *tags)
    click.echo(f"{version.reference}: {', '.join(version.tags) or 'no tags'}")


@adapters.command()
@click.argument("reference")
@following.job_options
def reproduce(reference: str, detach: bool, quiet: bool, as_json: bool) -> None:
    """Do again what made a version, and say whether the same bytes came out.

    If not, it says where they differ and what may be why, and the exit code is 9. No version is made.
    """
    with output.open_hub() as hub:
        handle = hub.reproduce(reference)
        following.conclude(handle, detach=detach, quiet=quiet, as_json=as_json)
        if not detach:
            reports.check_reproduced(handle.report())


@adapters.command("import")
@click.argument("source", type=click.Path())
@click.option("--name", required=True, help="Name of the adapter here.")
@click.option("--base", required=True, help="The registered base that it was trained on.")
@output.json_option
def import_(source: str, name: str, base: str, as_json: bool) -> None:
    """Let an adapter from outside in, through the gate.

    SOURCE is a PEFT folder, one .safetensors file, or a zip or tar archive of either. Pickles are refused.
    """
    with output.open_hub() as hub:
        version = hub.import_adapter(source, name=name, base=base)
    output.emit(version, as_json, lambda: f"{version.reference} ({version.state})")


@adapters.command()
@click.argument("reference")
def delete(reference: str) -> None:
    """Take one version, name/3, out of use."""
    with output.open_hub() as hub:
        version = hub.adapters.delete(reference)
    click.echo(f"{version.reference} is deleted; its number is not given again")


def _evidence(version: AdapterVersion) -> str:
    metrics = version.metrics
    if "loss_before" in metrics and "loss_after" in metrics:
        return f"loss {metrics['loss_before']:.3f} -> {metrics['loss_after']:.3f}"
    if metrics.get("mean_retention") is not None:
        return f"retention {metrics['mean_retention']:.3f}, worst {metrics['worst_retention']:.3f}"
    if "relative_error" in metrics:
        return f"{metrics.get('scheme')}, error {metrics['relative_error']:.2%}"
    return "-"


def _described(version: AdapterVersion, folder: str, measured: Any) -> dict[str, Any]:
    lineage = version.lineage
    evaluated = [f"{m.evaluator} {_short(m.metrics)}" for m in measured]
    return {
        "version": version.reference,
        "state": version.state,
        "made by": f"{version.kind}{f', job {version.job_id}' if version.job_id else ''}",
        "made": version.created_at,
        "base": f"{version.base.name} ({version.base.architecture}, {version.base.fingerprint[:12]})",
        "parents": [f"{parent.reference} x {parent.weight:g}" for parent in lineage.parents] or None,
        "data": lineage.train_digest
        and f"{lineage.train_digest[:12]}, held out {(lineage.validation_digest or '-')[:12]}",
        "seed": lineage.seed,
        "aliases": version.aliases or None,
        "tags": version.tags or None,
        "metrics": _short(version.metrics),
        "evaluations": "\n".join(evaluated) or None,
        "identity": version.identity,
        "folder": folder,
    }


def _short(metrics: dict[str, Any]) -> str:
    return ", ".join(f"{k} {tables.cell(v)}" for k, v in metrics.items() if not isinstance(v, dict | list | None))


def _tree(ancestry: Ancestry, weight: float | None = None) -> Tree:
    from rich.tree import Tree

    version = ancestry.version
    share = f" x {weight:g}" if weight is not None else ""
    label: RenderableType = f"{version.reference}{share} ({version.kind}, {_evidence(version)})"
    tree = Tree(label)
    for parent in ancestry.parents:
        tree.add(_tree(parent, parent.weight))
    return tree
