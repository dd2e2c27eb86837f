"""Readers of rows from JSONL, JSON, CSV, Parquet and Arrow files. Free of torch."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".arrow")
MAX_LINE_BYTES = 4 * 2**20
"""Longest line that is read. It holds a million words, so a longer line is a damaged file."""
_BOM = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """One row of a file by its location, or a problem and its fix without a value."""

    where: str
    value: Mapping[str, Any] | None
    problem: str = ""
    fix: str = ""


def read_rows(file: Path) -> Iterator[Row]:
    """Yield the rows of a file in the format that its suffix names."""
    match file.suffix.lower():
        case ".json":
            return _read_json(file)
        case ".csv":
            return _read_csv(file)
        case ".parquet" | ".arrow":
            return _read_arrow(file)
        case ".jsonl" | ".ndjson" | "":
            return _read_jsonl(file)
        case other:
            what = f"is a {other} file, not one of {', '.join(SUFFIXES)}"
            return iter([Row("file", None, what, "convert it, or rename it after its content")])


def _read_jsonl(file: Path) -> Iterator[Row]:
    blank: list[int] = []
    for number, line in enumerate(_read_lines(file), start=1):
        where = f"line {number}"
        if line is None:
            yield Row(where, None, f"is longer than {MAX_LINE_BYTES // 2**20} MiB", "write one JSON object a line")
        elif not line.strip():
            blank.append(number)
        else:
            # Editors leave blank lines at the end. Between rows, a blank line can be lost data.
            yield from (Row(f"line {lost}", None, "is empty", "remove the line") for lost in blank)
            blank.clear()
            yield _parse(line, where)


def _read_lines(file: Path) -> Iterator[bytes | None]:
    """Yield lines, with None for a line that is too long. Such a line is not read as a whole."""
    with file.open("rb") as stream:
        if stream.peek(len(_BOM)).startswith(_BOM):
            stream.read(len(_BOM))
        while line := stream.readline(MAX_LINE_BYTES):
            if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
                yield line
                continue
            while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield None


def _parse(line: bytes, where: str) -> Row:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Row(where, None, f"is not UTF-8 at byte {error.start + 1}", "save the file as UTF-8")
    except json.JSONDecodeError as error:
        what = f"is not JSON: {error.msg} at column {error.colno}"
        return Row(where, None, what, "write one JSON object a line")
    except (RecursionError, ValueError) as error:
        return Row(where, None, f"cannot be read as JSON: {error}")
    return _to_row(value, where)


def _to_row(value: Any, where: str) -> Row:
    if isinstance(value, Mapping):
        return Row(where, value)
    return Row(where, None, f"is a {type(value).__name__}, not an object", 'write {"prompt": …, "completion": …}')


def _read_json(file: Path) -> Iterator[Row]:
    fix = "write one list of objects, or name a file of one object a line .jsonl"
    try:
        data = json.loads(file.read_bytes().removeprefix(_BOM).decode())
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        yield Row("file", None, f"is not JSON: {error}", fix)
        return
    if not isinstance(data, list):
        yield Row("file", None, "is not a list", fix)
        return
    yield from (_to_row(value, f"item {number}") for number, value in enumerate(data, start=1))


def _read_csv(file: Path) -> Iterator[Row]:
    def decode_lines() -> Iterator[str]:
        for line in _read_lines(file):
            # A replacement character marks unreadable text, so that the row is still counted and reported.
            yield "\ufffd\n" if line is None else line.decode(errors="replace")

    csv.field_size_limit(MAX_LINE_BYTES)  # the default limit is lower than that of a line
    reader = csv.DictReader(decode_lines(), strict=True)
    while True:
        before = reader.reader.line_num
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # An unclosed quote is noticed at the end of the file, but the row began earlier.
            first, last = before + 1, reader.reader.line_num
            where = f"line {last}" if first >= last else f"lines {first} to {last}"
            yield Row(where, None, f"is not CSV: {error}", 'close its quotes, and write " within them as ""')
            continue
        where = f"line {reader.line_num}"
        values = [value for value in row.values() if value is not None]
        if None in row or len(values) < len(row):
            yield Row(where, None, f"does not have the header's {len(reader.fieldnames or ())} fields")
        elif any("\ufffd" in value for value in values):
            yield Row(where, None, "is not UTF-8", "save the file as UTF-8")
        else:
            yield Row(where, {name: _parse_cell(value) for name, value in row.items()})


def _parse_cell(value: str) -> Any:
    """Return the text of a cell, or the list of objects that it holds as JSON, such as `messages`."""
    if value.startswith("[{"):
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value


def _read_arrow(file: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        yield Row("file", None, "needs pyarrow", "pip install 'finch-hub[parquet]'")
        return
    try:
        number = 0
        with file.open("rb") as stream:
            is_parquet = file.suffix.lower() == ".parquet"
            batches = (
                pyarrow.parquet.ParquetFile(stream).iter_batches() if is_parquet else pyarrow.ipc.open_stream(stream)
            )
            for batch in batches:
                for value in batch.to_pylist():
                    number += 1
                    yield Row(f"row {number}", value)
    except (pyarrow.ArrowException, OSError) as error:
        yield Row("file", None, f"cannot be read: {error}")
