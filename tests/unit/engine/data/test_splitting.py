"""Split of a dataset into training and validation."""

from __future__ import annotations

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub.engine.data import splitting
from finch_hub.specs.examples import Example, Message


def examples(*numbers: int) -> list[Example]:
    return [Example.of_pair(f"What is {number}?", f"It is {number}.") for number in numbers]


def answers(prompt: str, count: int) -> list[Example]:
    return [Example.of_pair(prompt, f"Answer {number}.") for number in range(count)]


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


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3)), min_size=1, max_size=60),
    st.floats(0.01, 0.9),
    st.integers(0, 5),
)
def test_share_holds_within_the_size_of_one_group(pairs: list[tuple[int, int]], share: float, seed: int) -> None:
    data = [Example.of_pair(f"What is {prompt}?", f"It is {answer}.") for prompt, answer in pairs]
    train, held_out = splitting.split_examples(data, share, seed)
    sizes = collections.Counter(prompt for prompt, _ in pairs)
    if len(sizes) > 1:
        assert splitting.count_shared_prompts(train, held_out) == 0
        target = max(1, round(share * len(data)))
        assert abs(len(held_out) - target) <= max(sizes.values())


@pytest.mark.parametrize("seed", range(5))
def test_many_copies_of_one_row_do_not_change_the_share(seed: int) -> None:
    data = [*examples(*[0] * 60), *examples(*range(1, 41))]
    assert len(splitting.split_examples(data, 0.1, seed)[1]) == 10


@pytest.mark.parametrize("seed", range(5))
def test_answers_to_one_prompt_stay_on_one_side(seed: int) -> None:
    data = [example for number in range(50) for example in answers(f"What is {number}?", 2)]
    train, held_out = splitting.split_examples(data, 0.1, seed)
    assert len(held_out) == 10
    assert splitting.count_shared_prompts(train, held_out) == 0


def test_dialogues_that_begin_alike_stay_on_one_side() -> None:
    def talk(number: int, follow_up: str) -> Example:
        turns = [Message(role="user", content=f"What is {number}?"), Message(role="assistant", content="A number.")]
        turns += [Message(role="user", content=follow_up), Message(role="assistant", content="Yes.")]
        return Example(messages=tuple(turns))

    data = [talk(number, follow_up) for number in range(20) for follow_up in ("Sure?", "Even?")]
    train, held_out = splitting.split_examples(data, 0.2, 0)
    assert len(held_out) == 8
    assert splitting.count_shared_prompts(train, held_out) == 0


def test_data_of_one_prompt_is_divided_between_its_answers() -> None:
    data = answers("Tell a joke.", 20) * 2
    train, held_out = splitting.split_examples(data, 0.1, 0)
    assert len(held_out) == 4
    assert splitting.count_overlap(train, held_out) == 0
    assert splitting.count_shared_prompts(train, held_out) == 4


def test_two_large_groups_leave_one_for_training() -> None:
    train, held_out = splitting.split_examples([*answers("a", 60), *answers("b", 40)], 0.1, 0)
    assert (len(train), len(held_out)) == (60, 40)


def test_seed_decides_the_split_and_row_order_does_not() -> None:
    data = examples(*range(100))
    first = splitting.split_examples(data, 0.2, 1)[1]
    assert len(first) == 20
    assert set(splitting.split_examples(data[::-1], 0.2, 1)[1]) == set(first)
    assert set(splitting.split_examples(data, 0.2, 2)[1]) != set(first)


def test_few_rows_change_sides_when_others_are_added() -> None:
    before = splitting.split_examples(examples(*range(200)), 0.1, 0)[1]
    after = splitting.split_examples(examples(*range(210)), 0.1, 0)[1]
    assert len(set(before) & set(after)) >= 17


def test_counts_of_duplicates_and_overlap_ignore_whitespace() -> None:
    spaced = Example.of_pair("What  is 1?", "It is\n1.")
    assert splitting.count_duplicates([*examples(1, 2, 2), spaced]) == 2
    assert splitting.count_overlap(examples(1, 2), [spaced, *examples(3)]) == 1
    assert splitting.count_overlap(examples(1, 1), [spaced, spaced]) == 2


def test_shared_prompts_are_counted_whatever_the_answers() -> None:
    assert splitting.count_shared_prompts(answers("a", 3), [*answers("a", 2), *answers("b", 2)]) == 2
    assert splitting.count_shared_prompts([], answers("a", 2)) == 0


def test_calls_and_reasoning_distinguish_examples() -> None:
    def answer(**fields: object) -> Example:
        turns = (Message(role="user", content="a"), Message.of({"role": "assistant", "content": "b", **fields}))
        return Example(messages=turns)

    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    variants = [answer(), answer(reasoning="c"), answer(tool_calls=[call]), answer(reasoning="c", tool_calls=[call])]
    assert splitting.count_duplicates(variants) == 0
    assert splitting.count_duplicates(variants * 2) == 4


def test_rows_that_rest_on_other_documents_or_tools_are_not_copies() -> None:
    pair = Example.of_pair("Is it true?", "yes")
    documents = [pair.evolve(documents=({"title": "", "text": f"It is {number}."},)) for number in range(5)]
    tools = [pair.evolve(tools=({"type": "function", "function": {"name": f"f{number}"}},)) for number in range(5)]
    rows = [pair, *documents, *tools]
    assert splitting.count_duplicates(rows) == 0
    assert splitting.count_shared_prompts(documents[:2], documents[2:]) == 0
    assert len(splitting.split_examples(rows, 0.2, 0)[1]) == 2
