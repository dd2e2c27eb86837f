"""Division of examples into steps, micro-batches and shards."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub.engine.data import batch_plan
from finch_hub.engine.data.tokenized_examples import TokenizedExample


def example(ids: list[int], prompt: int) -> TokenizedExample:
    return TokenizedExample(input_ids=np.array(ids), labels=np.arange(len(ids)) >= prompt)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80), st.integers(1, 5), st.integers(1, 3), st.booleans())
def test_plan_has_every_example_once(lengths: list[int], size: int, accumulation: int, by_length: bool) -> None:
    steps = batch_plan.plan_epoch(
        lengths, batch_size=size, accumulation=accumulation, seed=1, epoch=0, by_length=by_length
    )
    assert Counter(index for step in steps for index in step) == Counter(range(len(lengths)))
    assert all(len(step) <= size * accumulation for step in steps)
    assert len(steps) == -(-len(lengths) // (size * accumulation))


def test_seed_and_epoch_decide_the_order() -> None:
    def plan(seed: int, epoch: int) -> list[tuple[int, ...]]:
        return batch_plan.plan_epoch([1] * 50, batch_size=4, accumulation=1, seed=seed, epoch=epoch, by_length=False)

    assert plan(1, 0) == plan(1, 0)
    assert plan(1, 0) != plan(1, 1)
    assert plan(1, 0) != plan(2, 0)


def test_plan_by_length_has_less_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 256).tolist()

    def padded(by_length: bool) -> int:
        steps = batch_plan.plan_epoch(lengths, batch_size=8, accumulation=1, seed=0, epoch=0, by_length=by_length)
        return sum(len(step) * max(lengths[index] for index in step) for step in steps)

    assert padded(True) < 0.75 * padded(False)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 6), st.none() | st.integers(1, 120))
def test_micro_batches_keep_to_count_and_token_budget(lengths: list[int], size: int, budget: int | None) -> None:
    micro = batch_plan.split_into_micro_batches(range(len(lengths)), lengths, batch_size=size, batch_tokens=budget)
    assert [index for some in micro for index in some] == list(range(len(lengths)))
    for some in micro:
        assert len(some) <= size
        assert budget is None or len(some) == 1 or len(some) * max(lengths[index] for index in some) <= budget


@pytest.mark.parametrize("budget", [None, 8])
def test_token_budget_splits_a_micro_batch(budget: int | None) -> None:
    micro = batch_plan.split_into_micro_batches(range(4), [4, 4, 4, 4], batch_size=4, batch_tokens=budget)
    assert len(micro) == (1 if budget is None else 2)


@given(st.lists(st.integers(1, 600), min_size=1, max_size=12), st.integers(1, 8))
def test_balance_keeps_every_index_once_in_parts_of_similar_weight(weights: list[int], ways: int) -> None:
    found = batch_plan.balance(weights, ways)
    assert len(found) == ways
    assert sorted(place for places in found for place in places) == list(range(len(weights)))
    loads = [sum(weights[place] for place in places) for places in found]
    assert max(loads) <= min(loads) + max(weights)


@given(st.lists(st.integers(2, 600), min_size=1, max_size=12), st.integers(1, 8))
def test_shards_have_every_example_once_and_enough_tokens(lengths: list[int], ways: int) -> None:
    some = [example([place + 1] * length, prompt=1) for place, length in enumerate(lengths)]
    found = batch_plan.split_into_shards(some, max_shards=ways, share_prefix=True)
    assert sorted(place for places in found for place in places) == list(range(len(lengths)))
    assert len(found) <= ways
    if len(found) > 1:
        assert min(sum(lengths[place] for place in places) for places in found) >= batch_plan.LEAST_TOKENS


def test_batch_that_is_mostly_prefix_is_not_divided() -> None:
    def some(prefix: int, own: int) -> list[TokenizedExample]:
        return [example([1] * prefix + [place] * own, prompt=prefix) for place in range(2, 10)]

    assert len(batch_plan.split_into_shards(some(20, 200), max_shards=2, share_prefix=True)) == 2
    assert len(batch_plan.split_into_shards(some(1000, 50), max_shards=2, share_prefix=True)) == 1
    assert len(batch_plan.split_into_shards(some(1000, 50), max_shards=2, share_prefix=False)) == 2
