"""Untrusted JSON: what Python's parser accepts, and code that reads it does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub.formats.json_checks import MAX_DEPTH, UnusableTextError, parse_object


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("", "Expecting value"),
        ('{"a":' * 100_000, "nested more than 64 deep"),
        ('{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), "nested more than 64 deep"),
        ('{"a":' + "[" * 500 + "]" * 500 + "}", "nested more than 64 deep"),
        (r'{"a": ["\ud800"]}', "half of a surrogate pair"),
        (r'{"\udfff": 1}', "half of a surrogate pair"),
        (b'{"a": "\xff"}', "can't decode"),
        ('{"a": ' + "9" * 5000 + "}", "digits"),
    ],
)
def test_text_that_is_no_usable_object_is_a_value_error(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_object(text)


def test_places_of_unusable_texts_are_told() -> None:
    with pytest.raises(UnusableTextError) as caught:
        parse_object(r'{"a": [1, {"b": "\ud800"}], "c": {"\udfff": 1}, "d": "good"}')
    assert set(caught.value.places) == {("a", 1, "b"), ("c", "\udfff")}


def test_object_of_the_largest_depth_is_read() -> None:
    value: Any = parse_object('{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH)
    for _ in range(MAX_DEPTH):
        value = value["a"]
    assert value == 1
    assert parse_object(r'{"a": "\ud83d\ude00"}') == {"a": "\U0001f600"}


@given(st.binary(max_size=100) | st.text('{}[]":,a1\\u d8', max_size=100))
def test_any_text_is_an_object_or_a_value_error(text: bytes | str) -> None:
    try:
        assert isinstance(parse_object(text), dict)
    except ValueError:
        return
