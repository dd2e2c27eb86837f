"""Rows of Parquet and Arrow files."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow import feather, ipc, parquet

from finch_hub import errors
from finch_hub.engine.data import arrow_rows

ROWS = [{"prompt": f"p{n}", "completion": f"c{n}" if n % 2 else None} for n in range(1000)]
TABLE = pyarrow.Table.from_pylist(ROWS)


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
    content.seek(0)
    rows = list(arrow_rows.read_arrow(content, is_parquet=False))
    assert [(row.where, row.problem) for row in rows if row.value is None] == [("row 2", "is not UTF-8")]
    assert [row.value for row in rows if row.value is not None] == [{"text": "a"}, {"text": "b"}]


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
        content.seek(0)
        assert [row.value for row in arrow_rows.read_arrow(content, is_parquet=is_parquet)] == expected
    assert [row for batch in table.to_batches() for row in arrow_rows.to_rows(batch)] == expected


def test_damaged_file_is_refused() -> None:
    for content, is_parquet in ((b"PAR1damaged", True), (b"ARROW1damaged", False), (b"\xff\xff\xff\xff\1", False)):
        with pytest.raises(errors.InvalidDataset, match="cannot be read"):
            list(arrow_rows.read_arrow(io.BytesIO(content), is_parquet=is_parquet))


def test_missing_pyarrow_is_told_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(errors.InvalidDataset, match=r"needs pyarrow \(pip install 'finch-hub\[parquet\]'\)"):
        list(arrow_rows.read_arrow(io.BytesIO(b"PAR1"), is_parquet=True))
