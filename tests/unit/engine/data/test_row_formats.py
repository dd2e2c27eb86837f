"""Row formats of datasets."""

from __future__ import annotations

from typing import Any

import pytest

from finch_hub import errors
from finch_hub.engine.data import row_formats
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
def test_row_of_each_format_is_recognized_and_converted(row: dict[str, Any], name: str) -> None:
    recognized = row_formats.recognize(row, row_formats.BUILTIN)
    assert recognized.name == name
    assert recognized.convert(row) == CONVERSATION


def test_row_that_fits_two_formats_is_read_in_the_first() -> None:
    row = {"text": "raw", "prompt": "What?", "completion": "Seeds.", "messages": [QUESTION, ANSWER]}
    assert row_formats.recognize(row, row_formats.BUILTIN).name == "messages"


def test_text_becomes_a_plain_text_example() -> None:
    assert row_formats.convert_text({"text": "The finch sings."}) == Example(text="The finch sings.")


def test_alpaca_input_follows_the_instruction() -> None:
    example = row_formats.convert_alpaca({"instruction": "Translate.", "input": "der Fink", "output": "the finch"})
    assert example.messages[0].content == "Translate.\n\nder Fink"


def test_alpaca_history_precedes_the_instruction_and_is_trained_on() -> None:
    row = {"instruction": "And bees?", "output": "Nectar.", "system": "You know.", "history": [["Finches?", "Seeds."]]}
    example = row_formats.recognize(row, row_formats.BUILTIN).convert(row)
    assert [(turn.role, turn.content, turn.learn) for turn in example.messages] == [
        ("system", "You know.", True),
        ("user", "Finches?", True),
        ("assistant", "Seeds.", True),
        ("user", "And bees?", True),
        ("assistant", "Nectar.", True),
    ]
    for history in ("Finches?", ["Finches?"], [["Finches?"]], [["Finches?", 3]]):
        with pytest.raises(errors.InvalidSpec, match="history, round 1"):
            row_formats.convert_alpaca({**row, "history": history})


def test_messages_of_a_prompt_are_context() -> None:
    example = row_formats.convert_prompt_completion({"prompt": [QUESTION, ANSWER, QUESTION], "completion": [ANSWER]})
    assert [message.learn for message in example.messages if message.role == "assistant"] == [False, True]


def test_weight_zero_makes_an_assistant_turn_context() -> None:
    example = row_formats.convert_messages({"messages": [QUESTION, {**ANSWER, "weight": 0}, QUESTION, ANSWER]})
    assert [message.learn for message in example.messages if message.role == "assistant"] == [False, True]


def test_sharegpt_tools_and_system_are_converted() -> None:
    turns = [
        {"from": "human", "value": "How warm is it?"},
        {"from": "function_call", "value": "thermometer()"},
        {"from": "observation", "value": "21"},
        {"from": "gpt", "value": "21 degrees."},
    ]
    example = row_formats.convert_sharegpt({"system": "Be brief.", "conversations": turns})
    assert [message.role for message in example.messages] == ["system", "user", "assistant", "tool", "assistant"]


def test_text_parts_of_a_content_are_joined() -> None:
    parts = [{"type": "text", "text": "What does "}, {"type": "text", "text": "a finch eat?"}]
    assert row_formats.convert_messages({"messages": [{"role": "user", "content": parts}, ANSWER]}) == CONVERSATION


@pytest.mark.parametrize(
    ("role", "stored"),
    [("system", "system"), ("developer", "system"), ("user", "user"), ("tool", "tool"), ("assistant", "assistant")],
)
def test_roles_of_messages_are_those_of_chat_templates(role: str, stored: str) -> None:
    """OpenAI calls the system turn "developer" since 2024."""
    turn = {"role": role, "content": "Be brief."}
    turns = row_formats._turns([turn], "messages", speaker="role", text="content", roles=row_formats._ROLES)
    assert [message.role for message in turns] == [stored]


@pytest.mark.parametrize(
    ("speaker", "stored"),
    [
        ("system", "system"),
        ("human", "user"),
        ("user", "user"),
        ("gpt", "assistant"),
        ("assistant", "assistant"),
        ("function_call", "assistant"),
        ("observation", "tool"),
    ],
)
def test_speakers_of_sharegpt_have_roles(speaker: str, stored: str) -> None:
    turn = {"from": speaker, "value": "Seeds."}
    turns = row_formats._turns([turn], "conversations", speaker="from", text="value", roles=row_formats._SPEAKERS)
    assert [message.role for message in turns] == [stored]


@pytest.mark.parametrize("part", [{"type": "image_url", "image_url": {"url": "x"}}, {"text": None}, "text"])
def test_content_with_a_part_that_is_not_text_is_refused_as_a_whole(part: Any) -> None:
    """A model must not learn the answer to a question about an image that it does not see."""
    question = {"role": "user", "content": [{"type": "text", "text": "What is this?"}, part]}
    with pytest.raises(errors.InvalidSpec, match="turn 1: has no text in 'content'"):
        row_formats.convert_messages({"messages": [question, ANSWER]})


def test_weight_of_other_turns_than_the_assistants_has_no_effect() -> None:
    example = row_formats.convert_messages({"messages": [{**QUESTION, "weight": 0}, ANSWER]})
    assert example == CONVERSATION


def test_blank_alpaca_input_is_left_out_and_the_system_prompt_is_kept() -> None:
    row = {"instruction": "What does a finch eat?", "input": " ", "output": "Seeds.", "system": "You know."}
    assert row_formats.convert_alpaca(row) == Example.of_pair("What does a finch eat?", "Seeds.", "You know.")
    pair = {"prompt": "What does a finch eat?", "completion": "Seeds.", "system": "You know."}
    assert row_formats.convert_prompt_completion(pair) == row_formats.convert_alpaca(row)


@pytest.mark.parametrize(
    ("row", "needle"),
    [
        ({"prompt": "a", "completion": 5}, "completion.*int instead of a text"),
        ({"prompt": None, "completion": "x"}, "prompt.*null instead of a text"),
        (
            {"prompt": "a", "completion": [{"role": "assistant", "content": "x"}]},
            "prompt.*str instead of a list of turns",
        ),
        ({"instruction": "a", "output": " "}, "output.*is empty"),
        ({"completion": "Seeds."}, "has no 'prompt'"),
        ({"prompt": "a", "completion": "b", "system": 3}, "system.*int instead of a text"),
        ({"question": "?"}, "question, which fit no format"),
        ({"prompt": " ", "completion": ""}, "completion"),
        ({"messages": [QUESTION]}, "no assistant turn"),
        ({"messages": [ANSWER]}, "no prompt"),
        ({"messages": "hello"}, "list of turns"),
        ({"text": 3}, "int"),
    ],
)
def test_row_that_does_not_fit_its_format_is_refused(row: dict[str, Any], needle: str) -> None:
    with pytest.raises(errors.InvalidSpec, match=needle):
        row_formats.recognize(row, row_formats.BUILTIN).convert(row)


def test_all_problems_of_a_row_are_reported_at_once() -> None:
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    call = {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}
    with pytest.raises(errors.InvalidSpec) as caught:
        row_formats.convert_messages({"messages": [{"role": "bot", "content": "Hello"}, image, call, "text"]})
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    for part in ("turn 1: has the role 'bot'", "turn 2: ", "turn 3: has tool_calls", "turn 4: "):
        assert part in text
