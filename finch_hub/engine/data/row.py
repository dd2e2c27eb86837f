"""Rows of data files, and lines of text files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TextIO

from finch_hub import errors
from finch_hub.specs.examples import Example
from finch_hub.specs.options import write_options

_MAX_EMPTY = 1_000_000
MAX_LINE = 4 * 2**20
"""Longest line that is read, in characters. It holds a million words, so a longer line is a damaged file."""


def advise_encoding() -> str:
    """Return what to do about bytes that are not in the encoding of a file."""
    return f"save the file as UTF-8, or name its encoding, such as {write_options({'encoding': 'cp1252'})}"


@dataclass(frozen=True)
class Unreadable:
    """A cell that cannot be read, and why. Only rows that need it are left out."""

    reason: str


def describe(value: object) -> str:
    """Return the kind of a value. Errors repeat no text of a data set."""
    if isinstance(value, Unreadable):
        return f"unreadable, because it {value.reason},"
    return "null" if value is None else type(value).__name__


def describe_other(value: object, kind: str) -> str:
    """Return why a value is not the list of a kind that a column must hold, as a list or as its JSON text."""
    if isinstance(value, str):
        return f"is a text that is not the JSON of a list of {kind}"
    return f"is {describe(value)} instead of a list of {kind}"


class Row(NamedTuple):
    """One row by its location: its columns, or an example as it is, or a problem and its fix without a value.

    Attributes:
        lines: number of lines that the problem spans, which may have been as many rows.
    """

    where: str
    value: Mapping[str, Any] | Example | None
    problem: str = ""
    fix: str = ""
    lines: int = 1


def read_lines(stream: TextIO) -> Iterator[tuple[int, str | None, str]]:
    """Yield the number of each line with its text, or with None and a problem.

    A line that is too long is not kept as a whole. Bytes that are not in the stream's encoding are half surrogates in
    the text, which no encoding has.

    Raises:
        InvalidDataset: very many lines in a row are empty, as a small compressed file can have for hours.
    """
    number = empty = 0
    while line := stream.readline(MAX_LINE):
        number += 1
        empty = empty + 1 if line.isspace() else 0
        if empty > _MAX_EMPTY:
            what = f"has more than {_MAX_EMPTY:,} empty lines in a row"
            raise errors.InvalidDataset(what, where=f"line {number}", fix="remove them")
        if len(line) == MAX_LINE and line[-1] not in "\r\n":
            while (rest := stream.readline(MAX_LINE)) and rest[-1] not in "\r\n":
                pass
            yield number, None, f"is longer than {MAX_LINE:,} characters"
        elif not line.isascii() and (place := _find_undecoded(line)) is not None:
            yield number, None, f"is not {stream.encoding.upper()} at character {place + 1}"
        else:
            yield number, line.lstrip("\ufeff"), ""  # a mark inside a file shows that files were joined


def _find_undecoded(line: str) -> int | None:
    try:
        line.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None
