"""`finch-hub plugins`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from finch_hub.cli import output
from finch_hub.display import tables

if TYPE_CHECKING:
    from finch_hub.plugins.catalog import Catalog, Offers

KINDS = {
    "preset": "presets",
    "strategy": "strategies",
    "resolver": "resolvers",
    "dataset-format": "dataset_formats",
    "base-source": "base_sources",
    "export-format": "export_formats",
    "evaluator": "evaluators",
    "listener": "listeners",
}


@click.group()
def plugins() -> None:
    """List what the installed plugins offer."""


@plugins.command("list")
@click.option("--kind", type=click.Choice(list(KINDS)), help="Only this kind of offer.")
@output.json_option
def list_(kind: str | None, as_json: bool) -> None:
    """List every offer, and the plugins that could not be loaded."""
    catalog = _catalog()
    offers = [
        {
            "kind": name,
            "name": offer,
            "plugin": _offers(catalog, name).plugin_of(offer),
            "summary": descriptor.summary,
        }
        for name in ([kind] if kind else KINDS)
        for offer, descriptor in _offers(catalog, name).items()
    ]
    value = {"offers": offers, "plugins": catalog.plugins, "problems": [str(p) for p in catalog.problems]}
    rows = [tuple(offer.values()) for offer in offers]
    output.emit(value, as_json, lambda: tables.table(("kind", "name", "plugin", "what it does"), rows))
    if not as_json:
        for problem in catalog.problems:
            click.echo(f"problem: {problem}", err=True)


@plugins.command()
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.argument("name")
@output.json_option
def show(kind: str, name: str, as_json: bool) -> None:
    """Show one offer: its values and the reasons for them, or its parameters."""
    descriptor = _offers(_catalog(), kind)[name]
    value = descriptor.model_dump(mode="json", exclude={"parameters"})
    schema = getattr(descriptor, "parameters", None)
    if schema is not None:
        value["parameters"] = schema.model_json_schema()
    output.emit(value, as_json, lambda: tables.fields(_flat(value)))


def _catalog() -> Catalog:
    from finch_hub.plugins.catalog import load_catalog

    return load_catalog()


def _offers(catalog: Catalog, kind: str) -> Offers[Any]:
    offers: Offers[Any] = getattr(catalog, KINDS[kind])
    return offers


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, dict):
            flat.update(_flat(item, f"{prefix}{name}."))
        else:
            flat[prefix + name] = item
    return flat
