"""Answers to the same prompts side by side, in a terminal or as one page of HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finch_hub.display.tables import Lines, draw_table
from finch_hub.texts.visible_text import to_block, to_line

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_INDENT = "  "
_TAB = 4
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>Answers</title>
<style>
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 2rem; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; }
th, td { border: 1px solid #8888; padding: .5rem .75rem; text-align: left; vertical-align: top;
  white-space: pre-wrap; overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>Answers</h1>
<table>
"""
_END = "</table>\n</body>\n</html>\n"


class DrawnAnswers:
    """Drawing of a row for each prompt, with a column for each that answers.

    If the columns have too little room, each text is a block below its name. Its lines are indented, so that none looks
    like the name of another.
    """

    def __init__(self, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        self._columns = _list_columns(names, rows)
        listed = (_list_cells(names, row)[: len(self._columns)] for row in rows)
        self._cells = [[text.strip("\n").expandtabs(_TAB) for text in cells] for cells in listed]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = draw_table(self._columns, [[Lines.of(text) for text in cells] for cells in self._cells])
        if not table.is_narrow(options.max_width):
            yield table
            return
        for cells in self._cells:
            for name, text in zip(self._columns, cells, strict=True):
                yield from _draw_block(name, text, console, options.max_width)
            yield ""


def _draw_block(name: str, text: str, console: Console, width: int) -> RenderResult:
    from rich.text import Text

    yield Text(to_line(name), style="bold", overflow="fold")
    for line in Text(to_block(text)).wrap(console, max(width - len(_INDENT), 1), overflow="fold"):
        yield Text.assemble(_INDENT, line, overflow="fold")


def write_html(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one page with the answers. Their text is shown as it is: the page has no script, link or picture."""
    columns = _list_columns(names, rows)
    head = "".join(f"<th>{_escape(name)}</th>" for name in columns)
    lines = [
        f"<tr>{''.join(f'<td>{_escape(text)}</td>' for text in _list_cells(names, row)[: len(columns)])}</tr>\n"
        for row in rows
    ]
    return f"{_HEAD}<tr>{head}</tr>\n{''.join(lines)}{_END}"


def _list_columns(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return ["prompt", *names, *(["expected"] if any("completion" in row for row in rows) else [])]


def _list_cells(names: Sequence[str], row: Mapping[str, Any]) -> list[str]:
    return [row["prompt"], *(row["answers"][name] for name in names), row.get("completion", "")]


def _escape(text: str) -> str:
    return html.escape(to_block(text))
