"""JSON values of rows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub.engine.data import json_values


@pytest.mark.parametrize("text", ["", "{", "[1,]", '{"a": 1, "a": 2}', "[" * 100_000, '{"a": {"b": 1, "b": 1}}'])
def test_text_that_is_not_one_json_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its texts are Python's
        json_values.parse(text)


def test_nulls_of_objects_are_dropped_at_any_depth_and_those_of_lists_stay() -> None:
    value: dict[str, Any] = {"a": None, "b": {"c": float("nan"), "d": [{"e": None}, None, 0]}, "f": "", "g": []}
    assert json_values.clean(value) == {"b": {"d": [{}, None, 0]}, "f": "", "g": []}
    assert json_values.drop_nulls(value).keys() == {"b", "f", "g"}


def test_keys_of_schemas_have_one_order_and_names_of_parameters_keep_theirs() -> None:
    schema = {
        "function": {
            "parameters": {
                "properties": {"unit": {"enum": ["b", "a"], "type": "string"}, "city": {}},
                "type": "object",
            },
            "name": "look",
        },
        "type": "function",
    }
    assert json.dumps(json_values.order_keys(schema)) == json.dumps(
        {
            "type": "function",
            "function": {
                "name": "look",
                "parameters": {
                    "type": "object",
                    "properties": {"unit": {"type": "string", "enum": ["b", "a"]}, "city": {}},
                },
            },
        }
    )


def test_parameter_with_the_name_of_a_keyword_keeps_its_place() -> None:
    properties = {"zone": {}, "type": {}, "properties": {"type": "object", "properties": {"b": {}, "a": {}}}}
    ordered = json_values.order_keys({"properties": properties})
    assert json.dumps(ordered) == json.dumps({"properties": properties})
    call = {"arguments": {"zone": 1, "name": {"b": 1, "a": 2}}, "name": "f"}
    assert json.dumps(json_values.order_keys(call)) == json.dumps({"name": "f", "arguments": call["arguments"]})


@given(st.recursive(st.none() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_order_of_keys_changes_no_value_and_is_stable(value: Any) -> None:
    ordered = json_values.order_keys(value)
    assert ordered == value
    assert json.dumps(json_values.order_keys(ordered)) == json.dumps(ordered)


def test_list_of_python_is_read_and_code_is_not_run() -> None:
    assert json_values.parse_literal("[{'a': \"it's\", 'b': None}]") == [{"a": "it's", "b": None}]
    for text in ("[print(1)]", "[1", "hello", "[" * 10_000, "{'a': 1}"):
        assert json_values.parse_literal(text) == text
