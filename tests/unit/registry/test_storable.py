"""Values of foreign files, in a form that every database stores."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finch_hub.registry.storable import make_storable

HOSTILE: list[Any] = ["a\x00b", "\ud800", float("inf"), float("-inf"), float("nan"), "x" * 100_000]


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
@pytest.mark.parametrize("place", [lambda v: v, lambda v: [1, [v]], lambda v: {"a": {"b": v}}, lambda v: {str(v): [v]}])
def test_no_value_is_left_that_a_database_refuses(hostile: Any, place: Any) -> None:
    text = json.dumps(make_storable(place(hostile)), ensure_ascii=False, allow_nan=False)
    text.encode()
    assert "\\u0000" not in text
    assert len(text) < 1000


@pytest.mark.parametrize("value", [None, True, 3, 1e-4, "grün", ["a", {"b": [1.5]}], {"note": "two words"}])
def test_usual_values_stay(value: Any) -> None:
    assert make_storable(value) == value
