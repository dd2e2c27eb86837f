"""Packed batches."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from finch_hub.engine.data import batches
from finch_hub.engine.data.tokenized_examples import TokenizedExample


def example(ids: list[int], prompt: int) -> TokenizedExample:
    return TokenizedExample(input_ids=np.array(ids), labels=np.arange(len(ids)) >= prompt)


FIRST, SECOND = example([7, 8, 1, 2, 3], prompt=3), example([7, 8, 4, 5], prompt=2)


def test_pack_puts_examples_end_to_end() -> None:
    batch = batches.pack([FIRST, SECOND], share_prefix=False)
    assert batch.input_ids.tolist() == [7, 8, 1, 2, 3, 7, 8, 4, 5]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert batch.targets.tolist() == [2, 3, 4, 5]
    assert batch.sources.tolist() == [2, 3, 6, 7]
    assert batch.owners.tolist() == [0, 0, 1, 1]
    assert batch.spans == ((0, 5), (5, 9))


def test_pack_keeps_one_copy_of_a_shared_prefix() -> None:
    batch = batches.pack([FIRST, SECOND], share_prefix=True)
    assert batch.prefix == 2
    assert batch.input_ids.tolist() == [7, 8, 1, 2, 3, 4, 5]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 2, 3]
    assert batch.targets.tolist() == [2, 3, 4, 5]
    assert batch.sources.tolist() == [2, 3, 1, 5]
    assert batch.tokens == 9


def test_shared_prefix_has_no_labels_and_leaves_a_token_to_every_example() -> None:
    same = example([1, 2, 3, 4], prompt=3)
    assert batches.count_shared_prefix([same, same]) == 3
    assert batches.count_shared_prefix([example([1, 2, 3, 4], prompt=1), same]) == 1


examples = st.lists(
    st.lists(st.integers(0, 2), min_size=2, max_size=8).flatmap(
        lambda ids: st.builds(example, st.just(ids), st.integers(1, len(ids) - 1))
    ),
    min_size=1,
    max_size=6,
)


@given(examples, st.booleans())
def test_source_of_a_target_sees_the_tokens_before_it_in_its_example(
    members: list[TokenizedExample], share_prefix: bool
) -> None:
    batch = batches.pack(members, share_prefix=share_prefix)
    found = []
    for source, target, owner in zip(batch.sources, batch.targets, batch.owners, strict=True):
        begin, _ = batch.spans[owner]
        seen = [*batch.input_ids[: batch.prefix], *batch.input_ids[begin : max(begin, int(source) + 1)]]
        if source < batch.prefix:
            seen = list(batch.input_ids[: int(source) + 1])
        found.append((int(owner), [int(token) for token in seen], int(target)))
    expected = [
        (owner, member.input_ids[:place].tolist(), int(member.input_ids[place]))
        for owner, member in enumerate(members)
        for place in member.labels.nonzero()[0]
    ]
    assert found == expected
