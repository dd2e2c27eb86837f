"""Turns of conversations in the forms that people write them."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub import errors
from finch_hub.engine.data import tools, turns
from finch_hub.specs.examples import Message

QUESTION = {"role": "user", "content": "How warm is it in Oslo?"}
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}


def read(*given_turns: Any) -> list[Message]:
    return turns.read_turns(list(given_turns), "messages")[0]


def unused(**fields: Any) -> set[str]:
    return turns.read_turns([{"role": "assistant", "content": "21", **fields}], "messages")[1]


@pytest.mark.parametrize(
    ("role", "stored"),
    [
        ("system", "system"),
        ("developer", "system"),
        ("user", "user"),
        ("human", "user"),
        ("assistant", "assistant"),
        ("gpt", "assistant"),
        ("model", "assistant"),
        ("Assistant", "assistant"),
        ("tool", "tool"),
        ("function", "tool"),
        ("observation", "tool"),
        ("tool_response", "tool"),
        ("ipython", "tool"),
    ],
)
def test_speakers_have_the_roles_of_chat_templates(role: str, stored: str) -> None:
    assert read({"role": role, "content": "21"})[0].role == stored
    assert read({"from": role, "value": "21"}) == read({"role": role, "content": "21"})


@pytest.mark.parametrize(
    "calls",
    [
        {"tool_calls": [CALL]},
        {"tool_calls": json.dumps([CALL])},
        {"tool_calls": [json.dumps(CALL)]},
        {"tool_calls": [{"function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}]},
        {"tool_calls": [{"name": "get_weather", "arguments": {"city": "Oslo"}}]},
        {"tool_calls": [{"name": "get_weather", "parameters": {"city": "Oslo"}}]},
        {"tool_calls": CALL},
        {
            "tool_calls": [
                {"id": None, "function": {"arguments": {"city": "Oslo", "unit": None}, "name": "get_weather"}}
            ]
        },
        {"function_call": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}},
        {"function_call": {"name": "get_weather", "arguments": {"city": "Oslo"}}},
    ],
)
def test_calls_of_tools_have_one_form(calls: dict[str, Any]) -> None:
    for content in ("", None):
        (message,) = read({"role": "assistant", "content": content, **calls})
        assert (message.content, message.tool_calls) == ("", (CALL,))


@pytest.mark.parametrize("role", ["function_call", "tool_call"])
@pytest.mark.parametrize("form", [lambda call: call, json.dumps, lambda call: [call], lambda call: json.dumps([call])])
def test_turn_that_holds_the_json_of_a_call_is_a_call(role: str, form: Any) -> None:
    (message,) = read({"from": role, "value": form({"name": "get_weather", "arguments": {"city": "Oslo"}})})
    assert (message.role, message.content, message.tool_calls) == ("assistant", "", (CALL,))


@pytest.mark.parametrize("arguments", [None, "", "null", "{}", {}])
def test_call_without_arguments_has_an_empty_object(arguments: Any) -> None:
    (message,) = read({"role": "assistant", "tool_calls": [{"function": {"name": "now", "arguments": arguments}}]})
    assert message.tool_calls[0]["function"] == {"name": "now", "arguments": {}}


def test_null_in_the_json_text_of_arguments_is_kept() -> None:
    call = {"name": "book", "arguments": '{"date": null}'}
    (message,) = read({"role": "assistant", "tool_calls": [call]})
    assert message.tool_calls[0]["function"]["arguments"] == {"date": None}


@pytest.mark.parametrize(
    ("turn", "needle"),
    [
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "call of a tool without a name"),
        ({"role": "assistant", "tool_calls": "look()"}, "call of a tool that is not JSON but str"),
        ({"role": "assistant", "tool_calls": [{"name": "a", "arguments": "city=Oslo"}]}, "arguments of a call"),
        ({"role": "assistant", "tool_calls": [{"name": "a", "arguments": "[1]"}]}, "arguments of a call"),
        ({"role": "user", "content": "a", "tool_calls": [CALL]}, "calls of tools in a turn of the role user"),
        ({"from": "function_call", "value": "get_weather(Oslo)"}, "call of a tool that is not JSON"),
        ({"role": "bot", "content": "a"}, "has the role 'bot'"),
        ({"role": None, "content": "a"}, "has the role null"),
        ({"content": "a"}, "has the role null"),
        ({"role": "assistant"}, "has nothing instead of a text in 'content'"),
        ({"role": "assistant", "content": []}, "has nothing instead of a text"),
        ({"role": "assistant", "content": {"a": 1}}, "has dict instead of a text"),
        ({"role": "assistant", "content": 21}, "has int instead of a text"),
        ({"role": "assistant", "content": "a", "weight": 0.5}, "has the weight 0.5"),
        ({"role": "user", "content": "a", "weight": 2}, "has the weight 2"),
        ({"role": "assistant", "content": "a", "weight": "1x"}, "has the weight str"),
        ({"role": "assistant", "content": "a", "reasoning_content": ["b"]}, "list instead of a text in 'reasoning_c"),
        ({"role": "tool", "content": "a", "tool_call_id": 3}, "int instead of a text in 'tool_call_id'"),
        ("hello", "is str instead of an object"),
    ],
)
def test_turn_that_cannot_be_converted_is_refused_by_name(turn: Any, needle: str) -> None:
    with pytest.raises(errors.InvalidSpec, match="messages, turn 2") as caught:
        read(QUESTION, turn)
    assert needle in str(caught.value)


def test_all_problems_of_a_conversation_are_reported_at_once() -> None:
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    call = {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}
    with pytest.raises(errors.InvalidSpec) as caught:
        read({"role": "bot", "content": "Hello"}, image, call, "text")
    assert [problem.where for problem in caught.value.problems] == [f"messages, turn {n}" for n in (1, 2, 3, 4)]


def test_result_of_a_tool_keeps_its_call_and_its_name() -> None:
    (message,) = read({"role": "tool", "content": "21", "name": "get_weather", "tool_call_id": "call_1"})
    assert (message.name, message.tool_call_id) == ("get_weather", "call_1")
    (legacy,) = read({"role": "function", "name": "get_weather", "content": "21"})
    assert (legacy.role, legacy.name) == ("tool", "get_weather")


def test_object_as_the_result_of_a_tool_becomes_json() -> None:
    assert read({"role": "tool", "content": {"celsius": 21, "rain": None}})[0].content == '{"celsius": 21}'


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_of_a_turn_is_kept(field: str) -> None:
    (message,) = read({"role": "assistant", field: "It is summer.", "content": "21"})
    assert (message.reasoning, message.content) == ("It is summer.", "21")
    assert read({"role": "assistant", field: "It is summer."})[0].content == ""
    assert unused(**{field: "It is summer."}) == set()


def test_thinking_parts_are_the_reasoning() -> None:
    parts = [{"type": "thinking", "thinking": "It is summer."}, {"type": "text", "text": "21"}]
    (message,) = read({"role": "assistant", "content": parts})
    assert (message.reasoning, message.content) == ("It is summer.", "21")


def test_text_parts_of_a_content_are_joined() -> None:
    parts = [{"type": "text", "text": "What does ", "image_url": None}, {"text": "a finch eat?"}]
    assert read({"role": "user", "content": parts})[0].content == "What does a finch eat?"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "image", "text": None},
        {"type": "image", "text": "a caption"},
        {"type": "text", "text": "a caption", "image_url": {"url": "x"}},
        {"type": "input_audio", "input_audio": {}},
        {"text": None},
        "text",
    ],
)
def test_content_with_a_part_that_is_not_text_is_refused_as_a_whole(part: Any) -> None:
    """A model must not learn the answer to a question about an image that it does not see."""
    with pytest.raises(errors.InvalidSpec, match=r"turn 1: has a part .* in 'content'"):
        read({"role": "user", "content": [{"type": "text", "text": "What is this?"}, part]})


@pytest.mark.parametrize(("weight", "learn"), [(0, False), (0.0, False), (1, True), (1.0, True), (None, True)])
def test_weight_of_an_assistant_turn_is_honored(weight: object, learn: bool) -> None:
    assert read({"role": "assistant", "content": "21", "weight": weight})[0].learn is learn
    assert read({"role": "user", "content": "21", "weight": weight})[0].learn


def test_learn_of_the_canonical_form_is_honored() -> None:
    assert not read({"role": "assistant", "content": "21", "learn": False})[0].learn


def test_turns_of_gemini_are_read() -> None:
    question, answer = read(
        {"role": "user", "parts": [{"text": "Warm?"}]}, {"role": "model", "parts": [{"text": "No."}]}
    )
    assert [(m.role, m.content) for m in (question, answer)] == [("user", "Warm?"), ("assistant", "No.")]


def test_fields_without_a_meaning_are_named() -> None:
    assert unused(id="7", meta={"a": 1}, refusal=None, annotations=[], audio="") == {"id", "meta"}
    assert unused(tool_calls=[], function_call=None, name="", weight=1) == set()


def test_object_of_lists_is_a_list_of_turns() -> None:
    """`datasets` stores a sequence of objects as an object of sequences."""
    columns = {"role": ["user", "assistant"], "content": ["Hi", "Yo"]}
    assert [m.content for m in turns.read_turns(columns, "messages")[0]] == ["Hi", "Yo"]


def test_list_that_pandas_wrote_to_csv_is_read() -> None:
    written = str([{"role": "user", "content": 'It\'s "warm"\n'}, {"role": "assistant", "content": "Yes"}])
    assert [m.content for m in turns.read_turns(written, "messages")[0]] == ['It\'s "warm"\n', "Yes"]


def test_tools_have_the_form_of_openai() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    expected = ({"type": "function", "function": {"name": "look", "description": "Looks", "parameters": schema}},)
    bare = {"name": "look", "description": "Looks", "parameters": schema}
    for given_tools in (
        [{"type": "function", "function": bare}],
        [bare],
        bare,
        [json.dumps(bare)],
        json.dumps([bare]),
        [{"name": "look", "description": "Looks", "input_schema": schema}],
        [{"type": "function", **bare}],
        [{"function": {**bare, "parameters": json.dumps(schema)}}],
        [{"function": {**bare, "strict": None}}],
    ):
        assert tools.read_tools(given_tools, "tools") == expected
    for refused in ([{"description": "Looks"}], [3], ["look"], [{"name": "look", "parameters": "none"}]):
        with pytest.raises(errors.InvalidSpec, match="tools, item 1"):
            tools.read_tools(refused, "tools")


def test_documents_are_objects_or_texts() -> None:
    assert turns.read_documents(["Seeds."], "documents") == ({"title": "", "text": "Seeds."},)
    written = json.dumps([{"title": "Finch", "text": "Seeds."}])
    assert turns.read_documents(written, "documents") == ({"title": "Finch", "text": "Seeds."},)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    ["role", "from", "content", "value", "weight", "tool_calls", "function_call", "name", "reasoning", "learn", "x"]
)
roles = st.sampled_from(["user", "assistant", "tool", "function_call", "system", "bot"])


@given(st.lists(st.dictionaries(names, json_values | roles, max_size=5), max_size=3))
def test_turns_of_any_json_are_read_or_refused(given_turns: list[dict[str, Any]]) -> None:
    try:
        messages, unused_fields = turns.read_turns(given_turns, "messages")
    except errors.InvalidSpec:
        return
    assert len(messages) == len(given_turns)
    assert unused_fields <= {name for turn in given_turns for name in turn}


LEARN_FIELDS = ["weight", "learn", "train", "training", "trainable", "loss", "loss_weight", "loss_scale"]


@pytest.mark.parametrize("field", LEARN_FIELDS)
def test_field_that_says_whether_a_turn_is_learned_is_honored_or_refused(field: str) -> None:
    for value, learn in (
        (0, False),
        (1, True),
        (False, False),
        (True, True),
        ("0", False),
        ("True", True),
        (None, True),
    ):
        assert read({"role": "assistant", "content": "21", field: value})[-1].learn is learn
    others: list[Any] = [0.5, 2, "maybe", [], {}]
    for other in others:
        with pytest.raises(errors.InvalidSpec, match=f"has .*{field}.*use 0 or 1"):
            read({"role": "assistant", "content": "21", field: other})


def test_turn_of_several_such_fields_is_learned_if_all_say_so() -> None:
    assert not read({"role": "assistant", "content": "21", "weight": 1, "train": False})[-1].learn
    assert read({"role": "assistant", "content": "21", "weight": 1, "train": True})[-1].learn


def test_parts_of_a_turn_that_are_not_learned_are_refused() -> None:
    with pytest.raises(errors.InvalidSpec, match="has 'train_detail', but a turn is learned as a whole"):
        read({"role": "assistant", "content": "21", "train_detail": [{"begin_offset": 0, "train": False}]})


@pytest.mark.parametrize(
    ("weight", "learn"), [("0", False), ("1", True), ("0.0", False), ("1.0", True), (" 1 ", True), (False, False)]
)
def test_weight_of_a_cell_is_honored(weight: object, learn: bool) -> None:
    assert turns.read_weight(weight) is learn


@pytest.mark.parametrize("weight", ["0.5", "2", "", "yes", "-1", 0.5, "nan", pytest.param(10**5000, id="long")])
def test_other_weights_are_refused(weight: object) -> None:
    with pytest.raises(errors.InvalidSpec, match="has the weight"):
        turns.read_weight(weight)


@pytest.mark.parametrize("odd", [datetime.date(2024, 1, 1), b"x", {5: 1}, {1}, pytest.param(-(10**5000), id="long")])
def test_nested_fields_that_are_not_json_are_refused(odd: object) -> None:
    call = {"name": "get_weather", "arguments": {"day": odd}}
    for turn in (
        {"role": "assistant", "tool_calls": [call]},
        {"role": "assistant", "tool_calls": [{"id": odd, "function": {"name": "a", "arguments": {}}}]},
        {"role": "tool", "content": {"day": odd}},
        {"role": "user", "content": [{"type": "text", "text": "x", "extra": odd}]},
    ):
        with pytest.raises(errors.InvalidSpec, match="messages, turn 1"):
            read(turn)
    for reader, item in (
        (tools.read_tools, {"name": "a", "parameters": {"enum": [odd]}}),
        (turns.read_documents, {"text": "a", "day": odd}),
    ):
        with pytest.raises(errors.InvalidSpec, match="x, item 1"):
            reader([item], "x")


@pytest.mark.parametrize("form", [json.dumps, lambda value: value])
@pytest.mark.parametrize("depth", [70, 300, 900])
def test_nested_fields_that_are_deep_are_refused(depth: int, form: Any) -> None:
    deep: Any = {}
    for _ in range(depth):
        deep = {"a": deep}
    call = {"name": "get_weather", "arguments": form(deep)}
    with pytest.raises(errors.InvalidSpec):
        read({"role": "assistant", "tool_calls": [call]})
    with pytest.raises(errors.InvalidSpec):
        tools.read_tools([{"name": "a", "parameters": form(deep)}], "tools")
    with pytest.raises(errors.InvalidSpec):
        turns.read_documents(form([deep]), "documents")
