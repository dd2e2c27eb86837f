"""Wrapping of a text that comes in pieces, at its words."""

from __future__ import annotations

import re

# Chinese and Japanese have no spaces, and a line may end behind each of their characters.
_WIDE = r"\u2e80-\u9fff\uf900-\ufaff\uff01-\uff60\U00020000-\U0003fffd"
_PARTS = re.compile(rf"\n|[^\S\n]+|[^\s{_WIDE}]*[{_WIDE}]|[^\s{_WIDE}]+")
_ENDS_WORD = re.compile(rf"[{_WIDE}]\Z")
_TAB = 8


class WordWrap:
    """Wrapping of a text that comes in pieces, at its words. A word that is longer than a line is not split.

    The start of a word is kept back only while the word may still fit the line. Spaces at the end of a line are
    left out.
    """

    def __init__(self, width: int | None, *, indent: str = "") -> None:
        """Begin a text.

        Args:
            width: cells of a line; None wraps nothing.
            indent: what each line begins with.
        """
        self._width, self._indent, self._column = width, indent, len(indent)
        self._spaces, self._word, self._size = "", "", 0  # what is kept back, and the cells of the word
        self._is_begun = self._is_word_begun = False

    def add(self, piece: str) -> str:
        """Return what can be written after the next piece of the text."""
        if self._width is None:
            begin, self._is_begun = "" if self._is_begun else self._indent, True
            return begin + piece.replace("\n", f"\n{self._indent}")
        return "".join(map(self._place, _PARTS.findall(piece)))

    def end(self) -> str:
        """Return the word that is kept back, at the end of the text."""
        written = ""
        if self._word:
            written = self._spaces + self._word
            self._column += len(self._spaces.expandtabs(_TAB)) + self._size
            self._spaces = ""
        self._word, self._size, self._is_word_begun = "", 0, False
        return written

    def _place(self, part: str) -> str:
        begin = "" if self._is_begun else self._indent
        self._is_begun = True
        if part.isspace():
            written = begin + self.end()
            if part != "\n":
                self._spaces += part
                return written
            self._column, self._spaces = len(self._indent), ""
            return f"{written}\n{self._indent}"
        written = begin + self._extend_word(part)
        return written + self.end() if _ENDS_WORD.search(part) else written

    def _extend_word(self, part: str) -> str:
        size = _measure(part)
        if self._is_word_begun:
            self._column += size
            return part
        self._word, self._size = self._word + part, self._size + size
        is_first = self._column == len(self._indent)
        after = self._column + len(self._spaces.expandtabs(_TAB)) + self._size
        if after <= (self._width or 0) and not is_first:
            return ""
        if not is_first:
            self._column, self._spaces = len(self._indent), ""
        written = ("" if is_first else f"\n{self._indent}") + self.end()
        self._is_word_begun = True
        return written


def _measure(word: str) -> int:
    if word.isascii():
        return len(word)
    from rich.cells import cell_len

    return cell_len(word)
