"""Cursors of pages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub import errors
from finch_hub.specs.cursors import read_cursor, write_cursor


def test_cursor_gives_the_key_back() -> None:
    assert read_cursor("list", write_cursor("list", ("ä/b", 3, 0.1)), (str, int, float)) == ("ä/b", 3, 0.1)


def test_cursor_of_another_list_is_refused() -> None:
    cursor = write_cursor("list", ("a", 3))
    for scope, kinds in (("other", (str, int)), ("list", (int, int)), ("list", (str,))):
        with pytest.raises(errors.InvalidSpec, match=r"after: is not a cursor of this list \(take it from the page"):
            read_cursor(scope, cursor, kinds)


@given(st.integers(min_value=0), st.characters())
def test_damaged_cursor_is_refused(place: int, character: str) -> None:
    cursor = write_cursor("list", ("a", 3))
    place %= len(cursor)
    damaged = cursor[:place] + character + cursor[place + 1 :]
    try:
        assert read_cursor("list", damaged, (str, int)) == ("a", 3)
    except errors.InvalidSpec:
        assert damaged != cursor


@given(st.text(max_size=50))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidSpec):
        read_cursor("list", text, (int,))
