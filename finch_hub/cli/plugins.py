"""`finch-hub plugins`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from finch_hub.cli import output
from finch_hub.display import tables
from finch_hub.plugins import foreign_code

if TYPE_CHECKING:
    from rich.console import RenderableType

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
def list_(kind: str | None, as_json: bool) -> int:
    """List every offer, the plugins with the time that they take to load, and what is wrong with them.

    It exits with 8 if something is wrong. A plugin that ended its process or did not return is tried again.
    """
    catalog = _load_catalog(retry=True)
    offers_by_kind = {name: _offers_of(catalog, name) for name in ([kind] if kind else KINDS)}
    offers = [
        {"kind": name, "name": offer, "plugin": group.plugin_of(offer), "summary": descriptor.summary}
        for name, group in offers_by_kind.items()
        for offer, descriptor in group.items()
    ]
    problems = [str(problem) for problem in catalog.problems]
    # Texts of plugins may have what they read from the environment.
    value = output.redact_values({"offers": offers, "plugins": catalog.plugins, "problems": problems})
    output.emit(value, as_json, lambda: _draw(value["offers"], value["plugins"]))
    if not as_json:
        for problem in value["problems"]:
            output.tell(f"problem: {problem}")
    return output.PLUGIN_FAILED if problems else 0


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
        with foreign_code.blame(f"the parameter schema of {descriptor.label}"):
            value["parameters"] = schema.model_json_schema()
    value = output.redact_values(value)
    output.emit(value, as_json, lambda: tables.draw_fields(_flatten(value)))


def _load_catalog(*, retry: bool = False) -> Catalog:
    from finch_hub import settings
    from finch_hub.plugins.catalog import load_catalog

    return load_catalog(settings.load(), retry=retry)


def _draw(offers: Sequence[Mapping[str, object]], found: Sequence[Mapping[str, Any]]) -> RenderableType:
    rows = [(p["name"], p["version"], round(p["seconds"], 2), p["disabled"] or "works") for p in found]
    drawn = tables.draw_table(("kind", "name", "plugin", "summary"), [tuple(offer.values()) for offer in offers])
    return tables.group([drawn, tables.draw_table(("plugin", "version", "seconds", "state"), rows)])


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
