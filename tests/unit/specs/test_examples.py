"""Training examples and their messages."""

from __future__ import annotations

import pytest

from finch_hub import errors
from finch_hub.specs.examples import Example, Message


def test_system_prompt_is_the_first_message() -> None:
    assert Example.of_pair("ask", "answer", "be brief").messages[0] == Message(role="system", content="be brief")


@pytest.mark.parametrize(
    ("fields", "needle"),
    [
        ({"text": "x", "messages": Example.of_pair("a", "b").messages}, "both messages and text"),
        ({"text": " "}, "text is empty"),
        ({"messages": (Message(role="user", content="a"), Message(role="assistant", content=" "))}, "nothing to learn"),
        ({"messages": (Message(role="assistant", content="b"),)}, "no prompt"),
    ],
)
def test_example_from_which_nothing_can_be_learned_is_refused(fields: dict[str, object], needle: str) -> None:
    with pytest.raises(errors.InvalidSpec, match=needle):
        Example.of(fields)


def test_turn_with_a_call_or_reasoning_is_not_empty() -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    assert not Message(role="assistant", content="", tool_calls=(call,)).is_empty
    assert not Message(role="assistant", content="", reasoning="Hm.").is_empty
    assert Message(role="assistant", content=" ", reasoning=" ").is_empty
