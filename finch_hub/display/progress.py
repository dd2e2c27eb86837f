"""A job's events as they come: a live bar on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from finch_hub.display import reports, tables

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress, TaskID

    from finch_hub.specs.events import Event


PLAIN_SECONDS = 5.0


class View(Protocol):
    """Something that shows events while it is entered."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, event: Event) -> None:
        """Show one event."""

    def write(self, line: RenderableType) -> None:
        """Show something else."""


def view(*, quiet: bool = False) -> View:
    """Return what fits standard error: a live bar on a terminal, plain lines elsewhere, nothing where asked."""
    if quiet:
        return Silent()
    return LiveBar() if sys.stderr.isatty() else PlainLines()


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, event: Event) -> None:
        """Drop the event."""

    def write(self, line: RenderableType) -> None:
        """Drop the line."""


class PlainLines(Silent):
    """One line an event; of progress one every few seconds, and its last."""

    def __init__(self) -> None:
        self._shown = float("-inf")

    def show(self, event: Event) -> None:
        """Write what there is to say of the event."""
        if event.type == "progress":
            last = event.data.get("step") == event.data.get("steps")
            if not last and time.monotonic() - self._shown < PLAIN_SECONDS:
                return
            self._shown = time.monotonic()
        if line := describe(event):
            self.write(line)

    def write(self, line: RenderableType) -> None:
        """Write the line at once, so that whoever reads a pipe follows."""
        tables.console(stderr=True).print(line)


class LiveBar(Silent):
    """A bar that progress moves; messages scroll above it."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

        self._bar: Progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            console=tables.console(stderr=True),
            transient=True,
        )
        self._task: TaskID = self._bar.add_task("queued", total=None, figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, event: Event) -> None:
        """Move the bar, or print what there is to say of the event above it."""
        if event.type == "phase":
            self._bar.reset(self._task, description=str(event.data.get("name", event.message)), total=None, figures="")
        elif event.type == "progress":
            done, total = event.data.get("step"), event.data.get("steps")
            self._bar.update(self._task, completed=done, total=total, figures=figures(event.data))
        elif line := describe(event):
            self.write(line)

    def write(self, line: RenderableType) -> None:
        """Print above the bar."""
        self._bar.console.print(line)


def describe(event: Event) -> RenderableType:
    """Draw an event, mostly as one line; empty where it says nothing to people."""
    data = event.data
    if event.type == "progress":
        done, total = data.get("step"), data.get("steps")
        return f"  step {done}{f'/{total}' if total else ''}  {figures(data)}".rstrip()
    if event.type == "metrics" and not event.message:
        shown = "  ".join(f"{name} {tables.cell(value)}" for name, value in data.items() if not _is_bulk(value))
        return f"  {shown}"
    if event.type == "phase":
        return f"- {data.get('name', event.message)}"
    if event.type == "state":
        told = event.message or (f"on {data['worker']}" if data.get("worker") else "")
        return f"- {data.get('state', '')} {told}".rstrip()
    if event.type == "report":
        return reports.interim(data)
    prefix = {"warn": "warning: ", "error": "error: "}.get(event.level, "")
    return f"  {prefix}{event.message}"


def figures(data: dict[str, Any]) -> str:
    """Write what a progress event measured: epoch, loss, speed and the time left."""
    parts = []
    if data.get("epoch") is not None:
        parts.append(f"epoch {data['epoch']:.2f}")
    if data.get("loss") is not None:
        parts.append(f"loss {data['loss']:.3f}")
    if data.get("tokens_per_second"):
        parts.append(f"{data['tokens_per_second']:,.0f} tokens/s")
    if data.get("seconds_left") is not None:
        parts.append(f"{duration(data['seconds_left'])} left")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Write a time span as people read clocks: 42 s, 3:07 min, 1:02:03 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"


def _is_bulk(value: Any) -> bool:
    return isinstance(value, (list, tuple, dict))
