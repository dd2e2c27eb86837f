"""Split of a dataset into training and validation."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from finch_hub.engine.data import splitting
from finch_hub.specs.examples import Example


def examples(*numbers: int) -> list[Example]:
    return [Example.of_pair(f"What is {number}?", f"It is {number}.") for number in numbers]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.floats(0, 0.9), st.integers(0, 5))
def test_split_divides_all_examples_and_keeps_copies_together(numbers: list[int], share: float, seed: int) -> None:
    data = examples(*numbers)
    train, held_out = splitting.split_examples(data, share, seed)
    assert train
    assert sorted(map(repr, train + held_out)) == sorted(map(repr, data))
    assert splitting.count_overlap(train, held_out) == 0
    assert (share == 0) <= (not held_out)
    if len(set(numbers)) > 1 and share > 0:
        assert held_out


def test_seed_decides_the_split_and_row_order_does_not() -> None:
    data = examples(*range(100))
    first = splitting.split_examples(data, 0.2, 1)[1]
    assert len(first) == 20
    assert set(splitting.split_examples(data[::-1], 0.2, 1)[1]) == set(first)
    assert set(splitting.split_examples(data, 0.2, 2)[1]) != set(first)


def test_counts_of_duplicates_and_overlap_ignore_whitespace() -> None:
    spaced = Example.of_pair("What  is 1?", "It is\n1.")
    assert splitting.count_duplicates([*examples(1, 2, 2), spaced]) == 2
    assert splitting.count_overlap(examples(1, 2), [spaced, *examples(3)]) == 1
