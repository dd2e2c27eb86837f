"""Wrapping of a text that comes in pieces, at its words."""

from __future__ import annotations

import re

_PARTS = re.compile(r"\n|[^\S\n]+|\S+")
_TAB = 8


class WordWrap:
    """Wrapping of a text that comes in pieces, at its words. A word that is longer than a line is not split.

    A word is returned when it is whole. Spaces at the end of a line are left out.
    """

    def __init__(self, width: int | None, *, indent: str = "") -> None:
        """Begin a text.

        Args:
            width: cells of a line; None wraps nothing.
            indent: what each line begins with.
        """
        self._width, self._indent, self._column = width, indent, len(indent)
        self._spaces, self._word, self._is_begun = "", "", False

    def add(self, piece: str) -> str:
        """Return what can be written after the next piece of the text."""
        if self._width is None:
            begin, self._is_begun = "" if self._is_begun else self._indent, True
            return begin + piece.replace("\n", f"\n{self._indent}")
        parts = _PARTS.findall(self._word + piece)
        self._word = parts.pop() if parts and not parts[-1].isspace() else ""
        return "".join(map(self._place, parts))

    def end(self) -> str:
        """Return what is left at the end of the text."""
        word, self._word = self._word, ""
        return self._place(word) if word else ""

    def _place(self, part: str) -> str:
        begin = "" if self._is_begun else self._indent
        self._is_begun = True
        if part == "\n":
            self._column, self._spaces = len(self._indent), ""
            return f"{begin}\n{self._indent}"
        if part.isspace():
            self._spaces += part
            return begin
        spaces, self._spaces = self._spaces, ""
        size = _measure(part)
        after = self._column + len(spaces.expandtabs(_TAB)) + size
        if after <= (self._width or 0) or self._column == len(self._indent):
            self._column = after
            return begin + spaces + part
        self._column = len(self._indent) + size
        return f"\n{self._indent}{part}"


def _measure(word: str) -> int:
    if word.isascii():
        return len(word)
    from rich.cells import cell_len

    return cell_len(word)
