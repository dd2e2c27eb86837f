"""Progress in a Python session: a bar on a terminal or in a notebook.

Of a notebook it needs IPython only, which every notebook has.
"""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from finch_hub.display.progress import View, draw_event, format_progress, open_view, read_number
from finch_hub.progress import is_notebook, is_terminal
from finch_hub.texts.summaries import NOT_MATH
from finch_hub.texts.visible_text import to_line

if TYPE_CHECKING:
    from rich.console import RenderableType

    from finch_hub.specs.events import NewEvent

NOTEBOOK_SECONDS, NOTEBOOK_LINES = 1.0, 12
_WIDTH = 480


def open_client_view(shows: bool | None) -> View:
    """Return the view that fits a Python session: a bar on a terminal or in a notebook.

    Args:
        shows: whether elsewhere there are lines; None shows nothing elsewhere, and False nothing anywhere.
    """
    if shows is False:
        return View()
    if is_notebook():
        return NotebookView()
    return open_view(quiet=shows is None and not is_terminal())


class NotebookView(View):
    """View of a notebook: a bar, the loss curve so far and the last messages, which stay in the saved notebook."""

    is_silent = False

    def __init__(self) -> None:
        self._phase, self._wait, self._progress = "queued", "", dict[str, Any]()
        self._lines: list[str] = []
        self._events: list[tuple[str, Mapping[str, Any]]] = []
        self._drawn_at = float("-inf")
        self._output = Output()

    def __enter__(self) -> Self:
        self._draw()
        return self

    def __exit__(self, *error: object) -> None:
        self._draw(is_over=True)

    def show(self, event: NewEvent) -> None:
        """Take the event over, and draw it within a second."""
        self._wait = ""
        if event.type in ("progress", "metrics"):
            self._events.append((event.type, event.data))
        if event.type == "phase":
            self._phase, self._progress = str(event.data.get("name", event.message)), {}
        elif event.type == "progress":
            self._progress = dict(event.data)
        else:
            if event.type == "state":
                self._phase, self._progress = str(event.data.get("state", self._phase)), {}
            if line := draw_event(event):
                self._add(line)
        if time.monotonic() - self._drawn_at >= NOTEBOOK_SECONDS:
            self._draw()

    def show_wait(self, text: str) -> None:
        """Show the text until an event comes."""
        self._wait = f"not started yet: {text}"
        self._draw()

    def write(self, line: RenderableType) -> None:
        """Write the line below the bar."""
        self._add(line)
        self._draw()

    def _add(self, line: RenderableType) -> None:
        from finch_hub.display.notebook_drawings import write_plainly

        self._lines = [*self._lines, *write_plainly(line)][-NOTEBOOK_LINES:]

    def _draw(self, *, is_over: bool = False) -> None:
        """Draw the output anew. In the end nothing moves any more, so that there is no bar."""
        from finch_hub.display.notebook_drawings import draw_curve
        from finch_hub.specs.evidence import curve_of_events

        self._drawn_at = time.monotonic()
        step, steps = read_number(self._progress, "step"), read_number(self._progress, "steps")
        counted = f"{step:,.0f}/{steps:,.0f}" if step is not None and steps else ""
        title = self._wait or "  ".join(filter(None, (self._phase, counted, format_progress(self._progress))))
        bar = "" if is_over else draw_bar(title, step / steps if step is not None and steps else None)
        self._output.show(bar + draw_curve(curve_of_events(self._events)) + draw_lines(self._lines))


class Output:
    """Place in the output of a cell, whose HTML is replaced."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, drawn: str) -> None:
        """Show HTML in place of that before."""
        from IPython.display import HTML, display

        if self._handle is None:
            self._handle = display(HTML(drawn), display_id=True)
        else:
            self._handle.update(HTML(drawn))


def draw_bar(title: str, share: float | None) -> str:
    """Draw a bar under its title, an empty one if the share that is done is unknown."""
    done = round(_WIDTH * min(max(share or 0.0, 0.0), 1.0))
    return (
        f"<div {NOT_MATH}>{html.escape(to_line(title))}</div>"
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="10" role="img">'
        f'<rect width="{_WIDTH}" height="10" rx="3" fill="#d0d7de"/>'
        f'<rect width="{done}" height="10" rx="3" fill="#8250df"/></svg>'
    )


def draw_lines(lines: Sequence[str]) -> str:
    """Draw texts below each other, in which nothing is HTML."""
    return f'<pre style="white-space: pre-wrap">{html.escape(chr(10).join(map(to_line, lines)))}</pre>' if lines else ""
