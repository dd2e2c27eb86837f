"""Tables that are one object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from finch_hub.engine.data.table_objects import find_rows

ROWS = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def is_row(value: Mapping[str, Any]) -> bool:
    return {"prompt", "completion"} <= value.keys() or "messages" in value


@pytest.mark.parametrize(
    "table",
    [
        {"prompt": ["a", "c"], "completion": ["b", "d"]},
        {"prompt": {"0": "a", "1": "c"}, "completion": {"0": "b", "1": "d"}},
        {"prompt": {"x": "a", "y": "c"}, "completion": {"x": "b", "y": "d"}},
        {"prompt": {0: "a", 1: "c"}, "completion": {0: "b", 1: "d"}},
        {"0": ROWS[0], "1": ROWS[1]},
        {"first": ROWS[0], "second": ROWS[1]},
        {"columns": ["prompt", "completion"], "index": [0, 1], "data": [["a", "b"], ["c", "d"]]},
    ],
)
def test_each_form_of_pandas_and_of_columns_holds_the_rows(table: dict[str, Any]) -> None:
    assert find_rows(table, is_row) == ROWS


def test_column_of_conversations_is_a_column() -> None:
    assert find_rows({"messages": [TURNS, TURNS]}, is_row) == [{"messages": TURNS}, {"messages": TURNS}]


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"prompt": [], "completion": []},
        {"messages": TURNS},
        {"messages": {"role": ["user", "assistant"], "content": ["a", "b"]}},
        {"prompt": TURNS[:1], "completion": TURNS[1:]},
        {"prompt": TURNS[0], "completion": TURNS[1]},
        {"prompt": ["a", "b"], "completion": ["c"]},
        {"prompt": ["a"], "completion": "c"},
        {"loss": [1, 2], "step": [3, 4]},
        {"columns": ["prompt", "completion"], "data": [["a"], ["c", "d"]]},
        {"model": {"a": 1}, "training": {"a": 2}},
    ],
)
def test_row_or_settings_are_no_table(value: dict[str, Any]) -> None:
    assert find_rows(value, is_row) is None
