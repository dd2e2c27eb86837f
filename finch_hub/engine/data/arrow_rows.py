"""Rows of Parquet and Arrow files."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from finch_hub import errors
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


def _values(batch: Any) -> Iterator[dict[str, Any] | None]:
    """Yield the rows of a batch, None for a row with a text that is not UTF-8."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield None


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
