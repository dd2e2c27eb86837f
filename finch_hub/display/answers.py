"""Answers to the same prompts side by side, in a terminal or as one page of HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finch_hub.display.tables import Lines, draw_table
from finch_hub.texts.visible_text import to_block

if TYPE_CHECKING:
    from finch_hub.display.fitted_table import FittedTable

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


def draw_answers(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> FittedTable:
    """Draw a row for each prompt, with a column for each that answers."""
    columns = _list_columns(names, rows)
    cells = [[Lines.of(text.strip("\n")) for text in _list_cells(names, row)[: len(columns)]] for row in rows]
    return draw_table(columns, cells)


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
