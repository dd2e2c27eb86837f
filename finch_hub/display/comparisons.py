"""Drawings of comparisons of versions, and of histories of a metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from finch_hub.display.evidence import make_bars
from finch_hub.display.tables import draw_table, format_number, group
from finch_hub.specs.comparisons import explain_other_data

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from finch_hub.specs.comparisons import ComparedModule, Comparison, MetricPoint


def draw_comparison(comparison: Comparison) -> Group:
    """Draw a table with a column for each version."""
    parts: list[RenderableType] = []
    if comparison.values:
        rows = [(value.section, value.name, *value.values) for value in comparison.values]
        parts.append(draw_table(("", "", *comparison.versions), rows))
    else:
        parts.append("No value differs.")
    if comparison.equal:
        parts.append(f"{comparison.equal} values are equal. Show them with --show-equal.")
    if comparison.modules:
        parts.append(_draw_modules(comparison.modules, comparison.versions))
    return group([*parts, *comparison.remarks])


def _draw_modules(modules: Sequence[ComparedModule], versions: Sequence[str]) -> RenderableType:
    columns = ["module", *(f"norm of {version}" for version in versions)]
    for version in versions[1:]:
        columns += [f"{measure} of {version}" for measure in ("cosine", "output overlap", "input overlap")]
    rows = []
    for module in modules:
        cells = [module.module or "all modules", *(format_number(norm) for norm in module.norms)]
        for place in range(1, len(versions)):
            for entries in (module.cosines, module.output_overlaps, module.input_overlaps):
                cells.append(format_number(entries[place] if entries else None, 2))
        rows.append(cells)
    return draw_table(columns, rows, title=f"Updates by module, compared with those of {versions[0]}")


def draw_metric(metric: str, points: Sequence[MetricPoint]) -> Group:
    """Draw a metric of the versions of an adapter, with bars if its values are numbers that can be compared."""
    rows = [(p.version, p.value, p.held_out and p.held_out[:12], p.state, p.created_at) for p in points]
    numbers = [float(point.value) for point in points if _is_number(point.value)]
    measured = [point for point in points if point.value is not None and point.held_out is not None]
    is_comparable = not metric.startswith("loss") or len({point.held_out for point in measured}) < 2
    bars = [make_bars(numbers)] if len(numbers) > 1 and is_comparable else []
    remarks = [] if is_comparable else [explain_other_data([point.version for point in measured])]
    return group([draw_table(("version", metric, "held-out data", "state", "created"), rows), *bars, *remarks])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
