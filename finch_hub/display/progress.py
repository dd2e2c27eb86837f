"""A job's events as they arrive, on standard error: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from finch_hub import errors
from finch_hub.display import reports, tables
from finch_hub.progress import Advance, is_terminal, listen
from finch_hub.texts.visible_text import to_line, to_message

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress, TaskID

    from finch_hub.specs.events import NewEvent

PLAIN_SECONDS = 5.0
WAIT_SECONDS, LONGEST_WAIT_SECONDS = 30.0, 600.0  # between lines about a job that has not started
_bar_lock = threading.Lock()  # held while there is a bar: of two, rich takes away the newer one when either ends


def open_view(*, quiet: bool = False) -> View:
    """Return the view that fits standard error, or one that shows nothing."""
    if quiet:
        return View()
    return LiveView() if is_terminal() else PlainView()


class View:
    """Display of events, open while it is entered. This one shows nothing.

    Attributes:
        is_silent: whether events need not be read for it.
    """

    is_silent = True

    def __enter__(self) -> View:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def show(self, event: NewEvent) -> None:
        """Show one event."""

    def show_wait(self, text: str) -> None:
        """Show why the job has not started. It is called every few seconds."""

    def write(self, line: RenderableType) -> None:
        """Show another text."""


class PlainView(View):
    """View with one line per event. Progress gets a line every few seconds, and one for the last step."""

    is_silent = False

    def __init__(self) -> None:
        self._shown_at = self._waited_at = float("-inf")
        self._wait_seconds, self._wait = WAIT_SECONDS, ""

    def show(self, event: NewEvent) -> None:
        """Write the event, unless it is progress soon after the last line."""
        if event.type == "progress":
            is_last = event.data.get("step") == event.data.get("steps")
            if not is_last and time.monotonic() - self._shown_at < PLAIN_SECONDS:
                return
            self._shown_at = time.monotonic()
        if line := draw_event(event):
            self.write(line)

    def show_wait(self, text: str) -> None:
        """Write the text, unless it was written lately. An equal text is written after pauses that grow."""
        passed = time.monotonic() - self._waited_at
        if passed < WAIT_SECONDS or (text == self._wait and passed < self._wait_seconds):
            return
        self._wait_seconds = min(2 * self._wait_seconds, LONGEST_WAIT_SECONDS) if text == self._wait else WAIT_SECONDS
        self._wait, self._waited_at = text, time.monotonic()
        self.write(f"- not started yet: {to_line(text)}")

    def write(self, line: RenderableType) -> None:
        """Write the line at once, so that readers of a pipe see it. A wrapped text could seem to be another line."""
        tables.console(stderr=True).print(line, soft_wrap=isinstance(line, str))


class LiveView(View):
    """View with a progress bar, the messages above it, and the loss curve below it.

    A terminal has one bar. While another view has it, entering this one returns a view with lines.
    """

    is_silent = False

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
        from rich.text import Text

        self._events: list[tuple[str, Mapping[str, Any]]] = []  # that tell losses
        self._drawn: tuple[int, list[str]] = (0, [])  # number of these, and the lines of their curve
        format_losses = self._format_losses

        class CurveProgress(Progress):
            def get_renderables(self) -> Iterable[RenderableType]:
                yield from super().get_renderables()
                yield from (Text(line, overflow="ellipsis", no_wrap=True) for line in format_losses())

        self._bar: Progress = CurveProgress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=tables.console(stderr=True),
            transient=True,
        )
        self._has_bar = False
        self._phase = "queued"
        self._task: TaskID = self._bar.add_task(self._phase, total=None, figures="")

    def __enter__(self) -> View:
        self._has_bar = _bar_lock.acquire(blocking=False)
        if not self._has_bar:
            return PlainView()
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._has_bar:
            self._bar.stop()
            _bar_lock.release()

    def show(self, event: NewEvent) -> None:
        """Move the bar, or write the event above it."""
        if event.type in ("progress", "metrics"):
            self._events.append((event.type, event.data))
        if event.type == "phase":
            self._phase = str(event.data.get("name", event.message))
            self._bar.reset(self._task, total=None, figures="")
            self._describe(self._phase)
        elif event.type == "progress":
            step, steps = read_number(event.data, "step"), read_number(event.data, "steps")
            unit = event.data.get("unit")  # of work beside the steps of a training
            description = self._phase if unit is None else f"{self._phase}: {unit}"
            figures = format_progress(event.data)
            self._bar.update(self._task, completed=step, total=steps, figures=figures)
            self._describe(description)
        else:
            if event.type == "state":
                self._describe(str(event.data.get("state", self._phase)))
            if line := draw_event(event):
                self.write(line)

    def show_wait(self, text: str) -> None:
        """Show the text in place of the bar's title, until an event comes."""
        self._describe(f"not started yet: {text}")

    def write(self, line: RenderableType) -> None:
        """Write the line above the bar."""
        self._bar.console.print(line)

    def _format_losses(self) -> list[str]:
        """Return a line of bars for the losses of the training, and one for those on held-out data."""
        from finch_hub.display.evidence import format_curve
        from finch_hub.specs.evidence import curve_of_events

        count, lines = self._drawn
        if count != len(self._events):  # another thread draws while events come
            told = tuple(self._events)
            lines = format_curve(curve_of_events(told), least=2)
            self._drawn = len(told), lines
        return lines

    def _describe(self, title: str) -> None:
        self._bar.update(self._task, description=to_line(title))


class RowCounter:
    """Display of the number of rows that were read. Short reads show nothing."""

    def __init__(self) -> None:
        self._shown_at = time.monotonic()

    def __call__(self, rows: int) -> None:
        """Write the number of rows, unless a line was written a moment ago."""
        if time.monotonic() - self._shown_at >= PLAIN_SECONDS:
            self._shown_at = time.monotonic()
            tables.console(stderr=True).print(f"- read {rows:,} rows")


@contextlib.contextmanager
def show_advances(*, quiet: bool = False) -> Iterator[None]:
    """Write how far the work is that this thread does in the `with` block, unless it is to be quiet."""
    with contextlib.nullcontext() if quiet else listen(show_advance):
        yield


def show_advance(advance: Advance) -> None:
    """Write how far some work is."""
    from finch_hub.specs.events import NewEvent

    tables.console(stderr=True).print(draw_event(NewEvent.advance(advance)))


def draw_event(event: NewEvent) -> RenderableType:
    """Draw an event, mostly as one line. An event that tells people nothing is drawn empty."""
    try:
        drawn = _draw(event)
    except (errors.InvalidSpec, LookupError, TypeError, ValueError, AttributeError):
        drawn = f"  {event.type} of another version of Finch Hub: {event.message or event.data}"
    return to_message(drawn, indent="    ") if isinstance(drawn, str) else drawn


def _draw(event: NewEvent) -> RenderableType:
    data = event.data
    if event.type == "progress":
        step, steps = data.get("step"), data.get("steps")
        return f"  {data.get('unit', 'step')} {step}{f'/{steps}' if steps else ''}  {format_progress(data)}".rstrip()
    if event.type == "metrics" and not event.message:
        metrics = {name: value for name, value in data.items() if not isinstance(value, (list, tuple, dict))}
        return "  " + "  ".join(f"{name} {tables.format_value(value)}" for name, value in metrics.items())
    if event.type == "phase":
        return f"- {data.get('name', event.message)}"
    if event.type == "state":
        details = event.message or (f"on {data['worker']}" if data.get("worker") else "")
        if data.get("state") == "queued" and data.get("reason"):  # the reason of a failure follows as the error
            details = f"again: {data['reason']}"
        return f"- {data.get('state', '')} {details}".rstrip()
    if event.type == "report":
        return reports.draw_interim(data)
    prefix = {"warn": "warning: ", "error": "error: "}.get(event.level, "")
    return f"  {prefix}{event.message}"


def format_progress(data: Mapping[str, Any]) -> str:
    """Format the measurements of a progress event: epoch, loss, speed and remaining time."""
    parts = []
    if (epoch := read_number(data, "epoch")) is not None:
        parts.append(f"epoch {epoch:.2f}")
    if (loss := read_number(data, "loss")) is not None:
        parts.append(f"training loss {loss:.3f}")
    if rate := read_number(data, "tokens_per_second"):
        parts.append(f"{rate:,.0f} tokens/s")
    if (left := read_number(data, "seconds_left")) is not None:
        parts.append(f"{tables.format_duration(left)} left")
    return "  ".join(parts)


def read_number(data: Mapping[str, Any], name: str) -> float | None:
    """Return a measurement, None for one that is missing, or that another version reports in another form."""
    value = data.get(name)
    return value if isinstance(value, (int, float)) else None
