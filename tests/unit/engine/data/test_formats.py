from __future__ import annotations

from typing import Any

import pytest

from finch_hub import errors
from finch_hub.engine.data import formats
from finch_hub.specs.examples import Example

QUESTION = {"role": "user", "content": "What does a finch eat?"}
ANSWER = {"role": "assistant", "content": "Seeds."}
CONVERSATION = Example.of_pair("What does a finch eat?", "Seeds.")


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"messages": [QUESTION, ANSWER]}, "messages"),
        ({"prompt": "What does a finch eat?", "completion": "Seeds."}, "prompt_completion"),
        ({"instruction": "What does a finch eat?", "input": "", "output": "Seeds."}, "alpaca"),
        ({"instruction": "What does a finch eat?", "output": "Seeds."}, "alpaca"),
        (
            {
                "conversations": [
                    {"from": "human", "value": "What does a finch eat?"},
                    {"from": "gpt", "value": "Seeds."},
                ]
            },
            "sharegpt",
        ),
    ],
)
def test_every_format_is_recognized_by_its_fields_and_gives_the_same_conversation(
    row: dict[str, Any], name: str
) -> None:
    recognized = formats.recognize(row, formats.BUILTIN)
    assert recognized.name == name
    assert recognized.convert(row) == CONVERSATION


def test_text_is_learnt_whole() -> None:
    assert formats.text({"text": "The finch sings."}) == Example(text="The finch sings.")


def test_alpaca_puts_the_input_below_the_instruction() -> None:
    example = formats.alpaca({"instruction": "Translate.", "input": "der Fink", "output": "the finch"})
    assert example.messages[0].content == "Translate.\n\nder Fink"


def test_alpacas_history_stands_before_the_instruction_and_is_learnt() -> None:
    row = {"instruction": "And bees?", "output": "Nectar.", "system": "You know.", "history": [["Finches?", "Seeds."]]}
    example = formats.recognize(row, formats.BUILTIN).convert(row)
    assert [(turn.role, turn.content, turn.learn) for turn in example.messages] == [
        ("system", "You know.", True),
        ("user", "Finches?", True),
        ("assistant", "Seeds.", True),
        ("user", "And bees?", True),
        ("assistant", "Nectar.", True),
    ]
    for history in ("Finches?", ["Finches?"], [["Finches?"]], [["Finches?", 3]]):
        with pytest.raises(errors.InvalidSpec, match="history, round 1"):
            formats.alpaca({**row, "history": history})


def test_prompt_and_completion_may_be_messages_of_which_only_the_second_are_learnt() -> None:
    example = formats.prompt_completion({"prompt": [QUESTION, ANSWER, QUESTION], "completion": [ANSWER]})
    assert [message.learn for message in example.messages if message.role == "assistant"] == [False, True]


def test_weight_zero_makes_an_assistant_turn_context() -> None:
    example = formats.messages({"messages": [QUESTION, {**ANSWER, "weight": 0}, QUESTION, ANSWER]})
    assert [message.learn for message in example.messages if message.role == "assistant"] == [False, True]


def test_sharegpt_knows_tools_and_a_system_beside_the_conversation() -> None:
    turns = [
        {"from": "human", "value": "How warm is it?"},
        {"from": "function_call", "value": "thermometer()"},
        {"from": "observation", "value": "21"},
        {"from": "gpt", "value": "21 degrees."},
    ]
    example = formats.sharegpt({"system": "Be brief.", "conversations": turns})
    assert [message.role for message in example.messages] == ["system", "user", "assistant", "tool", "assistant"]


def test_content_may_be_a_list_of_text_parts() -> None:
    parts = [{"type": "text", "text": "What does "}, {"type": "text", "text": "a finch eat?"}]
    assert formats.messages({"messages": [{"role": "user", "content": parts}, ANSWER]}) == CONVERSATION


@pytest.mark.parametrize(
    ("row", "needle"),
    [
        ({"prompt": "a", "completion": 5}, "completion.*int where a text"),
        ({"prompt": None, "completion": "x"}, "prompt.*null where a text"),
        ({"prompt": "a", "completion": [{"role": "assistant", "content": "x"}]}, "prompt.*str where a list of turns"),
        ({"instruction": "a", "output": " "}, "output.*is empty"),
    ],
)
def test_the_field_that_is_wrong_is_named(row: dict[str, Any], needle: str) -> None:
    with pytest.raises(errors.InvalidSpec, match=needle):
        formats.recognize(row, formats.BUILTIN).convert(row)


def test_all_problems_of_a_row_are_reported_at_once() -> None:
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    call = {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}
    with pytest.raises(errors.InvalidSpec) as caught:
        formats.messages({"messages": [{"role": "bot", "content": "Hello"}, image, call, "text"]})
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    for part in ("turn 1 has the role 'bot'", "turn 2", "tool_calls", "turn 4"):
        assert part.split(" has ")[0] in text


@pytest.mark.parametrize(
    ("row", "needle"),
    [
        ({"completion": "Seeds."}, "has no 'prompt'"),
        ({"question": "?"}, "question of no known format"),
        ({"prompt": " ", "completion": ""}, "completion"),
        ({"messages": [QUESTION]}, "no assistant turn"),
        ({"messages": [ANSWER]}, "no prompt"),
        ({"messages": "hello"}, "list of turns"),
        ({"text": 3}, "int"),
    ],
)
def test_what_cannot_be_learnt_is_refused(row: dict[str, Any], needle: str) -> None:
    with pytest.raises(errors.InvalidSpec, match=needle):
        formats.recognize(row, formats.BUILTIN).convert(row)
