"""Tables and single values as people read them in a terminal."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from finch_hub.plugins import command_output
from finch_hub.texts.counts import format_count as format_count
from finch_hub.texts.visible_text import to_line

if TYPE_CHECKING:
    from rich.console import Console, Group, RenderableType
    from rich.table import Table

    from finch_hub.display.fitted_table import FittedTable


class Lines(tuple[str, ...]):
    """Texts that a table shows below each other, each as one line."""

    __slots__ = ()

    @classmethod
    def of(cls, text: str | None) -> Self | None:
        """Return the lines of a text."""
        return None if text is None else cls(str(text).split("\n"))


def to_json(value: Any) -> Any:
    """Convert a value to what JSON can hold, with times in ISO 8601."""
    import pydantic_core  # late, so that `--help` does not import it

    return pydantic_core.to_jsonable_python(value)


@functools.cache
def console(*, stderr: bool = False) -> Console:
    """Return the terminal. A pipe gets no colors, and the width that COLUMNS says, or a wide one."""
    from finch_hub.display.visible_console import VisibleConsole

    stream = sys.stderr if stderr else command_output.stream()
    return VisibleConsole(stderr=stderr, width=None if stream.isatty() or os.environ.get("COLUMNS") else 160)


def draw_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> FittedTable:
    """Draw rows under their column names, with numbers aligned to the right. On a narrow terminal, rows have lines."""
    from finch_hub.display.fitted_table import FittedTable

    cells = [[format_value(value) for value in row] for row in rows]
    return FittedTable([to_line(column) for column in columns], cells, title=title and to_line(title))


def draw_fields(fields: Mapping[str, Any]) -> Table:
    """Draw names and values, one pair a line, without those that are None."""
    from rich.table import Table

    drawn = Table.grid(padding=(0, 2))
    for name, value in fields.items():
        if value is not None:
            drawn.add_row(to_line(name), format_value(value))
    return drawn


def group(parts: Sequence[RenderableType]) -> Group:
    """Put drawn parts below each other. A text is one line."""
    from rich.console import Group

    return Group(*(to_line(part) if isinstance(part, str) else part for part in parts))


def format_value(value: Any) -> str:
    """Format one value for people, on one line unless it is `Lines`."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, Lines):
        return "\n".join(map(to_line, value))
    if isinstance(value, dict):
        pairs = (f"{to_line(name)} {format_value(part)}" for name, part in value.items() if part is not None)
        return ", ".join(pairs) or "-"
    if isinstance(value, (list, tuple, set, frozenset)):
        return to_line(", ".join(str(item) for item in value)) or "-"
    return to_line(value)


def format_number(value: float | None, places: int = 3) -> str:
    """Format a number with fixed decimal places, None as "-"."""
    return "-" if value is None else f"{value:.{places}f}"


def format_bytes(count: int) -> str:
    """Format a number of bytes in the unit that fits."""
    if count < 1000:
        return f"{count} B"
    size, unit = (1000, "kB") if count < 10**6 else (10**6, "MB") if count < 10**9 else (10**9, "GB")
    return f"{count / size:.1f} {unit}"


def format_free(free: int, total: int) -> str:
    """Format the free part of a memory: 3.2 GB of 8.6 GB free."""
    return f"{format_bytes(free)} of {format_bytes(total)} free"


def format_duration(seconds: float) -> str:
    """Format a duration as clocks show it: 42 s, 3:07 min, 1:02:03 h."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"
