"""Examples that differ from others in few words."""

from __future__ import annotations

import random

import pytest

from finch_hub.engine.data import near_duplicates
from finch_hub.engine.data.near_duplicates import count_near_duplicates
from finch_hub.progress import Advance
from finch_hub.specs.examples import Example

WORDS = [f"word{n}" for n in range(2000)]


def draw(generator: random.Random, length: int = 40) -> list[str]:
    return [generator.choice(WORDS) for _ in range(length)]


def pair(words: list[str]) -> Example:
    half = len(words) // 2
    return Example.of_pair(" ".join(words[:half]), " ".join(words[half:]))


def test_texts_that_differ_in_one_word_of_forty_are_counted() -> None:
    generator = random.Random(0)
    texts = [draw(generator) for _ in range(300)]
    changed = [[*words[:n], "changed", *words[n + 1 :]] for words in texts for n in (generator.randrange(40),)]
    found = count_near_duplicates([pair(words) for words in texts], [pair(words) for words in changed])
    assert 250 < found <= 300
    others = [pair(draw(generator)) for _ in range(300)]
    assert count_near_duplicates([pair(words) for words in texts], others) == 0


def test_equal_texts_are_not_near_duplicates() -> None:
    texts = [pair(draw(random.Random(n))) for n in range(20)]
    assert count_near_duplicates(texts, texts) == 0
    assert count_near_duplicates(texts, []) == count_near_duplicates([], texts) == 0


def test_rows_that_differ_in_case_punctuation_or_system_prompt_are_near() -> None:
    train = [Example.of_pair("what does a finch eat", "it eats seeds and small insects", "You know birds.")]
    held_out = [Example.of_pair("What does a finch eat?", "It eats seeds, and small insects!", "Be brief.")]
    assert count_near_duplicates(train, held_out) == 1
    held_out = [Example.of_pair("What does a finch eat?", "It eats seeds, and small insects today.")]
    assert count_near_duplicates(train, held_out) == 1
    spaced = [Example.of_pair("what does  a finch eat", "it eats seeds and small insects ", "You know birds.")]
    assert count_near_duplicates(train, spaced) == 0  # equal rows, which the overlap counts


def test_long_rows_that_differ_where_words_are_not_compared_are_near() -> None:
    words = [f"w{n}" for n in range(1000)]
    row = Example.of_pair("Tell me.", " ".join(words))
    for place in (10, 500, 990):
        other = Example.of_pair("Tell me.", " ".join([*words[:place], "other", *words[place + 1 :]]))
        assert count_near_duplicates([row], [other]) == 1


@pytest.mark.parametrize("number", range(3))
def test_short_texts_that_differ_in_a_name_or_number_are_others(number: int) -> None:
    train = [Example.of_pair(f"What does finch {n} eat?", f"Seed {n}.") for n in range(10, 200)]
    assert count_near_duplicates(train, [Example.of_pair(f"What does finch {number} eat?", f"Seed {number}.")]) == 0


def test_texts_without_blanks_are_compared_by_characters() -> None:
    text = "雀鸟在春天里唱歌并且在树上筑巢因为它们喜欢这里的气候和食物以及山川"
    assert count_near_duplicates([Example(text=text)], [Example(text=f"{text}河")]) == 1
    assert count_near_duplicates([Example(text=text)], [Example(text=text[::-1])]) == 0


def test_long_instruction_that_all_rows_share_is_found_in_linear_time() -> None:
    rows = [Example.of_pair(f"{' '.join(WORDS[:300])} {n}", "a") for n in range(300)]
    assert count_near_duplicates(rows[:200], rows[200:]) == 100


@pytest.mark.parametrize("answers", ["yes no maybe", "finch", "same"])
def test_texts_that_are_found_grow_with_the_validation_rows_only(answers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One prompt with short answers gives all rows the same bands."""
    found = 0
    find = near_duplicates._Index.find

    def count(index: near_duplicates._Index, words: near_duplicates.Words) -> list[int]:
        nonlocal found
        numbers = find(index, words)
        found += len(numbers)
        return numbers

    monkeypatch.setattr(near_duplicates._Index, "find", count)
    prompt = " ".join(WORDS[:200])
    choices = answers.split()
    rows = [
        Example.of_pair(prompt, f"{choices[n % len(choices)]} {n if answers == 'finch' else ''}") for n in range(3_000)
    ]
    count_near_duplicates(rows[:2_000], rows[2_000:])
    assert 1_000 <= found <= 20 * 1_000


def test_progress_is_told(told: list[Advance]) -> None:
    rows = [Example.of_pair(f"What does bird {n} of the garden eat?", "Seeds.") for n in range(45)]
    near_duplicates.count_near_duplicates(rows[:20], rows[20:])
    assert [(advance.work, advance.done, advance.total) for advance in told] == [
        *(("comparing held-out rows", done, 25) for done in range(1, 26)),
        *(("comparing rows with held-out ones", done, 20) for done in range(1, 21)),
    ]
