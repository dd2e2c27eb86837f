"""Rows of Parquet and Arrow files."""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import feather, ipc, parquet

from finch_hub import errors
from finch_hub.engine.data import arrow_rows, data_files, reading
from finch_hub.engine.data.row import Row, Unreadable
from finch_hub.specs.examples import Example
from finch_hub.specs.reading import ReadingConfig

ROWS = [{"prompt": f"p{n}", "completion": f"c{n}" if n % 2 else None} for n in range(1000)]
TABLE = pyarrow.Table.from_pylist(ROWS)


def read(content: bytes, *, is_parquet: bool = False) -> list[Row]:
    with tempfile.TemporaryFile() as stream:
        stream.write(content)
        stream.seek(0)
        return list(arrow_rows.read_arrow(stream, is_parquet=is_parquet))


def write_parquet(path: Path) -> Path:
    parquet.write_table(TABLE, path, row_group_size=700)
    return path


def write_stream(path: Path) -> Path:
    with ipc.new_stream(str(path), TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=600)
    return path


def write_file(path: Path) -> Path:
    with ipc.new_file(str(path), TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=600)
    return path


@pytest.mark.parametrize("write", [write_parquet, write_stream, write_file])
def test_rows_of_all_batches_are_numbered(write: object, tmp_path: Path) -> None:
    path = write(tmp_path / "a")  # type: ignore[operator]
    with path.open("rb") as stream:
        rows = list(arrow_rows.read_arrow(stream, is_parquet=write is write_parquet))
    assert [row.value for row in rows] == ROWS
    assert (rows[0].where, rows[-1].where) == ("row 1", "row 1000")


def test_text_that_is_not_utf8_is_reported_by_its_row() -> None:
    texts = pyarrow.array([b"a", b"\xff", b"b"], pyarrow.binary()).cast(pyarrow.string(), safe=False)
    content = io.BytesIO()
    table = pyarrow.table({"text": pyarrow.array([b"a", b"\xff", b"b"]).view(pyarrow.string())})
    assert texts.type == table.schema.field("text").type
    with ipc.new_stream(content, table.schema) as writer:
        writer.write_table(table)
    rows = read(content.getvalue())
    assert [row.value for row in rows] == [{"text": "a"}, {"text": Unreadable("is not UTF-8")}, {"text": "b"}]


def test_columns_of_json_are_parsed() -> None:
    """`datasets` 5 stores lists of objects with different fields as lists of JSON."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]
    texts = pyarrow.array([json.dumps(turn) for turn in turns], pyarrow.json_())
    messages = pyarrow.ListArray.from_arrays([0, 2, 2], texts)
    table = pyarrow.table({"messages": messages, "meta": texts, "text": ["[1]", "x"]})
    expected = [{"messages": turns, "meta": turns[0], "text": "[1]"}, {"messages": [], "meta": turns[1], "text": "x"}]
    for write, is_parquet in ((parquet.write_table, True), (feather.write_feather, False)):
        content = io.BytesIO()
        write(table, content)
        assert [row.value for row in read(content.getvalue(), is_parquet=is_parquet)] == expected
    assert [row for batch in table.to_batches() for row in arrow_rows.to_rows(batch)] == expected


def test_damaged_file_is_refused() -> None:
    for content, is_parquet in ((b"PAR1damaged", True), (b"ARROW1damaged", False), (b"\xff\xff\xff\xff\1", False)):
        with pytest.raises(errors.InvalidDataset, match="cannot be read"):
            read(content, is_parquet=is_parquet)


def test_small_file_of_a_huge_table_is_refused() -> None:
    content = io.BytesIO()
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 256), ["x" * 8_000_000])
    parquet.write_table(pyarrow.table({"prompt": texts}), content, compression="zstd", store_schema=False)
    assert len(content.getvalue()) < 2_000
    with pytest.raises(errors.InvalidDataset, match="takes more than 1,024 MiB of memory to read"):
        read(content.getvalue(), is_parquet=True)


def test_rows_that_take_no_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_rows, "_FREE_ROWS", 10_000)
    content = io.BytesIO()
    table = pyarrow.table({"prompt": pyarrow.nulls(2**20)})
    with ipc.new_stream(content, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(errors.InvalidDataset, match=r"has more than .* rows, which is too many for its size"):
        read(content.getvalue())


def test_small_file_of_many_long_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "FREE_BYTES", 2**20)
    content = io.BytesIO()
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 5_000), ["x" * 1_000])
    parquet.write_table(pyarrow.table({"prompt": texts}), content, compression="zstd", store_schema=False)
    with pytest.raises(errors.InvalidDataset, match="has rows of more than 200 times its size"):
        read(content.getvalue(), is_parquet=True)


def test_missing_pyarrow_is_told_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(errors.InvalidDataset, match=r"needs pyarrow \(pip install 'finch-hub\[parquet\]'\)"):
        read(b"PAR1", is_parquet=True)


NANOSECONDS = [
    pyarrow.array([1, None, 3], pyarrow.timestamp("ns")),
    pyarrow.array([1, None, 3], pyarrow.duration("ns")),
    pyarrow.array([1, None, 3], pyarrow.time64("ns")),
    pyarrow.array([2**62, None, -(2**62)], pyarrow.timestamp("s")),
    pyarrow.array([2**62, None, 1], pyarrow.duration("s")),
    pyarrow.array([2**30, None, 1], pyarrow.date32()),
    pyarrow.array([1, None, 3], pyarrow.timestamp("us", "Mars/Olympus")),
    pyarrow.array([1, None, 3], pyarrow.timestamp("ns", "Europe/Berlin")),
    pyarrow.array([{"t": 1}, None, {"t": None}], pyarrow.struct([("t", pyarrow.timestamp("ns"))])),
    pyarrow.array([[{"t": 1}], None, []], pyarrow.list_(pyarrow.struct([("t", pyarrow.duration("ns"))]))),
    pyarrow.array([[("a", 1)], None, []], pyarrow.map_(pyarrow.string(), pyarrow.timestamp("ns"))),
    pyarrow.array([1, None, 3], pyarrow.timestamp("ns")).dictionary_encode(),
    pyarrow.array([{}, None, {}], pyarrow.struct([])),
    pyarrow.array([(1, 2, 3), None, None], pyarrow.month_day_nano_interval()),
    pyarrow.array(['{"a": 1, "a": 2}', None, "{"], pyarrow.json_()),
    pyarrow.array([b"\xff", None, b"a"]).view(pyarrow.string()),
]


@pytest.mark.parametrize("column", NANOSECONDS, ids=lambda column: str(column.type))
@pytest.mark.parametrize("has_pandas", [False, True])
def test_column_that_nobody_uses_never_stops_the_reading(
    column: pyarrow.Array, has_pandas: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_pandas:
        monkeypatch.setitem(sys.modules, "pandas", None)
    table = pyarrow.table({"prompt": ["a", "b", "c"], "when": column, "completion": ["d", "e", "f"]})
    content = io.BytesIO()
    with ipc.new_stream(content, table.schema) as writer:
        writer.write_table(table)
    of_file: list[Any] = [row.value for row in read(content.getvalue())]
    for values in (of_file, arrow_rows.to_rows(table)):
        assert [(value["prompt"], value["completion"]) for value in values] == [("a", "d"), ("b", "e"), ("c", "f")]
        assert values[1]["when"] is None
    data = reading.read_data(table)
    assert data.examples == tuple(Example.of_pair(*pair) for pair in ("ad", "be", "cf"))
    assert data.report.left_out == 0


def test_cell_that_a_row_needs_is_a_problem_of_the_row() -> None:
    cells = pyarrow.array([b"a", b"\xff", b"c"]).view(pyarrow.string())
    table = pyarrow.table({"prompt": cells, "completion": ["d", "e", "f"]})
    data = reading.read_data(table, ReadingConfig(max_bad_rows=0.5))
    assert data.report.problems == ("example 2: prompt is unreadable, because it is not UTF-8, instead of a text",)
    assert len(data.examples) == 2


def test_times_in_fields_that_are_learned_are_texts() -> None:
    documents = pyarrow.array(
        [[{"text": "a", "day": 0}]],
        pyarrow.list_(pyarrow.struct([("text", pyarrow.string()), ("day", pyarrow.date32())])),
    )
    table = pyarrow.table({"prompt": ["a"], "completion": ["b"], "documents": documents})
    assert reading.read_data(table).examples[0].documents == ({"text": "a", "day": "1970-01-01"},)


def test_column_that_is_there_twice_is_refused() -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"])
    with pytest.raises(errors.InvalidDataset, match="has the column text twice"):
        reading.read_data(table)
