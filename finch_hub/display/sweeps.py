"""Drawings of sweeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finch_hub.display.tables import draw_table, format_duration, format_number, format_value, group

if TYPE_CHECKING:
    from rich.console import Group

    from finch_hub.specs.sweeps import SweepPoint, SweepReport


def draw_sweep(report: SweepReport) -> Group:
    """Draw the points, the best first, and what the differences mean."""
    names = list(report.points[0].settings)
    columns = (*names, "result", "loss", "behind the best", "parameters", "time")
    rows = []
    for point in report.points:
        settings = [format_value(point.settings[name]) for name in names]
        seconds = None if point.seconds is None else format_duration(point.seconds)
        parameters = None if point.parameters is None else f"{point.parameters:,}"
        result = point.adapter or point.state.value
        rows.append((*settings, result, format_number(point.loss), _describe(point, report), parameters, seconds))
    failed = [
        f"{describe_point(point)}: {point.state.value}, {point.reason}" for point in report.points if point.reason
    ]
    return group([draw_table(columns, rows, title=f"Sweep {report.id} of {report.adapter}"), *failed, *report.advice])


def describe_point(point: SweepPoint) -> str:
    """Describe a point by its settings, such as `rank=8 learning_rate=0.0003`."""
    return " ".join(f"{name}={format_value(value)}" for name, value in point.settings.items())


def _describe(point: SweepPoint, report: SweepReport) -> str | None:
    if point.number == report.best:
        return "best"
    if point.difference is None or point.low is None or point.high is None:
        return None
    return f"{point.difference:+.3f} ({point.low:+.3f} to {point.high:+.3f})"
