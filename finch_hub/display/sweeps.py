"""Drawings of sweeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from finch_hub.display.progress import View
from finch_hub.display.tables import draw_table, format_duration, format_number, format_value, group
from finch_hub.texts.visible_text import to_message

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from finch_hub.specs.events import NewEvent
    from finch_hub.specs.sweeps import SweepPoint, SweepReport


_FIGURES = ("step", "steps", "unit", "seconds_left")


class PointsView(View):
    """View of the trainings of a sweep, one after another, on the bar of another view.

    Their steps move the bar, and their warnings are written once. Their losses are left out, since the curve below a
    bar is that of one training.
    """

    def __init__(self, view: View) -> None:
        self._view, self.is_silent = view, view.is_silent
        self._written: list[RenderableType] = []

    def begin(self, title: str) -> None:
        """Show the training of the next point."""
        from finch_hub.specs.events import NewEvent  # late, so that `--help` loads no pydantic

        self._view.show(NewEvent.phase(title))

    def show(self, event: NewEvent) -> None:
        """Move the bar, or write a warning."""
        from finch_hub.specs.events import NewEvent

        if event.type == "progress":
            data = {name: event.data[name] for name in _FIGURES if name in event.data}
            self._view.show(NewEvent(type="progress", data=data))
        elif event.level == "warn":
            self.write(f"  warning: {event.message}")

    def show_wait(self, text: str) -> None:
        """Show why the training has not started."""
        self._view.show_wait(text)

    def write(self, line: RenderableType) -> None:
        """Write a line that was not written before. Further lines of a text are indented more than our lines."""
        if line not in self._written:
            self._written.append(line)
            self._view.write(to_message(line, indent="    ") if isinstance(line, str) else line)


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
        f"{describe_settings(point.settings)}: {point.state.value}, {point.reason}"
        for point in report.points
        if point.reason
    ]
    return group([draw_table(columns, rows, title=f"Sweep {report.id} of {report.adapter}"), *failed, *report.advice])


def describe_settings(settings: Mapping[str, object]) -> str:
    """Describe the settings that a point tries, such as `rank=8 learning_rate=0.0003`."""
    return " ".join(f"{name}={format_value(value)}" for name, value in settings.items())


def _describe(point: SweepPoint, report: SweepReport) -> str | None:
    if point.number == report.best:
        return "best"
    if point.difference is None or point.low is None or point.high is None:
        return None
    return f"{point.difference:+.3f} ({point.low:+.3f} to {point.high:+.3f})"
