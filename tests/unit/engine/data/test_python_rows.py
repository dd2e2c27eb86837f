"""Rows that a program gives, in the forms of libraries that are not installed here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.dataset
import pytest

from finch_hub import errors
from finch_hub.engine.data import python_rows
from finch_hub.specs.examples import Example

ROWS = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]


class Columns(list[str]):
    @property
    def is_unique(self) -> bool:
        return len(set(self)) == len(self)


class PandasLike:
    """The methods of a pandas.DataFrame that matter. Iterating over it gives names of columns."""

    def __init__(self, rows: list[dict[str, Any]], columns: list[str] | None = None) -> None:
        self._rows = rows
        self.columns = Columns(columns or list(rows[0]))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    @property
    def iloc(self) -> PandasLike:
        return self

    def __getitem__(self, rows: slice) -> PandasLike:
        return PandasLike(self._rows[rows], self.columns)

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return self._rows


class PolarsLike:
    """The methods of a polars.DataFrame that matter."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def iter_rows(self, *, named: bool) -> Iterator[dict[str, Any]]:
        assert named
        return iter(self._rows)


class DatasetLike:
    """The methods of a datasets.Dataset that matter. Its first axis are rows by number."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: int) -> dict[str, Any]:
        return self._rows[key]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._rows)


class NAType:
    """The class of pandas.NA."""


def is_row(value: Mapping[str, Any]) -> bool:
    return {"prompt", "completion"} <= value.keys()


def values_of(items: Any) -> list[Any]:
    return [row.value for row in python_rows.read_items(items)]


@pytest.mark.parametrize(
    "table",
    [
        ROWS,
        tuple(ROWS),
        iter(ROWS),
        (row for row in ROWS),
        PandasLike(ROWS),
        PolarsLike(ROWS),
        DatasetLike(ROWS),
        pyarrow.Table.from_pylist(ROWS),
        pyarrow.RecordBatch.from_pylist(ROWS),
        pyarrow.Table.from_pylist(ROWS).to_reader(max_chunksize=1),
        [pyarrow.RecordBatch.from_pylist(ROWS)],
        (pyarrow.Table.from_pylist([row]) for row in ROWS),
        pyarrow.dataset.dataset(pyarrow.Table.from_pylist(ROWS)),
        iter([PandasLike(ROWS[:1]), PandasLike(ROWS[1:])]),
        [PolarsLike(ROWS)],
        [("a", "b"), ["c", "d"]],
    ],
)
def test_collections_of_every_kind_hold_the_same_rows(table: Any) -> None:
    assert values_of(table) == ROWS


def test_long_table_of_pandas_is_read_in_parts() -> None:
    rows = [{"prompt": f"p{n}", "completion": "c"} for n in range(2500)]
    assert values_of(PandasLike(rows)) == rows


def test_values_of_libraries_become_those_of_python() -> None:
    turns = np.array([{"role": "user", "content": np.str_("a"), "weight": np.int64(1), "name": None}], dtype=object)
    (value,) = values_of([{"messages": turns, "score": np.float32(0.5), "id": NAType(), "ids": np.arange(2)}])
    assert value == {
        "messages": [{"role": "user", "content": "a", "weight": 1, "name": None}],
        "score": 0.5,
        "id": None,
        "ids": [0, 1],
    }
    assert type(value["messages"][0]["weight"]) is int


def test_examples_stay_as_they_are() -> None:
    example = Example.of_pair("a", "b")
    assert values_of([example])[0] is example


@pytest.mark.parametrize("item", [3, "ab", b"ab", ("a", "b", "c"), None, {"a"}])
def test_item_that_is_no_row_is_reported_by_its_position(item: Any) -> None:
    first, second = python_rows.read_items([("a", "b"), item])
    assert (first.problem, second.where, second.value) == ("", "example 2", None)
    assert type(item).__name__ in second.problem


def nest_list() -> list[Any]:
    value: list[Any] = []
    value += [value, value]
    return value


def nest_mapping() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value.update(left=value, right=[value])
    return value


def nest_row() -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": "a", "completion": "b"}
    row["extra"] = [row, row]
    return row


def share(width: int, depth: int) -> Any:
    """Return a list of lists that has few objects, but `width ** depth` values."""
    value: Any = "x"
    for _ in range(depth):
        value = [value] * width
    return value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "what"),
    [
        (nest_row(), "a value that holds itself"),
        ({"prompt": "a", "completion": nest_list()}, "a value that holds itself"),
        ({"prompt": "a", "completion": "b", "tools": nest_mapping()}, "a value that holds itself"),
        (nest_list(), "a value that holds itself"),
        ({"prompt": "a", "completion": "b", "extra": share(2, 60)}, "more than 1,048,576 values"),
        ({"prompt": "a", "completion": "b", "extra": share(3000, 2)}, "more than 1,048,576 values"),
        (("a", share(10, 30)), "more than 1,048,576 values"),
        ({"prompt": "a", "completion": "b", "extra": {"x": np.zeros(2**21)}}, "more than 1,048,576 values"),
    ],
)
def test_row_without_an_end_is_one_bad_row(row: Any, what: str) -> None:
    first, second = python_rows.read_items([row, ("a", "b")])
    assert (first.where, first.value) == ("example 1", None)
    assert what in first.problem
    assert second.value == {"prompt": "a", "completion": "b"}


def test_value_that_two_fields_share_is_no_circle() -> None:
    shared = ["x"]
    (value,) = values_of([{"prompt": "a", "completion": "b", "left": shared, "right": [shared, shared]}])
    assert value["right"] == [["x"], ["x"]]


@pytest.mark.parametrize("items", [3, None, b"rows", object()])
def test_value_without_rows_is_refused(items: Any) -> None:
    with pytest.raises(errors.InvalidDataset, match="which has no rows"):
        list(python_rows.read_items(items))


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(errors.InvalidDataset, match="two columns of one name"):
        list(python_rows.read_items(PandasLike(ROWS, ["prompt", "prompt"])))


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_splits_of_a_mapping_are_selected_by_name(name: str) -> None:
    splits = {"train": ROWS[:1], name: ROWS[1:]}
    assert python_rows.select_split(splits, "train", is_row) == ROWS[:1]
    assert python_rows.select_split(splits, "validation", is_row) == ROWS[1:]
    assert python_rows.select_split({"train": ROWS}, "validation", is_row) is None
    assert python_rows.select_split(ROWS, "validation", is_row) is None
    with pytest.raises(errors.InvalidDataset, match="mapping of test"):
        python_rows.select_split({"test": ROWS}, "train", is_row)


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": ["a", "c"], "completion": ("b", "d")},
        {"prompt": np.array(["a", "c"]), "completion": np.array(["b", "d"])},
        {"prompt": {0: "a", 1: "c"}, "completion": {0: "b", 1: "d"}},
    ],
)
def test_mapping_of_columns_is_a_table(columns: Any) -> None:
    assert python_rows.select_split(columns, "train", is_row) == ROWS
    assert python_rows.select_split(columns, "validation", is_row) is None


def test_rows_with_names_for_their_places_are_read_by_name() -> None:
    class Pair(NamedTuple):
        completion: str
        prompt: str

    (row,) = python_rows.read_items([Pair(completion="A", prompt="Q")])
    assert row.value == {"completion": "A", "prompt": "Q"}


def test_all_parts_of_the_validation_split_are_read() -> None:
    data = {"train": ROWS, "validation": ROWS[:1], "dev": PandasLike(ROWS), "val": iter(ROWS[1:])}
    found = python_rows.select_split(data, "validation", lambda row: True)
    assert [row.value for row in python_rows.read_items(found)] == [ROWS[0], ROWS[1], *ROWS]
    assert python_rows.list_other_splits(data, ("train", "validation")) == []
