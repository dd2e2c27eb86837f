"""JSON values of rows."""

from __future__ import annotations

import datetime
import decimal
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub import errors
from finch_hub.engine.data import json_values


@pytest.mark.parametrize("text", ["", "{", "[1,]", '{"a": 1, "a": 2}', "[" * 100_000, '{"a": {"b": 1, "b": 1}}'])
def test_text_that_is_not_one_json_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its texts are Python's
        json_values.parse(text)


@pytest.mark.parametrize("depth", [1, 600, 800])
def test_damage_is_found_at_any_depth(depth: int) -> None:
    for damaged, what in (('{"x": 1, "x": 2}', "a key twice"), ("1" * 5_000, "digits")):
        text = '{"a": [1, ' * (depth // 2) + damaged + "]}" * (depth // 2)
        assert what in str(json_values.find_damage(json_values.TOLERANT.decode(text)))
    assert json_values.find_damage(nest(depth)) is None


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


def test_list_of_python_of_a_million_characters_stays_a_text() -> None:
    text = f"[{' ' * (2**20 - 3)}]"
    assert json_values.parse_literal(text) == []
    assert json_values.parse_literal(f"{text} ") == f"{text} "


def nest(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if depth % 2 else [value]
    return value


@pytest.mark.parametrize("depth", [65, 300, 900, 20_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    assert json_values.clean(nest(64)) == nest(64)
    with pytest.raises(errors.InvalidSpec, match="is nested more than 64 deep"):
        json_values.clean(nest(depth))


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (datetime.datetime(2024, 1, 1), "holds datetime, which is not JSON"),
        (datetime.timedelta(1), "holds timedelta"),
        (b"a", "holds bytes"),
        ({1}, "holds set"),
        (decimal.Decimal(1), "holds Decimal"),
        (float("inf"), "holds inf"),
        ({5: 1}, "has a key that is int"),
        ({None: 1}, "has a key that is NoneType"),
    ],
)
def test_what_is_not_json_is_refused(value: Any, what: str) -> None:
    for outer in (value, [value], {"a": {"b": value}}):
        with pytest.raises(errors.InvalidSpec, match=what):
            json_values.clean(outer)


def test_nulls_are_kept_if_wanted() -> None:
    assert json_values.clean({"a": None, "b": [None]}, keeps_nulls=True) == {"a": None, "b": [None]}
    assert json_values.clean({"a": None, "b": [None]}) == {"b": [None]}


@pytest.mark.parametrize("width", [2, 1000])
def test_lists_that_share_their_items_are_refused_before_they_fill_the_memory(width: int) -> None:
    value: Any = "x"
    for _ in range(60):
        value = [value] * width
    with pytest.raises(errors.InvalidSpec, match="more than 1,048,576 values"):
        json_values.clean({"tools": value})


def test_integer_of_thousands_of_digits_is_refused_without_advice_about_python() -> None:
    with pytest.raises(ValueError, match=r"^a number has thousands of digits$"):
        json_values.parse(f'{{"a": {"1" * 100_000}}}')
