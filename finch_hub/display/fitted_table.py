"""Rows as a table where it is wide enough, otherwise below each other, so that no word is split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

_INDENT = 2  # of the lines below the first cell
_GAP = 3  # between the columns of a table
_EDGES = 2  # beside its columns
_MOST_LINES = 2  # of a row of a table
_SEPARATOR = " · "


class FittedTable:
    """Drawing of rows that looks at the width of the terminal.

    Args:
        columns: names of the columns.
        rows: texts of the cells, which are visible; a text may have several lines.
        title: line above the rows.
    """

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
        self._columns, self._rows, self._title = columns, rows, title

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.is_narrow(options.max_width):
            yield from self._draw_below_each_other(options.max_width)
        else:
            yield self._draw_table()

    def is_narrow(self, width: int) -> bool:
        """Tell whether a table would split a word, or make a row of many lines."""
        cells = [[name, *(row[place] for row in self._rows)] for place, name in enumerate(self._columns)]
        room = width - _GAP * (len(self._columns) - 1) - _EDGES
        longest = [max(_measure(line) for cell in column for line in cell.split("\n")) for column in cells]
        if sum(longest) <= room:
            return False
        words = [max(_measure(word) for cell in column for word in cell.split() or [""]) for column in cells]
        if sum(words) > room:
            return True
        # What is left beside the longest words goes to the columns that lack most, as in rich.
        spare, lacking = room - sum(words), sum(longest) - sum(words)
        widths = [least + (most - least) * spare // lacking for least, most in zip(words, longest, strict=True)]
        heights = (
            max(
                sum(1 for line in cell.split("\n") for _ in _wrap(line.split(), max(width, 1), " "))
                for cell, width in zip(row, widths, strict=True)
            )
            for row in self._rows
        )
        return any(height > _MOST_LINES for height in heights)

    def _draw_table(self) -> Table:
        from rich import box
        from rich.table import Table

        drawn = Table(title=self._title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for index, column in enumerate(self._columns):
            is_numeric = bool(self._rows) and all(_is_number(row[index]) for row in self._rows)
            drawn.add_column(column, justify="right" if is_numeric else "left", overflow="fold")
        for row in self._rows:
            drawn.add_row(*row)
        return drawn

    def _draw_below_each_other(self, width: int) -> RenderResult:
        """Yield each row: its first cell, and the other cells that are not empty with their names."""
        from rich.text import Text

        if self._title is not None:
            yield Text("\n".join(_wrap(self._title.split(), width, " ")), style="italic")
        for first, *others in self._rows:
            yield Text("\n".join(_wrap(first.split(), width, " ")) or "-", style="bold", overflow="fold")
            fields = [
                f"{name} {line}".strip()
                for name, cell in zip(self._columns[1:], others, strict=True)
                for line in cell.split("\n")
                if line not in ("", "-")
            ]
            room = width - _INDENT
            for line in _wrap(fields, room, _SEPARATOR):
                for part in _wrap(line.split(), room, " "):
                    yield Text(" " * _INDENT + part, overflow="fold")


def _wrap(pieces: Sequence[str], width: int, separator: str) -> Iterator[str]:
    """Yield lines of pieces. A piece that is wider than a line has a line of its own."""
    line = ""
    for piece in pieces:
        longer = line + separator + piece if line else piece
        if line and _measure(longer) > width:
            yield line
            longer = piece
        line = longer
    yield line


def _measure(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(",", "").replace(".", "").replace("-", "").replace("%", "").isdigit()
