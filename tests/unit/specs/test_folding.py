"""Characters of texts that count in searches."""

from __future__ import annotations

import pytest

from finch_hub.specs import folding


@pytest.mark.parametrize("text", ["a", "7", "²", "٣", "Ⅷ", "日", "ー a", "-é-"])
def test_letters_and_digits_are_words(text: str) -> None:
    assert folding.has_word(text)


@pytest.mark.parametrize("text", ["", " ", "½", "①", "→", "😀", "\u0301", "\u0640", "\u00ad"])
def test_other_characters_are_no_words(text: str) -> None:
    assert not folding.has_word(text)


def test_letters_are_replaced_by_what_stays_as_it_is() -> None:
    letters = folding.list_letters()
    assert letters["й"] == "и"
    assert letters["ΐ"] == "ι"
    assert letters["أ"] == "ا"
    assert letters["\u00ad"] == ""
    assert "é" not in letters  # which FTS5 folds
    assert not {character for folded in letters.values() for character in folded} & letters.keys()


@pytest.mark.parametrize("between", ["–", "-", "·", "…", "/", "\u00a0", "，", "→", "½"])
def test_words_are_split_at_separators(between: str) -> None:
    assert folding.split_words(f"foo{between}bar") == ["foo", "bar"]


@pytest.mark.parametrize("inside", ["\u00ad", "²", "\u0301", "\u200d"])
def test_what_does_not_count_splits_no_word(inside: str) -> None:
    assert folding.split_words(f"foo{inside}bar") == [f"foo{inside}bar"]
