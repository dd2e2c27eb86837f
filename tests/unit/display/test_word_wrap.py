"""Wrapping of answers, of which a piece at a time is known."""

from __future__ import annotations

import itertools

import pytest

from finch_hub.display.word_wrap import WordWrap

TEXT = "A finch is a small bird. It eats seeds,\n\n  and sings at dawn.\nThe end."


def wrap(text: str, width: int | None, *, indent: str = "", size: int = 1) -> str:
    wrapped = WordWrap(width, indent=indent)
    pieces = [text[place : place + size] for place in range(0, len(text), size)]
    return "".join(map(wrapped.add, pieces)) + wrapped.end()


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("width", [10, 24, 60])
def test_lines_are_as_wide_as_the_terminal_and_no_word_is_split(width: int, size: int) -> None:
    lines = wrap(TEXT, width, size=size).split("\n")
    assert max(map(len, lines)) <= width
    assert [word for line in lines for word in line.split()] == TEXT.split()
    assert "" in lines
    for line, following in itertools.pairwise(lines):
        word = following.split(" ")[0]
        is_end = not line or not word or line.endswith(("seeds,", "dawn."))
        assert is_end or len(f"{line} {word}") > width, "the next word had room"


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_without_a_width_a_text_stays_itself(size: int) -> None:
    text = f"{TEXT} \n  "
    assert wrap(text, None, size=size) == text
    assert wrap("a\nb", None, indent="  ", size=size) == "  a\n  b"


def test_each_line_is_indented() -> None:
    assert wrap("one two three\nfour", 9, indent="  ") == "  one two\n  three\n  four"
    assert wrap("    code here", 11) == "    code\nhere"


def test_word_that_is_longer_than_a_line_is_not_split() -> None:
    assert wrap("see https://example.org/finches now", 12) == "see\nhttps://example.org/finches\nnow"


def test_wide_letters_take_two_cells() -> None:
    assert wrap("雀雀 雀雀", 8) == "雀雀 雀\n雀"
    assert wrap("café雀 finch", 8) == "café雀\nfinch"


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_line_ends_behind_any_wide_letter(size: int) -> None:
    assert wrap("雀は小さな鳥です", 8, indent="  ", size=size) == "  雀は小\n  さな鳥\n  です"
    assert wrap("小さなfinchです", 8, size=size) == "小さな\nfinchで\nす"


def test_letters_without_spaces_are_written_at_once() -> None:
    wrapped = WordWrap(8)
    assert [wrapped.add(piece) for piece in ("一", "雀は", "小さ")] == ["一", "雀は", "小\nさ"]


def test_word_is_kept_back_only_while_it_may_fit_the_line() -> None:
    wrapped = WordWrap(8)
    assert wrapped.add("a น") == "a"
    assert wrapped.add("กกระ") == ""
    assert wrapped.add("จอกเล็") == "\nนกกระจอกเล็"
    assert [wrapped.add(piece) for piece in ("ก", "มาก")] == ["ก", "มาก"]
    assert wrapped.end() == ""
