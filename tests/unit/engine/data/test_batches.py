from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub.engine.data import batches
from finch_hub.engine.data.tokenizing import TokenizedExample


def example(ids: list[int], prompt: int) -> TokenizedExample:
    return TokenizedExample(input_ids=np.array(ids), labels=np.arange(len(ids)) >= prompt)


FIRST, SECOND = example([7, 8, 1, 2, 3], prompt=3), example([7, 8, 4, 5], prompt=2)


def test_packed_examples_lie_end_to_end_and_every_target_has_the_place_before_it() -> None:
    batch = batches.pack([FIRST, SECOND], share_prefix=False)
    assert batch.input_ids.tolist() == [7, 8, 1, 2, 3, 7, 8, 4, 5]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert batch.targets.tolist() == [2, 3, 4, 5]
    assert batch.sources.tolist() == [2, 3, 6, 7]
    assert batch.owners.tolist() == [0, 0, 1, 1]
    assert batch.spans == ((0, 5), (5, 9))


def test_a_shared_prefix_stands_once_and_predicts_first_tokens_of_several_examples() -> None:
    batch = batches.pack([FIRST, SECOND], share_prefix=True)
    assert batch.prefix == 2
    assert batch.input_ids.tolist() == [7, 8, 1, 2, 3, 4, 5]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 2, 3]
    assert batch.targets.tolist() == [2, 3, 4, 5]
    assert batch.sources.tolist() == [2, 3, 1, 5]
    assert batch.tokens == 9


def test_no_learnt_token_is_shared_and_every_example_keeps_a_token_of_its_own() -> None:
    same = example([1, 2, 3, 4], prompt=3)
    assert batches.shared_prefix([same, same]) == 3
    assert batches.shared_prefix([example([1, 2, 3, 4], prompt=1), same]) == 1


examples = st.lists(
    st.lists(st.integers(0, 2), min_size=2, max_size=8).flatmap(
        lambda ids: st.builds(example, st.just(ids), st.integers(1, len(ids) - 1))
    ),
    min_size=1,
    max_size=6,
)


@given(examples, st.booleans())
def test_what_a_source_has_seen_is_what_precedes_its_target_in_its_example(
    some: list[TokenizedExample], share_prefix: bool
) -> None:
    batch = batches.pack(some, share_prefix=share_prefix)
    found = []
    for source, target, owner in zip(batch.sources, batch.targets, batch.owners, strict=True):
        begin, _ = batch.spans[owner]
        seen = [*batch.input_ids[: batch.prefix], *batch.input_ids[begin : max(begin, int(source) + 1)]]
        if source < batch.prefix:
            seen = list(batch.input_ids[: int(source) + 1])
        found.append((int(owner), [int(token) for token in seen], int(target)))
    expected = [
        (owner, one.input_ids[:place].tolist(), int(one.input_ids[place]))
        for owner, one in enumerate(some)
        for place in one.labels.nonzero()[0]
    ]
    assert found == expected


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=80),
    st.integers(1, 5),
    st.integers(1, 3),
    st.booleans(),
)
def test_every_example_comes_once_an_epoch(lengths: list[int], size: int, accumulation: int, by_length: bool) -> None:
    steps = batches.plan_epoch(
        lengths, batch_size=size, accumulation=accumulation, seed=1, epoch=0, by_length=by_length
    )
    assert Counter(index for step in steps for index in step) == Counter(range(len(lengths)))
    assert all(len(step) <= size * accumulation for step in steps)
    assert len(steps) == -(-len(lengths) // (size * accumulation))


def test_seed_and_epoch_decide_the_order() -> None:
    def plan(seed: int, epoch: int) -> list[tuple[int, ...]]:
        return batches.plan_epoch([1] * 50, batch_size=4, accumulation=1, seed=seed, epoch=epoch, by_length=False)

    assert plan(1, 0) == plan(1, 0)
    assert plan(1, 0) != plan(1, 1)
    assert plan(1, 0) != plan(2, 0)


def test_batches_by_length_have_less_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 256).tolist()

    def padded(by_length: bool) -> int:
        steps = batches.plan_epoch(lengths, batch_size=8, accumulation=1, seed=0, epoch=0, by_length=by_length)
        return sum(len(step) * max(lengths[index] for index in step) for step in steps)

    assert padded(True) < 0.75 * padded(False)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 6), st.none() | st.integers(1, 120))
def test_micro_batches_keep_to_count_and_token_budget(lengths: list[int], size: int, budget: int | None) -> None:
    micro = batches.micro_batches(range(len(lengths)), lengths, batch_size=size, batch_tokens=budget)
    assert [index for some in micro for index in some] == list(range(len(lengths)))
    for some in micro:
        assert len(some) <= size
        assert budget is None or len(some) == 1 or len(some) * max(lengths[index] for index in some) <= budget


@pytest.mark.parametrize("budget", [None, 8])
def test_a_budget_splits_what_the_count_alone_would_not(budget: int | None) -> None:
    micro = batches.micro_batches(range(4), [4, 4, 4, 4], batch_size=4, batch_tokens=budget)
    assert len(micro) == (1 if budget is None else 2)


@given(st.lists(st.integers(1, 600), min_size=1, max_size=12), st.integers(1, 8))
def test_balanced_ways_hold_every_place_once_and_none_is_heavier_than_it_must(weights: list[int], ways: int) -> None:
    found = batches.balanced(weights, ways)
    assert len(found) == ways
    assert sorted(place for places in found for place in places) == list(range(len(weights)))
    loads = [sum(weights[place] for place in places) for places in found]
    assert max(loads) <= min(loads) + max(weights)


@given(st.lists(st.integers(2, 600), min_size=1, max_size=12), st.integers(1, 8))
def test_shards_hold_every_example_once_and_enough_tokens_each(lengths: list[int], ways: int) -> None:
    some = [example([place + 1] * length, prompt=1) for place, length in enumerate(lengths)]
    found = batches.shards(some, ways=ways, share_prefix=True)
    assert sorted(place for places in found for place in places) == list(range(len(lengths)))
    assert len(found) <= ways
    if len(found) > 1:
        assert min(sum(lengths[place] for place in places) for places in found) >= batches.LEAST_TOKENS


def test_a_batch_whose_prefix_is_most_of_it_is_not_divided() -> None:
    def some(prefix: int, own: int) -> list[TokenizedExample]:
        return [example([1] * prefix + [place] * own, prompt=prefix) for place in range(2, 10)]

    assert len(batches.shards(some(20, 200), ways=2, share_prefix=True)) == 2
    assert len(batches.shards(some(1000, 50), ways=2, share_prefix=True)) == 1
    assert len(batches.shards(some(1000, 50), ways=2, share_prefix=False)) == 2
