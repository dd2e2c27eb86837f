from __future__ import annotations

from support.training import lessons

from finch_hub.engine.data.prompted_examples import PromptedExamples
from finch_hub.specs.examples import Example

ROWS = (*lessons(3), Example(text="Two finches."))


def test_conversations_begin_with_the_system_turn_and_texts_stay() -> None:
    prompted = PromptedExamples(ROWS, "Be brief.")
    assert len(prompted) == 4
    for row, found in zip(ROWS[:3], prompted, strict=False):
        assert (found.messages[0].role, found.messages[0].content) == ("system", "Be brief.")
        assert found.messages[1:] == row.messages
    assert prompted[-1] == ROWS[-1]
    assert (*prompted,) == tuple(prompted[place] for place in range(4)) == prompted[:]
    assert (*PromptedExamples(prompted, "Another one."),) == prompted[:], "an own system turn stays"
    assert (*PromptedExamples(ROWS, None),) == ROWS
