"""Row formats of datasets."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import pytest

from finch_hub import errors
from finch_hub.engine.data import row_formats
from finch_hub.engine.data.row_formats import Mismatch, RowFormat, TrackedRow
from finch_hub.specs.examples import Example
from finch_hub.specs.options import in_command

QUESTION = {"role": "user", "content": "What does a finch eat?"}
ANSWER = {"role": "assistant", "content": "Seeds."}
CONVERSATION = Example.of_pair("What does a finch eat?", "Seeds.")
PAIR = {"prompt": "What does a finch eat?", "completion": "Seeds."}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def convert(row: Mapping[str, Any]) -> Example | None:
    recognized = row_formats.recognize(row, row_formats.BUILTIN)
    assert isinstance(recognized, RowFormat), recognized
    return recognized.convert(row)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"messages": [QUESTION, ANSWER]}, "messages"),
        (PAIR, "prompt_completion"),
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
        ({"messages": None, "prompt": "What does a finch eat?", "completion": "Seeds."}, "prompt_completion"),
        ({"prompt": float("nan"), "completion": None, "messages": [QUESTION, ANSWER]}, "messages"),
    ],
)
def test_row_of_each_format_is_recognized_and_converted(row: dict[str, Any], name: str) -> None:
    recognized = row_formats.recognize(row, row_formats.BUILTIN)
    assert isinstance(recognized, RowFormat)
    assert recognized.name == name
    assert recognized.convert(row) == CONVERSATION


def test_row_that_fits_two_formats_is_read_in_the_first() -> None:
    row = {"text": "raw", **PAIR, "messages": [QUESTION, ANSWER]}
    recognized = row_formats.recognize(row, row_formats.BUILTIN)
    assert isinstance(recognized, RowFormat)
    tracked = TrackedRow(row)
    assert recognized.name == "messages"
    assert recognized.convert(tracked) == CONVERSATION
    assert tracked.unused == {"text", "prompt", "completion"}


@pytest.mark.parametrize(
    ("row", "needle"),
    [
        ({"completion": "Seeds."}, "has no 'prompt'"),
        ({"prompt": None, "completion": "x"}, "is empty"),
        ({"question": "?"}, "fits no format"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "has chosen and rejected: preferences are not trained on"),
        ({**PAIR, "kto_tag": True}, "has kto_tag: preferences"),
        ({"conversations": [], "chosen": {}, "rejected": {}}, "has chosen and rejected"),
        ({"messages": [QUESTION, ANSWER], "rejected_response": "no"}, "has rejected_response"),
    ],
)
def test_columns_that_fit_no_format_are_a_mismatch(row: dict[str, Any], needle: str) -> None:
    mismatch = row_formats.recognize(row, row_formats.BUILTIN)
    assert isinstance(mismatch, Mismatch)
    assert needle in mismatch.what


@pytest.mark.parametrize("piece", ["_chosen", "_rejected", "_a"])
def test_long_name_of_a_column_is_looked_at_in_linear_time(piece: str) -> None:
    row = {**PAIR, piece * 150_000 + "\n": "b"}  # takes a quarter of an hour if the square of the length is needed
    recognized = row_formats.recognize(row, row_formats.BUILTIN)
    assert isinstance(recognized, RowFormat)


def test_named_format_is_read_beside_columns_of_preferences() -> None:
    row = {"messages": [QUESTION, ANSWER], "chosen": "b", "rejected": "c"}
    named = [known for known in row_formats.BUILTIN if known.name == "messages"]
    assert row_formats.recognize(row, named) == named[0]


def test_format_of_a_plugin_may_read_preferences() -> None:
    ranked = RowFormat("ranked", frozenset({"chosen", "rejected"}), lambda row: Example.of_pair("a", row["chosen"]))
    recognized = row_formats.recognize({"chosen": "b", "rejected": "c"}, (*row_formats.BUILTIN, ranked))
    assert recognized == ranked


@pytest.mark.parametrize("label", [True, False, "true", "False"])
def test_label_of_an_answer_is_refused_also_if_the_format_is_named(label: object) -> None:
    row = {**PAIR, "label": label}
    for formats in (row_formats.BUILTIN, [row_formats.BUILTIN[1]]):
        mismatch = row_formats.recognize(row, formats)
        assert isinstance(mismatch, Mismatch)
        assert mismatch.what == "has label: preferences are not trained on"
    judged = RowFormat("judged", frozenset({"prompt", "completion", "label"}), row_formats.BUILTIN[1].convert)
    assert row_formats.recognize(row, [judged]) == judged


def test_advice_about_preferences_names_all_columns_in_the_words_of_the_caller() -> None:
    for row, in_python, fix in (
        ({**PAIR, "label": True, "kto_tag": True}, False, "--ignore-column kto_tag --ignore-column label"),
        ({**PAIR, "label": True, "kto_tag": True}, True, "ignore_columns=('kto_tag', 'label')"),
        ({"prompt": "a", "chosen": "b"}, False, "--completion-column chosen"),
        ({"prompt": "a", "chosen": "b"}, True, "completion_column='chosen'"),
        ({"question": "a", "chosen": "b"}, True, "prompt_column='question', completion_column='chosen'"),
    ):
        with contextlib.nullcontext() if in_python else in_command():
            mismatch = row_formats.recognize(row, row_formats.BUILTIN)
        assert isinstance(mismatch, Mismatch)
        assert mismatch.fix.endswith(f"add {fix}")


@pytest.mark.parametrize("label", [1, "spam", None])
def test_label_of_another_kind_is_an_unused_column(label: object) -> None:
    tracked = TrackedRow({**PAIR, "label": label})
    recognized = row_formats.recognize({**PAIR, "label": label}, row_formats.BUILTIN)
    assert isinstance(recognized, RowFormat)
    recognized.convert(tracked)
    assert tracked.unused == {"label"}


def test_tracked_row_knows_what_a_converter_reads() -> None:
    def read(reader: Any) -> set[str]:
        tracked = TrackedRow({"a": 1, "b": 2, "c": ""})
        reader(tracked)
        return tracked.unused

    assert read(lambda row: row["a"]) == {"b"}
    assert read(lambda row: row.get("b")) == {"a"}
    assert read(lambda row: "a" in row) == {"a", "b"}
    for whole in (dict, list, lambda row: {**row}, lambda row: list(row.items()), lambda row: list(row.values())):
        assert read(whole) == set()


def test_text_becomes_a_plain_text_example() -> None:
    assert row_formats.convert_text({"text": "The finch sings."}) == Example(text="The finch sings.")


def test_alpaca_input_follows_the_instruction() -> None:
    example = row_formats.convert_alpaca({"instruction": "Translate.", "input": "der Fink", "output": "the finch"})
    assert example is not None
    assert example.messages[0].content == "Translate.\n\nder Fink"


@pytest.mark.parametrize("history", [[["Finches?", "Seeds."]], '[["Finches?", "Seeds."]]'])
def test_alpaca_history_precedes_the_instruction_and_is_trained_on(history: Any) -> None:
    row = {"instruction": "And bees?", "output": "Nectar.", "system": "You know.", "history": history}
    example = convert(row)
    assert example is not None
    assert [(turn.role, turn.content, turn.learn) for turn in example.messages] == [
        ("system", "You know.", True),
        ("user", "Finches?", True),
        ("assistant", "Seeds.", True),
        ("user", "And bees?", True),
        ("assistant", "Nectar.", True),
    ]


@pytest.mark.parametrize("history", ["Finches?", ["Finches?"], [["Finches?"]], [["Finches?", 3]]])
def test_alpaca_history_without_pairs_is_refused(history: Any) -> None:
    with pytest.raises(errors.InvalidSpec, match="history, round 1"):
        row_formats.convert_alpaca({"instruction": "And bees?", "output": "Nectar.", "history": history})


def test_messages_of_a_prompt_are_context() -> None:
    example = row_formats.convert_prompt_completion({"prompt": [QUESTION, ANSWER, QUESTION], "completion": [ANSWER]})
    assert example is not None
    assert [message.learn for message in example.messages if message.role == "assistant"] == [False, True]


def test_blank_alpaca_input_is_left_out_and_the_system_prompt_is_kept() -> None:
    row = {"instruction": "What does a finch eat?", "input": " ", "output": "Seeds.", "system": "You know."}
    assert row_formats.convert_alpaca(row) == Example.of_pair("What does a finch eat?", "Seeds.", "You know.")
    assert row_formats.convert_prompt_completion({**PAIR, "system": "You know."}) == row_formats.convert_alpaca(row)


@pytest.mark.parametrize("column", ["system", "system_prompt"])
@pytest.mark.parametrize(
    "row",
    [
        {"messages": [QUESTION, ANSWER]},
        {"conversations": [QUESTION, ANSWER]},
        PAIR,
        {"instruction": "What does a finch eat?", "output": "Seeds."},
        {"prompt": [QUESTION], "completion": [ANSWER]},
    ],
)
def test_system_column_begins_a_conversation_of_each_format(row: dict[str, Any], column: str) -> None:
    example = convert({**row, column: "Be brief."})
    assert example is not None
    assert (example.messages[0].role, example.messages[0].content) == ("system", "Be brief.")
    assert example.messages[1:] == CONVERSATION.messages
    assert convert({**row, column: " "}) == convert(row) == convert({**row, column: ""})


def test_system_column_beside_a_system_turn_is_refused_unless_they_are_equal() -> None:
    turns = [{"role": "system", "content": "Be brief."}, QUESTION, ANSWER]
    assert convert({"messages": turns, "system": "Be brief."}) == convert({"messages": turns})
    with pytest.raises(errors.InvalidSpec, match="system: is given beside a system turn"):
        convert({"messages": turns, "system": "Be long."})


def test_tools_and_documents_of_each_format_reach_the_example() -> None:
    documents = [{"title": "Finch", "text": "It eats seeds."}]
    for row in ({"messages": [QUESTION, ANSWER]}, PAIR, {"instruction": "a", "output": "b"}):
        example = convert({**row, "tools": [TOOL], "documents": documents})
        assert example is not None
        assert example.tools == (TOOL,)
        assert example.documents == tuple(documents)


def test_functions_become_tools() -> None:
    example = convert({"messages": [QUESTION, ANSWER], "functions": [TOOL["function"]]})
    assert example is not None
    assert example.tools == (TOOL,)
    with pytest.raises(errors.InvalidSpec, match="functions: are given beside tools"):
        convert({"messages": [QUESTION, ANSWER], "functions": [TOOL["function"]], "tools": [TOOL]})


@pytest.mark.parametrize("column", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_column_precedes_the_completion(column: str) -> None:
    for row in (PAIR, {"instruction": "a", "output": "b"}):
        tracked = TrackedRow({**row, column: "Finches are birds."})
        recognized = row_formats.recognize(tracked, row_formats.BUILTIN)
        assert isinstance(recognized, RowFormat)
        example = recognized.convert(tracked)
        assert example is not None
        assert example.messages[-1].reasoning == "Finches are birds."
        assert tracked.unused == set()


@pytest.mark.parametrize("row", [PAIR, {"messages": [QUESTION, ANSWER]}, {"text": "The finch sings."}])
def test_weight_of_a_row_is_honored_or_refused(row: dict[str, Any]) -> None:
    for one in (1, 1.0, True, "1"):
        assert convert({**row, "weight": one}) == convert(row)
    for zero in (0, 0.0, False, "0.0"):
        assert convert({**row, "weight": zero}) is None
    for other in (0.5, 2, -1, "2"):
        with pytest.raises(errors.InvalidSpec, match="has the weight"):
            convert({**row, "weight": other})


@pytest.mark.parametrize("column", ["image", "images", "videos", "audio"])
def test_row_with_media_is_refused(column: str) -> None:
    with pytest.raises(errors.InvalidSpec, match=f"has {column}, which a language model does not see"):
        convert({**PAIR, column: ["bird.png"]})
    assert convert({**PAIR, column: []}) == CONVERSATION


@pytest.mark.parametrize(
    ("row", "needle"),
    [
        ({"prompt": "a", "completion": 5}, "completion.*int instead of a text.*write it as a text"),
        ({"prompt": [QUESTION], "completion": " "}, "completion.*is empty"),
        ({"prompt": "", "completion": [ANSWER]}, "prompt.*is empty"),
        ({"instruction": "a", "output": " "}, "output.*is empty"),
        ({"prompt": "a", "completion": "b", "system": 3}, "system.*int instead of a text"),
        ({"prompt": " ", "completion": ""}, "completion"),
        ({"messages": [QUESTION]}, "no assistant turn"),
        ({"messages": [ANSWER]}, "no prompt"),
        ({"messages": "hello"}, "list of turns"),
        ({"text": 3}, "int"),
        ({**PAIR, "tools": "look"}, "tools: is a text that is not the JSON of a list of tools"),
        ({**PAIR, "documents": "look"}, "documents: is a text that is not the JSON of a list of documents"),
        ({**PAIR, "tools": [{"name": "a", "parameters": "{"}]}, "a text that is not JSON instead of an object"),
        ({"messages": "{bad"}, "messages: is a text that is not the JSON of a list of turns"),
        ({**PAIR, "documents": [3]}, "documents, item 1: is int"),
        ({**PAIR, "reasoning": ["a"]}, "reasoning.*list instead of a text"),
    ],
)
def test_row_that_does_not_fit_its_format_is_refused(row: dict[str, Any], needle: str) -> None:
    with pytest.raises(errors.InvalidSpec, match=needle):
        convert(row)


def test_names_of_columns_are_cut_in_messages() -> None:
    listed = row_formats.list_columns(["prompt", "x" * 100, *[f"c{n}" for n in range(30)]])
    assert len(listed) < 200
    assert listed.endswith(", …")
    assert row_formats.list_columns([]) == "(none)"
    assert row_formats.list_columns(["a\n b", 3]) == "a b, 3"


@pytest.mark.parametrize(
    ("prompt", "completion"), [([QUESTION], "Seeds."), ("What does a finch eat?", [ANSWER]), ([QUESTION], [ANSWER])]
)
def test_prompt_and_completion_can_be_turns_or_texts(prompt: Any, completion: Any) -> None:
    assert convert({"prompt": prompt, "completion": completion}) == CONVERSATION
    found = convert({"prompt": [QUESTION], "completion": "Seeds.", "reasoning": "Beak."})
    assert found is not None
    assert found.messages[-1].reasoning == "Beak."


OPENAI = {"input": {"messages": [QUESTION]}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]}
ANSWERS = "to learn the better answers, add "


@pytest.mark.parametrize(
    ("row", "fix"),
    [
        (OPENAI, "write rows of messages that end with the answer to learn"),
        (
            {"question": "a", "response_chosen": "b", "response_rejected": "c"},
            f"{ANSWERS}prompt_column='question', completion_column='response_chosen'",
        ),
        ({"prompt": "a", "chosen_response": "b", "rejected_response": "c"}, f"{ANSWERS}completion_column='chosen_resp"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, f"{ANSWERS}completion_column='chosen'"),
        ({"prompt": [QUESTION], "chosen": [ANSWER], "rejected": [ANSWER]}, f"{ANSWERS}completion_column='chosen'"),
        ({"chosen": [QUESTION, ANSWER], "rejected": [QUESTION, ANSWER]}, f"{ANSWERS}messages_column='chosen'"),
        ({"chosen": "Human: a Assistant: b", "rejected": "Human: a Assistant: c"}, "write rows of messages"),
        ({"input": "a", "better_answer": "b", "worse_answer": "c"}, f"{ANSWERS}prompt_column='input', completion_"),
        ({**PAIR, "score_chosen": 1.0, "score_rejected": 0.0}, "write rows of messages"),
    ],
)
def test_preferences_of_any_name_are_refused_with_columns_that_can_be_read(row: dict[str, Any], fix: str) -> None:
    mismatch = row_formats.recognize(row, row_formats.BUILTIN)
    assert isinstance(mismatch, Mismatch)
    assert mismatch.what.endswith(": preferences are not trained on")
    assert mismatch.fix.startswith(fix)


@pytest.mark.parametrize("name", ["preferred_language", "chosen_by", "is_better", "accepted"])
def test_one_column_of_such_a_name_is_no_preference(name: str) -> None:
    assert row_formats.recognize({**PAIR, name: "x"}, row_formats.BUILTIN) == row_formats.BUILTIN[1]
