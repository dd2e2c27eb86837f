"""Rows of JSON Lines and of JSON documents, whichever of the two a file is."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from finch_hub import errors
from finch_hub.engine.data import json_values, table_objects
from finch_hub.engine.data.row import MAX_LINE, Row, advise_encoding, read_lines
from finch_hub.engine.data.row_formats import list_columns

_CHUNK = 2**16  # characters
# An object is in memory as a whole, in which a value of two characters takes a hundred bytes. Of lists, one row is.
_MAX_OBJECT, _MAX_VALUES = 2**27, 2**23
# Fields of a document in which people put the list of rows.
_WRAPPERS = ("data", "rows", "examples", "items", "records", "instances")
_LIST_FIX = "write one list of objects, or one object a line"


def read_json(stream: TextIO, *, prefers_document: bool, is_row: Callable[[Mapping[str, Any]], bool]) -> Iterator[Row]:
    """Yield the rows of JSON Lines, of a list of objects, or of an object that holds such a list.

    Args:
        stream: text, at its beginning.
        prefers_document: whether a text is one document if its first line is not a whole object.
        is_row: tells whether an object is a row, also if it holds a list of objects.

    Raises:
        InvalidDataset: a document is not JSON; the rows before the place were yielded.
    """
    lines = (text for _, text, _ in read_lines(stream) if text is None or text.strip())
    first, second = next(lines, ""), next(lines, "")
    stream.seek(0)
    is_document = prefers_document
    if first is not None:
        second = "…" if second is None else second.strip()  # too long a line
        is_document = _is_document(first.strip(), second, prefers_document, is_row)
    if not is_document and first is None:
        is_document = stream.read(_CHUNK).lstrip("\ufeff \t\r\n").startswith("[")  # one line can hold a long list
        stream.seek(0)
    return _read_document(stream, is_row) if is_document else _read_lines(stream)


def _is_document(first: str, second: str, prefers_document: bool, is_row: Callable[[Mapping[str, Any]], bool]) -> bool:
    """Tell by its first lines whether a text is one document, rather than an object a line."""
    if first.startswith("["):
        return True
    value = _parse_object(first.removesuffix(","))
    if value is not None:
        return not second and holds_rows(value, is_row)
    if first.endswith(("{", "[", ",", ":")) or _parse_object(second) is None:
        return (prefers_document and first != "") or first == "{"
    return False  # an object a line, of which the first is damaged


def _parse_object(text: str) -> Mapping[str, Any] | None:
    try:
        value = json_values.parse(text)
    except ValueError:
        return None
    return value if isinstance(value, Mapping) else None


def _read_lines(stream: TextIO) -> Iterator[Row]:
    for number, text, problem in read_lines(stream):
        if text is None:
            fix = "write one JSON object a line" if problem.startswith("is longer") else advise_encoding()
            yield Row(f"line {number}", None, problem, fix)
        elif text.strip():
            yield _parse_line(text.strip(), f"line {number}")


def _parse_line(text: str, where: str) -> Row:
    try:
        value = json_values.parse(text)
    except ValueError as error:
        if text.endswith(","):
            return _parse_line(text[:-1], where)
        return Row(where, None, f"is not JSON: {_describe(error)}", "write one JSON object a line")
    return _to_row(value, where)


def _to_row(value: Any, where: str) -> Row:
    if isinstance(value, ValueError):
        return Row(where, None, f"is not JSON: {_describe(value)}", _LIST_FIX)
    if isinstance(value, Mapping):
        return Row(where, value)
    what = "null" if value is None else f"a {type(value).__name__}"
    return Row(where, None, f"is {what}, not an object", 'write {"prompt": …, "completion": …}')


def _describe(error: ValueError) -> str:
    """Return what is wrong with a JSON text, without the text itself."""
    message = getattr(error, "msg", str(error))
    column = getattr(error, "colno", None)
    return f"{message} at column {column}" if column else message


def _read_document(stream: TextIO, is_row: Callable[[Mapping[str, Any]], bool]) -> Iterator[Row]:
    """Yield the items of one list, or the objects of a text of several objects, or the rows that an object holds."""
    values = _Values(stream)
    if values.skip() == "[":
        values.take()
        for number in itertools.count(1):
            if values.skip(separators=",") == "]":
                break
            yield _to_row(values.parse(f"item {number}", MAX_LINE), f"item {number}")
        values.take()
        if values.skip():
            raise errors.InvalidDataset("has text after the list", fix=_LIST_FIX)
        return
    first = values.parse("item 1", None)
    if not values.skip(separators=","):
        found = find_lists(first, is_row)
        if len(found) > 1:
            what = f"has several lists of rows: {list_columns(list(found))}"
            raise errors.InvalidDataset(what, fix="write each to a file of its own")
        rows = next(iter(found.values()), None) or _find_table(first, is_row) or [first]
        yield from (_to_row(values.check(row), f"item {n}") for n, row in enumerate(rows, start=1))
        return
    yield _to_row(values.check(first), "item 1")
    for number in itertools.count(2):
        yield _to_row(values.parse(f"item {number}", MAX_LINE), f"item {number}")
        if not values.skip(separators=","):
            return


def holds_rows(value: Any, is_row: Callable[[Mapping[str, Any]], bool]) -> bool:
    """Tell whether an object that is not a row holds rows: in a list, or as a table."""
    return bool(find_lists(value, is_row)) or bool(_find_table(value, is_row))


def _find_table(value: Any, is_row: Callable[[Mapping[str, Any]], bool]) -> list[Any] | None:
    return table_objects.find_rows(value, is_row) if isinstance(value, Mapping) else None


def find_lists(value: Any, is_row: Callable[[Mapping[str, Any]], bool]) -> dict[str, list[Any]]:
    """Return the lists of rows in an object that is not a row: lists of a usual name, or with a readable row."""
    if not isinstance(value, Mapping) or is_row(value):
        return {}
    return {
        name: rows
        for name, rows in value.items()
        if is_list_of_objects(rows)
        and (name in _WRAPPERS or any(is_row(row) for row in rows if isinstance(row, Mapping)))
    }


def is_list_of_objects(value: Any) -> bool:
    """Tell whether a value is a list of objects, but for a few. Those that cannot be read are errors in their place."""
    return isinstance(value, list) and table_objects.is_mostly(
        value, lambda row: isinstance(row, (Mapping, ValueError))
    )


class _Values:
    """JSON values of a text, one after another, read in chunks so that only one value is in memory."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = ""
        self._begin = 0
        self._chunk = _CHUNK
        self._is_damaged = False

    def skip(self, separators: str = "") -> str:
        """Skip blanks and separators, and return the next character; empty at the end."""
        while True:
            while self._begin < len(self._text):
                character = self._text[self._begin]
                if character not in separators and not character.isspace() and character != "\ufeff":
                    return character
                self._begin += 1
            if not self._read():
                return ""

    def take(self) -> None:
        """Go past the next character."""
        self._begin += 1

    def parse(self, where: str, max_length: int | None) -> Any:
        """Parse the next value. A value that is JSON but cannot be used is returned as its `ValueError`.

        Args:
            max_length: longest value, in characters; None for a document, of which only parts may be unusable.

        Raises:
            InvalidDataset: it is not JSON, or takes too much memory.
        """
        while True:
            if max_length is None:
                self._check_size(where)
            try:
                value, end = self._decode(is_document=max_length is None)
            except RecursionError:
                raise errors.InvalidDataset("is nested too deeply", where=where) from None
            except json.JSONDecodeError as error:
                is_too_long = max_length is not None and len(self._text) - self._begin > max_length
                if is_too_long or not self._read():
                    what = f"is not JSON: {_describe(error)}"
                    raise errors.InvalidDataset(what, where=where, fix=_LIST_FIX) from None
                continue
            self._begin, self._chunk = end, _CHUNK
            return value

    def _check_size(self, where: str) -> None:
        num_values = sum(map(self._text.count, "[{,"))
        if len(self._text) > _MAX_OBJECT or num_values > _MAX_VALUES:
            what = f"is an object of more than {_MAX_OBJECT:,} characters or {_MAX_VALUES:,} values"
            raise errors.InvalidDataset(what, where=where, fix=_LIST_FIX)

    def check(self, part: Any) -> Any:
        """Return a part of a parsed document, or the `ValueError` of what cannot be used in it."""
        return (json_values.find_damage(part) if self._is_damaged else None) or part

    def _decode(self, *, is_document: bool) -> tuple[Any, int]:
        try:
            return json_values.DECODER.raw_decode(self._text, self._begin)
        except json.JSONDecodeError:
            raise
        except ValueError as error:  # an object has a key twice, or a number has thousands of digits
            value, end = json_values.TOLERANT.raw_decode(self._text, self._begin)
            self._is_damaged = True
            return value if is_document else error, end

    def _read(self) -> bool:
        """Read more text. A value that needs several reads gets larger ones, so that the time stays linear."""
        more = self._stream.read(self._chunk)
        self._text = self._text[self._begin :] + more
        self._begin = 0
        self._chunk *= 2
        return bool(more)
