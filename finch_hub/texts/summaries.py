"""Summaries of objects: one line or a short table where Python writes an object, HTML in a notebook.

Texts of strangers are in most objects, so everything is shown as :mod:`finch_hub.texts.visible_text` has it.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Set
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from finch_hub.texts.visible_text import to_line

WIDTH = 100
"""Most characters of a line."""
MAX_ROWS = 18
"""Most fields of a table. The number of the others follows."""
NOT_MATH = 'class="tex2jax_ignore mathjax_ignore"'
"""Attribute of HTML in which a notebook does not typeset what is between dollar signs."""
_MAX_TEXT, _HTML_WIDTH, _MAX_DEPTH = 60, 240, 4


_draw: Callable[[object], str | None] | None = None


def use_drawings(draw: Callable[[object], str | None]) -> None:
    """Show values in notebooks as this draws them as HTML. The package sets it, since what draws lies above them."""
    global _draw
    _draw = draw


class Summarized:
    """Object that is written as its name with a few fields."""

    def _list_fields(self) -> Mapping[str, object]:
        """Return the fields that a reader wants to see, the most important ones first."""
        raise NotImplementedError

    def _draw_html(self) -> str:
        """Return HTML that a notebook shows below the fields."""
        return ""

    def __repr__(self) -> str:
        return write_summary(type(self).__name__, self._list_fields())

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Return the object as a notebook shows it."""
        if _draw is not None and (drawn := _draw(self)) is not None:
            return drawn
        return write_html(type(self).__name__, self._list_fields()) + self._draw_html()


def write_summary(name: str, fields: Mapping[str, object]) -> str:
    """Return `Name(field=value, …)` if that fits into a line, otherwise a table with a line for each field."""
    line = _write_call(name, fields, WIDTH * 10, depth=0)
    if len(line) <= WIDTH and "…" not in line:
        return line
    shown = list(fields.items())[:MAX_ROWS]
    column = max((len(field) for field, _ in shown), default=0)
    rows = [f"  {field:{column}}  {write_value(value, WIDTH - column - 4)}" for field, value in shown]
    return "\n".join([name, *rows, *_count_rest(len(fields), "  … and {} more")])


def write_html(name: str, fields: Mapping[str, object]) -> str:
    """Return a table with a row for each field, in which no text is HTML."""
    style = ' style="text-align: left; vertical-align: top"'
    rows = [
        f"<tr><th{style}>{html.escape(to_line(field))}</th>"
        f"<td{style}>{html.escape(write_value(value, _HTML_WIDTH))}</td></tr>"
        for field, value in list(fields.items())[:MAX_ROWS]
    ]
    rest = _count_rest(len(fields), '<tr><td colspan="2">… and {} more</td></tr>')
    return (
        f'<table {NOT_MATH} style="margin-left: 0"><caption{style}>{html.escape(name)}</caption>'
        f"{''.join([*rows, *rest])}</table>"
    )


def write_value(value: object, width: int) -> str:
    """Return a value on one line of at most `width` characters. What does not fit is counted, or cut off with `…`."""
    return _cut(_write(value, width, depth=1), width)


def _write(value: object, width: int, depth: int) -> str:
    if isinstance(value, str):
        text = str(value.value) if isinstance(value, Enum) else value
        limit = _MAX_TEXT if " " in text or "/" in text else min(_MAX_TEXT, 40)
        return to_line(repr(text)) if len(text) <= limit else to_line(f"{text[: limit if ' ' in text else 12]!r}…")
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, Path):
        return to_line(value)
    if isinstance(value, Summarized):
        return _write_call(type(value).__name__, value._list_fields(), width, depth)
    if isinstance(value, Mapping):
        items: Iterable[tuple[str, object]] = ((f"{_write(key, width, depth)}: ", item) for key, item in value.items())
        return _write_items("{", items, "}", len(value), width, depth)
    if isinstance(value, (list, tuple, Set)):
        opening, closing = "[]" if isinstance(value, list) else "()" if isinstance(value, tuple) else "{}"
        closing = f",{closing}" if isinstance(value, tuple) and len(value) == 1 else closing
        return _write_items(opening, (("", item) for item in value), closing, len(value), width, depth)
    return to_line(repr(value))


def _write_call(name: str, fields: Mapping[str, object], width: int, depth: int) -> str:
    items = ((f"{field}=", value) for field, value in fields.items())
    return _write_items(f"{name}(", items, ")", len(fields), width, depth)


def _write_items(
    opening: str, items: Iterable[tuple[str, object]], closing: str, count: int, width: int, depth: int
) -> str:
    """Return the items that fit, and the number of the others."""
    if count and depth > _MAX_DEPTH:
        return f"{opening}…{closing}"
    written: list[str] = []
    left = width - len(opening) - len(closing)
    for prefix, value in items:
        item = prefix + _write(value, max(left - len(prefix), 0), depth + 1)
        left -= len(item) + 2
        if left < 0 and written:
            rest = f"… {count - len(written)} more"
            while written and sum(len(part) + 2 for part in written) + len(rest) > width - len(opening + closing):
                written.pop()
                rest = f"… {count - len(written)} more"
            return f"{opening}{', '.join([*written, rest])}{closing}"
        written.append(item)
    return f"{opening}{', '.join(written)}{closing}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(width - 1, 0)]}…"


def _count_rest(count: int, text: str) -> list[str]:
    return [text.format(count - MAX_ROWS)] if count > MAX_ROWS else []


def list_attributes(names: Iterable[str], meant: Set[Any]) -> list[str]:
    """Return the names that completion offers: the meant ones, and those with an underscore."""
    return [name for name in names if name.startswith("_") or name in meant]
