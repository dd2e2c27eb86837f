"""`finch-hub plugins`."""

from __future__ import annotations

from collections.abc import Mapping
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
@click.option("--kind", type=click.Choice(list(KINDS)), help="Kind of the offers.")
@output.json_option
def list_(kind: str | None, as_json: bool) -> None:
    """List every offer, and the plugins that could not be loaded."""
    catalog = _load_catalog()
    offers_by_kind = {name: _offers_of(catalog, name) for name in ([kind] if kind else KINDS)}
    offers = [
        {"kind": name, "name": offer, "plugin": group.plugin_of(offer), "summary": descriptor.summary}
        for name, group in offers_by_kind.items()
        for offer, descriptor in group.items()
    ]
    value = {"offers": offers, "plugins": catalog.plugins, "problems": [str(p) for p in catalog.problems]}
    rows = [tuple(offer.values()) for offer in offers]
    output.emit(value, as_json, lambda: tables.draw_table(("kind", "name", "plugin", "summary"), rows))
    if not as_json:
        for problem in catalog.problems:
            click.echo(f"problem: {problem}", err=True)


@plugins.command()
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.argument("name")
@output.json_option
def show(kind: str, name: str, as_json: bool) -> None:
    """Show one offer with its values and reasons, or with its parameters."""
    descriptor = _offers_of(_load_catalog(), kind)[name]
    value = descriptor.model_dump(mode="json", exclude={"parameters"})
    schema = getattr(descriptor, "parameters", None)
    if schema is not None:
        value["parameters"] = schema.model_json_schema()
    output.emit(value, as_json, lambda: tables.draw_fields(_flatten(value)))


def _load_catalog() -> Catalog:
    from finch_hub.plugins.catalog import load_catalog

    return load_catalog()


def _offers_of(catalog: Catalog, kind: str) -> Offers[Any]:
    offers: Offers[Any] = getattr(catalog, KINDS[kind])
    return offers


def _flatten(value: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, item in value.items():
        if isinstance(item, dict):
            flat.update(_flatten(item, f"{prefix}{name}."))
        else:
            flat[prefix + name] = item
    return flat
