"""Drawings of conflicts and compositions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from finch_hub.display.tables import draw_table, format_count, format_number, group

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from finch_hub.specs.reports import Candidate, CompositionReport, ConflictReport, PairConflict, RowDivision

WORST_MODULES = 8


def draw_conflicts(report: ConflictReport) -> Group:
    """Draw the conflicts by pair and by module, the forecasts and the advice."""
    worst = sorted(report.modules, key=lambda conflict: conflict.severity, reverse=True)[:WORST_MODULES]
    title = f"Conflicts in the worst {len(worst)} of {len({pair.module for pair in report.modules})} modules"
    parts: list[RenderableType] = []
    if report.pairs:
        parts = [draw_pairs(report.pairs), draw_pairs(worst, title=title)]
    elif not report.structural:
        parts = ["No two adapters change the same module."]
    if report.hidden_shifts:
        rows = [(shift.first, shift.second, shift.shift) for shift in report.hidden_shifts]
        title = "Shift of the hidden states on inputs of one adapter when another is added"
        parts.append(draw_table(("inputs of", "added", "shift"), rows, title=title))
    if report.rows:
        parts.append(_draw_rows(report.rows))
    if report.forecasts:
        forecasts = [(f.strategy, f.scale, *(format_number(kept, 2) for kept in f.kept)) for f in report.forecasts]
        title = "Forecast of the share of its gain that each parent keeps, from the rows that a search uses"
        parts.append(draw_table(("strategy", "scale", *report.parents), forecasts, title=title))
    if report.advice:
        parts += [f"advice: {report.advice}", *(f"  - {reason}" for reason in report.reasons)]
    return group(parts)


def draw_pairs(pairs: Sequence[PairConflict], *, title: str = "Conflicts by pair, over all modules") -> RenderableType:
    """Draw the conflict measures of pairs of adapters."""
    measures = ["output_overlap", "input_overlap", "cosine", "sign_conflict", "norm_ratio"]
    if any(pair.interference is not None for pair in pairs):
        measures.append("interference")
    has_modules = any(pair.module for pair in pairs)
    rows = [
        (
            *([pair.module] if has_modules else []),
            f"{pair.first} + {pair.second}",
            *(format_number(getattr(pair, measure), 2) for measure in measures),
        )
        for pair in pairs
    ]
    columns = ["pair", *(measure.replace("_", " ") for measure in measures)]
    return draw_table(["module", *columns] if has_modules else columns, rows, title=title)


def draw_composition(report: CompositionReport) -> Group:
    """Draw the retention of each parent, the candidates and the advice."""
    rows = [
        (
            kept.parent,
            *(format_number(loss) for loss in (kept.base, kept.own, kept.composed, kept.linear)),
            format_number(kept.retention) if kept.status == "measured" else kept.status,
            kept.examples,
        )
        for kept in report.retention
    ]
    columns = ("parent", "base", "own adapter", "composed", "plain linear", "retention", "examples")
    parts: list[RenderableType] = [
        f"strategy {report.strategy} {_format_parameters(report.parameters)}with resolver {report.resolver}, "
        f"scale {report.scale:.3g}, rank {report.rank}, "
        f"{format_count(report.evaluations, 'evaluation')} in {report.seconds:.1f} s",
        draw_table(columns, rows, title="Held-out loss on each parent's validation set, and its retention"),
    ]
    if report.conflicts.rows:
        parts.append(_draw_rows(report.conflicts.rows))
    if report.candidates:
        parts.append(_draw_candidates(report.candidates))
    if report.mean_retention is not None:
        parts.append(f"retention: mean {report.mean_retention:.3f}, worst {report.worst_retention:.3f}")
    if report.forgetting is not None:
        parts.append(
            f"forgetting: {report.forgetting.after:.3f} nats per token from the base on general prompts "
            f"(the parents: up to {report.forgetting.before:.3f})"
        )
    if report.below_retention:
        parts.append(f"below the requested retention: {', '.join(report.below_retention)}")
    parts.extend(f"advice: {line}" for line in report.advice)
    return group(parts)


def _draw_rows(rows: Sequence[RowDivision]) -> RenderableType:
    cells = [(r.parent, r.selection, r.report, "other rows" if r.is_divided else "the same rows") for r in rows]
    title = "Validation rows: a search chooses on the first number, and retention is reported on the second"
    return draw_table(("parent", "search", "report", "reported on"), cells, title=title)


def _draw_candidates(candidates: Sequence[Candidate]) -> RenderableType:
    best_first = sorted(candidates, key=lambda c: -1e9 if c.worst is None else c.worst, reverse=True)
    rows = [
        (
            c.strategy if c.resolver == "keep" else f"{c.resolver}, {c.strategy}",
            _format_parameters(c.parameters) or "-",
            f"{c.scale:.3g}",
            " ".join(f"{weight:.3g}" for weight in c.weights),
            format_number(c.worst),
            format_number(c.mean),
        )
        for c in best_first
    ]
    title = "Candidates, with the worst and mean retention on the rows of the search"
    return draw_table(("strategy", "parameters", "scale", "weights", "worst", "mean"), rows, title=title)


def _format_parameters(parameters: Mapping[str, object]) -> str:
    return "".join(f"{name}={value} " for name, value in parameters.items() if value is not None)
