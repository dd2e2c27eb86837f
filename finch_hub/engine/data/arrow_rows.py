"""Rows of Parquet and Arrow files."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from finch_hub import errors
from finch_hub.engine.data import json_values
from finch_hub.engine.data.row import Row

# Rows that are in memory as Python values. Rows may have a hundred thousand characters each.
_BATCH_ROWS = 256


def read_arrow(stream: BinaryIO, *, is_parquet: bool) -> Iterator[Row]:
    """Yield the rows of a Parquet file, or of an Arrow file in its stream or file format.

    Raises:
        InvalidDataset: the file is damaged, or pyarrow is not installed.
    """
    try:
        pyarrow: Any = importlib.import_module("pyarrow")
        importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise errors.InvalidDataset("needs pyarrow", fix="pip install 'finch-hub[parquet]'") from None
    number = 0
    try:
        for batch in _batches(pyarrow, stream, is_parquet=is_parquet):
            for begin in range(0, batch.num_rows, _BATCH_ROWS):
                for value in _values(batch.slice(begin, _BATCH_ROWS)):
                    number += 1
                    where = f"row {number}"
                    yield Row(where, value) if value is not None else Row(where, None, "is not UTF-8", "write it anew")
    except (pyarrow.ArrowException, OSError) as error:
        raise errors.InvalidDataset(f"cannot be read: {error}", fix="the file is damaged; copy it again") from None


def to_rows(batch: Any) -> list[dict[str, Any]]:
    """Return the rows of a record batch. `datasets` stores objects of different fields as columns of JSON."""
    decoders = {field.name: decode for field in batch.schema if (decode := _json_decoder(field.type))}
    rows: list[dict[str, Any]] = batch.to_pylist()
    for row in rows if decoders else ():
        row.update({name: decode(row[name]) for name, decode in decoders.items()})
    return rows


def _values(batch: Any) -> Iterator[dict[str, Any] | None]:
    """Yield the rows of a batch, None for a row with a text that is not UTF-8."""
    try:
        yield from to_rows(batch)
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield to_rows(batch.slice(index, 1))[0]
            except UnicodeDecodeError:
                yield None


def _json_decoder(kind: Any) -> Callable[[Any], Any] | None:
    """Return a function that parses the JSON in values of an Arrow type; None if the type has no JSON."""
    if getattr(kind, "extension_name", "") == "arrow.json":
        return lambda text: json_values.parse(text) if isinstance(text, str) else text
    if (item := getattr(kind, "value_type", None)) is not None and (decode := _json_decoder(item)):
        return lambda items: [decode(item) for item in items] if isinstance(items, list) else items
    return None


def _batches(pyarrow: Any, stream: BinaryIO, *, is_parquet: bool) -> Iterator[Any]:
    if is_parquet:
        yield from pyarrow.parquet.ParquetFile(stream).iter_batches(batch_size=_BATCH_ROWS)
        return
    is_file = stream.read(6) == b"ARROW1"
    stream.seek(0)
    if not is_file:
        yield from pyarrow.ipc.open_stream(stream)
        return
    reader = pyarrow.ipc.open_file(stream)
    for index in range(reader.num_record_batches):
        yield reader.get_batch(index)
