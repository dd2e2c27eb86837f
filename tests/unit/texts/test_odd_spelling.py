from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub.texts import odd_spelling


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a%3Db %253d %2g 100%", "a=b = %2g 100%"),
        ("\\x3d \\\\u003D \\n", "= = \\n"),
        ("&quot;&#61;&#x3d;&nope;&amp", '"==&nope;&amp'),
        ("\x1b[31mred\x1b[0m\x00", "red "),
        ("a\u200b\xadb\ufeff", "ab"),
        ("\uff1d\U0001d41a", "=a"),
        ("p\u0430\u0455s", "pass"),
        ("\u043f\u0430\u0440\u043e\u043b\u044c \u0430", "\u043f\u0430\u0440\u043e\u043b\u044c \u0430"),
    ],
)
def test_odd_spelling_is_read(text: str, plain: str) -> None:
    assert odd_spelling.read(text)[0] == plain


def test_text_without_odd_spellings_is_returned_itself() -> None:
    text = "the finch sings\non\ttime"
    assert odd_spelling.read(text)[0] is text


def test_ordinary_characters_of_all_scripts_are_no_signs() -> None:
    text = "\u96c0\uff0c\u00e9\u0628\U0001f426\u2014\u3002 \n\tz$7"
    assert odd_spelling._SIGN.search(text) is None


@given(st.lists(st.sampled_from(["%41", "&lt;", "\x1b[0m", "\u200b", "\uff21", "\u0430", "a", " "]), max_size=12))
def test_each_place_is_that_of_the_same_character(pieces: list[str]) -> None:
    text = "".join(pieces)
    plain, place = odd_spelling.read(text)
    for position, character in enumerate(plain):
        start, end = place(position), place(position + 1)
        assert start < end
        assert character in odd_spelling.read(text[start:end])[0] or character == text[start] or text[start] == "\u0430"
    assert place(len(plain)) <= len(text)
