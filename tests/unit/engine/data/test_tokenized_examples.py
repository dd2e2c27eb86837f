from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub.engine.data import tokenized_examples
from finch_hub.engine.data.tokenized_examples import TokenizedExample, TokenizedExamples

TOKENS = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1, max_size=9)


def make(tokens: list[tuple[int, bool]]) -> TokenizedExample:
    ids, labels = zip(*tokens, strict=True)
    return TokenizedExample(input_ids=np.array(ids), labels=np.array(labels), cut=len(tokens))


def content(example: TokenizedExample) -> tuple[bytes, bytes, int]:
    assert (example.input_ids.dtype, example.labels.dtype) == (np.int64, np.bool_)
    return example.input_ids.tobytes(), example.labels.tobytes(), example.cut


@given(rows=st.lists(TOKENS, max_size=6), limit=st.integers(0, 500))
def test_examples_are_the_same_in_memory_and_in_a_file(rows: list[list[tuple[int, bool]]], limit: int) -> None:
    """Without tokens to keep, all are in the file; with some, it takes over at one of the rows."""
    expected = [make(row) for row in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenized_examples, "MAX_TOKENS_IN_MEMORY", limit)
        found = TokenizedExamples(expected)
    needed = sum(map(len, rows)) + 64 * len(rows)
    assert found.is_in_memory == (needed <= limit or not rows)
    assert len(found) == len(rows)
    assert found.lengths.tolist() == [len(row) for row in rows]
    assert [content(row) for row in found] == [content(row) for row in expected]
    assert [content(found[place]) for place in range(len(rows))] == [content(row) for row in expected]
    assert [content(row) for row in found[1:-1]] == [content(row) for row in expected[1:-1]]
    if rows:
        assert content(found[-1]) == content(expected[-1])
    with pytest.raises(IndexError):
        found[len(rows)]


def test_examples_can_be_added_after_some_were_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenized_examples, "MAX_TOKENS_IN_MEMORY", 0)
    found = TokenizedExamples()
    for number in range(3):
        found.append(make([(number, False), (7, True)]))
        assert [int(row.input_ids[0]) for row in found] == list(range(number + 1))
