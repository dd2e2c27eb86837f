"""Rows of Parquet and Arrow files."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from finch_hub import errors
from finch_hub.engine.data import data_files, json_values
from finch_hub.engine.data.row import Row, Unreadable
from finch_hub.formats.parsing_process import Limits, parse

# Rows that are in memory as Python values. Rows may have a hundred thousand characters each.
_BATCH_ROWS = 256
_BATCH_BYTES = 2**24
_LIBRARIES = ("pyarrow", "pyarrow.parquet")
# A table can repeat a row, or have rows without columns, in no bytes at all.
_FREE_ROWS = 2**20
_MAX_ROWS_PER_BYTE = 16


def read_arrow(stream: BinaryIO, *, is_parquet: bool) -> Iterator[Row]:
    """Yield the rows of a Parquet file, or of an Arrow file in its stream or file format.

    Args:
        stream: an open file, which a child process reads.

    Raises:
        InvalidDataset: the file is damaged, takes too much memory, or has too many or too long rows, or pyarrow is not
            installed.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise errors.InvalidDataset("needs pyarrow", fix="pip install 'finch-hub[parquet]'")
    descriptor, number = stream.fileno(), 0
    size = os.fstat(descriptor).st_size
    max_rows, budget = _FREE_ROWS + _MAX_ROWS_PER_BYTE * size, data_files.FREE_BYTES + data_files.MAX_EXPANSION * size
    options: Any = {"limits": Limits(), "libraries": _LIBRARIES, "files": (descriptor,)}
    for text in parse(_read_batches, descriptor, is_parquet, error=errors.InvalidDataset, **options):
        budget -= len(text)
        if budget < 0:
            what = f"has rows of more than {data_files.MAX_EXPANSION} times its size, as damaged or hostile files do"
            raise errors.InvalidDataset(what, fix="write the rows as JSON Lines")
        for value in json.loads(text, object_hook=_decode):
            number += 1
            yield Row(f"row {number}", value)
        if number > max_rows:
            what = f"has more than {max_rows:,} rows, which is too many for its size"
            raise errors.InvalidDataset(what, fix="write the rows as JSON Lines")


def _read_batches(descriptor: int, is_parquet: bool) -> Iterator[str]:
    """Yield the rows of a file as JSON, in lists that fit into memory."""
    pyarrow: Any = importlib.import_module("pyarrow")
    try:
        with open(descriptor, "rb", closefd=False) as stream:
            stream.seek(0)
            for batch in _batches(pyarrow, stream, is_parquet=is_parquet):
                count = max(1, min(_BATCH_ROWS, _BATCH_BYTES * batch.num_rows // max(1, batch.nbytes)))
                for begin in range(0, batch.num_rows, count):
                    yield json.dumps(to_rows(batch.slice(begin, count)), default=_encode)
    except MemoryError:  # which is one of Arrow's exceptions, too
        raise MemoryError from None
    except (pyarrow.ArrowException, OSError) as error:
        raise errors.InvalidDataset(f"cannot be read: {error}", fix="the file is damaged; copy it again") from None


_CELL = "\0unreadable"


def _encode(cell: object) -> dict[str, str]:
    """Return a cell that JSON cannot hold, such as bytes, as an object that tells why."""
    return {_CELL: cell.reason if isinstance(cell, Unreadable) else f"is of the type {type(cell).__name__}"}


def _decode(found: dict[str, Any]) -> Any:
    return Unreadable(str(found[_CELL])) if _CELL in found else found


def to_rows(batch: Any) -> list[dict[str, Any]]:
    """Return the rows of a record batch, in which a cell that Python cannot hold is `Unreadable`.

    `datasets` stores objects of different fields as columns of JSON. Times become texts.

    Raises:
        InvalidDataset: two columns have one name.
    """
    names = batch.schema.names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise errors.InvalidDataset(f"has the column {twice} twice", fix="rename one of them")
    columns = [_to_values(batch.column(place), field.type) for place, field in enumerate(batch.schema)]
    return [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _to_values(column: Any, kind: Any) -> list[Any]:
    """Return the values of a column. If one of them fails, each is read by itself."""
    decode = _json_decoder(kind)
    try:
        if _holds_intervals(kind):
            raise NotImplementedError
        for target in _types_of_texts(kind):
            column = column.cast(target)
        values: list[Any] = column.to_pylist()
        return values if decode is None else [decode(value) for value in values]
    except (ValueError, ArithmeticError, LookupError, TypeError, ImportError, NotImplementedError) as error:
        if len(column) != 1:
            return [value for place in range(len(column)) for value in _to_values(column.slice(place, 1), kind)]
        if column.null_count:
            return [None]
        if isinstance(error, UnicodeDecodeError):
            return [Unreadable("is not UTF-8")]
        return [Unreadable("is not JSON" if decode is not None else f"is a {kind} that Python cannot hold")]


def _holds_intervals(kind: Any) -> bool:
    """Tell whether a type has months and days, whose Python values can be neither JSON nor sent by a process."""
    pyarrow: Any = importlib.import_module("pyarrow")
    inner = [getattr(kind, name) for name in ("value_type", "storage_type") if hasattr(kind, name)]
    inner += [kind.field(place).type for place in range(kind.num_fields)] if pyarrow.types.is_nested(kind) else []
    return pyarrow.types.is_interval(kind) or any(map(_holds_intervals, inner))


def _types_of_texts(kind: Any) -> list[Any]:
    """Return the types to which values with times are cast in turn: without time zones, as UTC, and then texts.

    Python has no nanoseconds and no far years, and machines know different time zones.
    """
    pyarrow: Any = importlib.import_module("pyarrow")

    def replace(kind: Any, *, by_texts: bool) -> Any:
        if pyarrow.types.is_temporal(kind) and not pyarrow.types.is_interval(kind):
            is_zoned = pyarrow.types.is_timestamp(kind) and kind.tz is not None
            return pyarrow.string() if by_texts else pyarrow.timestamp(kind.unit) if is_zoned else kind
        if pyarrow.types.is_struct(kind):
            return pyarrow.struct([field.with_type(replace(field.type, by_texts=by_texts)) for field in kind])
        if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
            make = pyarrow.list_ if pyarrow.types.is_list(kind) else pyarrow.large_list
            return make(kind.value_field.with_type(replace(kind.value_type, by_texts=by_texts)))
        return kind

    targets = [replace(kind, by_texts=False), replace(kind, by_texts=True)]
    return targets if targets[1] != kind else []


def _json_decoder(kind: Any) -> Callable[[Any], Any] | None:
    """Return a function that parses the JSON in values of an Arrow type; None if the type has no JSON."""
    if getattr(kind, "extension_name", "") == "arrow.json":
        return lambda text: json_values.parse(text) if isinstance(text, str) else text
    if (item := getattr(kind, "value_type", None)) is not None and (decode := _json_decoder(item)):
        return lambda items: [decode(item) for item in items] if isinstance(items, list) else items
    return None


def _batches(pyarrow: Any, stream: BinaryIO, *, is_parquet: bool) -> Iterator[Any]:
    if is_parquet:
        yield from pyarrow.parquet.ParquetFile(stream).iter_batches(batch_size=_BATCH_ROWS, use_threads=False)
        return
    is_file = stream.read(6) == b"ARROW1"
    stream.seek(0)
    if not is_file:
        yield from pyarrow.ipc.open_stream(stream)
        return
    reader = pyarrow.ipc.open_file(stream)
    for index in range(reader.num_record_batches):
        yield reader.get_batch(index)
