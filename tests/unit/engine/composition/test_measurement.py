"""Division of validation rows between a search and its report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from finch_hub.engine.composition.measurement import ValidationRows, divide
from finch_hub.engine.data.tokenized_examples import TokenizedExample


def row(prompt: Sequence[int], answer: Sequence[int]) -> TokenizedExample:
    labels = np.array([False] * len(prompt) + [True] * len(answer))
    return TokenizedExample(input_ids=np.array([*prompt, *answer]), labels=labels)


def bytes_of(rows: Sequence[TokenizedExample]) -> list[bytes]:
    return [row.input_ids.tobytes() for row in rows]


def pairs(count: int) -> list[TokenizedExample]:
    return [row([1, 2, 10 + number], [5, 10 + number]) for number in range(count)]


def check_apart(divided: ValidationRows) -> None:
    assert divided.is_divided
    assert divided.selection
    assert divided.report
    assert not set(bytes_of(divided.selection)) & set(bytes_of(divided.report))


def test_every_second_row_is_searched_on() -> None:
    rows = pairs(100)
    divided = divide(rows)
    assert bytes_of(divided.selection) == bytes_of(rows[:48:2])
    assert bytes_of(divided.report) == bytes_of([*rows[1:48:2], *rows[48:]])


@pytest.mark.parametrize("copies", [2, 3])
@pytest.mark.parametrize("is_interleaved", [True, False])
def test_report_has_no_copy_of_a_row_that_was_searched_on(copies: int, is_interleaved: bool) -> None:
    rows = pairs(40)
    check_apart(divide([r for r in rows for _ in range(copies)] if is_interleaved else rows * copies))


def test_answers_to_one_prompt_stay_together() -> None:
    rows = [row([1, 2, 10 + prompt], [answer]) for prompt in range(20) for answer in (5, 6)]
    divided = divide(rows)
    check_apart(divided)
    searched = {tuple(r.input_ids[:3]) for r in divided.selection}
    assert not searched & {tuple(r.input_ids[:3]) for r in divided.report}


def test_rows_of_one_prompt_are_divided_by_their_answers() -> None:
    check_apart(divide([row([1, 2, 3], [10 + number]) for number in range(40)]))
    check_apart(divide([row([1], [number, 3]) for number in range(40)]))  # texts, which are learned whole


@pytest.mark.parametrize("rows", [pairs(15), pairs(15) * 4])
def test_few_distinct_rows_are_not_divided(rows: list[TokenizedExample]) -> None:
    divided = divide(rows)
    assert not divided.is_divided
    assert divided.selection == divided.report == tuple(rows)
