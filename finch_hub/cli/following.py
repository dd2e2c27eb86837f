"""A job's events as they come: a live bar on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import click

from finch_hub.cli import output, reports

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress, TaskID

    from finch_hub.hub import JobHandle
    from finch_hub.specs.jobs import Event

Command = TypeVar("Command", bound=Callable[..., Any])

PLAIN_SECONDS = 5.0
NOBODY = "no worker is alive: start one with `finch-hub worker start`"


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


def job_options(command: Command) -> Command:
    """Add what every command that submits a job has: `--detach`, `--quiet` and `--json`."""
    command = output.json_option(command)
    command = click.option("--quiet", is_flag=True, help="Show no progress.")(command)
    return click.option("--detach", is_flag=True, help="Submit only; print the job's id.")(command)


def conclude(handle: JobHandle, *, detach: bool, quiet: bool, as_json: bool) -> None:
    """Follow a submitted job to its end and print what it made; with `detach` print its id alone.

    Raises:
        JobFailed: the job failed.
        JobCancelled: somebody cancelled it.

    """
    if detach:
        job = handle.refresh()
        for warning in _obstacles(handle):
            click.echo(warning, err=True)
        output.emit(job, as_json, lambda: job.id)
        click.echo(f"{job.state}; follow it: {_watch(handle)}", err=True)
        return
    watch(handle, quiet=quiet)
    result, report = handle.result(), handle.report()
    value = {"job": handle.refresh(), "result": result, "report": report}
    output.emit(value, as_json, lambda: reports.outcome(result, report))


def watch(handle: JobHandle, *, quiet: bool = False, after: int = 0) -> None:
    """Show a job's events until it has ended; an interruption leaves the job running and says how to cancel it."""
    try:
        with view(quiet=quiet) as shown:
            for warning in _obstacles(handle):
                shown.write(warning)
            for event in handle.events(after=after, follow=True):
                shown.show(event)
    except KeyboardInterrupt:
        click.echo(
            f"\n{handle.id} goes on without you. Follow it: {_watch(handle)}   "
            f"Cancel it: finch-hub jobs cancel {handle.id}",
            err=True,
        )
        raise


def view(*, quiet: bool = False) -> View:
    """Return what fits standard error: a live bar on a terminal, plain lines elsewhere, nothing where asked."""
    if quiet:
        return Silent()
    return LiveBar() if sys.stderr.isatty() else PlainLines()


def _obstacles(handle: JobHandle) -> list[str]:
    if handle.is_unattended():
        return [f"warning: {NOBODY}"]
    return [
        f"warning: worker {worker} cannot run this job: it {', '.join(reasons)}"
        for worker, reasons in handle.obstacles().items()
    ]


def _watch(handle: JobHandle) -> str:
    return f"finch-hub jobs watch {handle.id}"


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
        output.console(stderr=True).print(line)


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
            console=output.console(stderr=True),
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
        shown = "  ".join(f"{name} {output.cell(value)}" for name, value in data.items() if not _is_bulk(value))
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
