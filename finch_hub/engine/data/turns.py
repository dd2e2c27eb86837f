"""Turns of conversations, in the forms that people write them, as messages. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from finch_hub import errors
from finch_hub.engine.data import json_values
from finch_hub.engine.data.row import describe, describe_other
from finch_hub.engine.data.tools import read_calls
from finch_hub.specs.examples import Message, Role
from finch_hub.specs.value import JsonObject

# OpenAI renamed "system" to "developer" in 2024. Chat templates of open models know only the old name.
_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}
# Turns of LLaMA-Factory and ms-swift whose text is the JSON of a call.
_CALL_ROLES = ("function_call", "tool_call")
REASONING = ("reasoning_content", "reasoning", "thinking")
"""Fields that hold what an assistant thought."""
_WEIGHTS = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
# Fields of OpenAI, axolotl, ms-swift and LLaMA-Factory that say whether a turn is learned.
_LEARN_FIELDS = ("weight", "learn", "train", "training", "trainable", "loss", "loss_weight", "loss_scale")
_TEXT_PARTS = ("text", "input_text", "output_text")
_MAX_ROLE = 20  # characters
_MAX_PROBLEMS = 20  # of a row, which can have a million turns


def read_turns(value: Any, where: str) -> tuple[list[Message], set[str]]:
    """Read a list of turns, its JSON text, or an object of lists, as `datasets` stores a sequence of objects.

    Returns:
        The messages, and the names of fields that have no meaning here.

    Raises:
        InvalidSpec: some turns cannot be read; contains the problems of the first ones.
    """
    value = json_values.parse_list(value)
    if isinstance(value, Mapping) and value:
        columns = {name: column for name, column in value.items() if isinstance(column, (list, tuple))}
        if len({len(column) for column in columns.values()}) == 1:
            value = [dict(zip(columns, turn, strict=True)) for turn in zip(*columns.values(), strict=True)]
    if not isinstance(value, (list, tuple)):
        raise errors.InvalidSpec(describe_other(value, "turns"), where=where)
    messages: list[Message] = []
    unused: set[str] = set()
    problems: list[errors.Problem] = []
    for number, turn in enumerate(value, start=1):
        try:
            messages.append(_read_turn(turn, unused))
        except errors.InvalidSpec as error:
            for problem in error.problems:
                place = f"{where}, turn {number}"
                problems.append(errors.Problem(what=problem.what, where=place, fix=problem.fix))
        if len(problems) >= _MAX_PROBLEMS:
            break
    if problems:
        raise errors.InvalidSpec(problems)
    return messages, unused


def read_documents(value: Any, where: str) -> tuple[JsonObject, ...]:
    """Read documents, or their JSON text. A text becomes a document without a title.

    Raises:
        InvalidSpec: a document is neither an object nor a text.
    """
    value = json_values.parse_list(value)
    if not isinstance(value, (list, tuple)):
        raise errors.InvalidSpec(describe_other(value, "documents"), where=where)
    documents: list[JsonObject] = []
    for number, document in enumerate(value, start=1):
        if isinstance(document, str):
            documents.append({"title": "", "text": document})
        elif isinstance(document, Mapping):
            documents.append(json_values.order_keys(json_values.clean_item(document, f"{where}, item {number}")))
        else:
            what = f"is {describe(document)} instead of a document"
            raise errors.InvalidSpec(what, where=f"{where}, item {number}", fix='write {"title": …, "text": …}')
    return tuple(documents)


def read_weight(value: Any, field: str = "weight") -> bool:
    """Return whether a turn or row of this weight is learned.

    Args:
        field: name of the field that has it.

    Raises:
        InvalidSpec: the weight is neither 0 nor 1.
    """
    if isinstance(value, str):  # a cell of CSV
        value = _WEIGHTS.get(value.strip().lower(), value)
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    is_long = isinstance(value, int) and value.bit_length() > 64
    shown = describe(value) if is_long or not isinstance(value, (int, float)) else value
    what = f"has the {field} {shown}" if field == "weight" else f"has {shown} in {field!r}"
    raise errors.InvalidSpec(what, fix="use 0 or 1; other weights are not supported")


def _read_turn(turn: Any, unused: set[str]) -> Message:
    """Return the message of a turn, and add the fields without a meaning to `unused`."""
    if not isinstance(turn, Mapping):
        raise errors.InvalidSpec(f"is {describe(turn)} instead of an object")
    fields = json_values.drop_nulls(turn)
    speaker = json_values.take(fields, "role", "from")
    role = _ROLES.get(speaker.strip().lower()) if isinstance(speaker, str) else None
    if role is None:
        # A longer name is a text in the wrong field.
        shown = repr(speaker) if isinstance(speaker, str) and len(speaker) <= _MAX_ROLE else describe(speaker)
        raise errors.InvalidSpec(f"has the role {shown}", fix="use system, user, assistant or tool")
    content = json_values.take(fields, "content", "value", "parts", "text")
    if "train_detail" in fields:
        what = "has 'train_detail', but a turn is learned as a whole"
        raise errors.InvalidSpec(what, fix="divide the turn, or remove the field")
    weights = [read_weight(fields.pop(field), field) for field in _LEARN_FIELDS if field in fields]
    is_learned = all(weights)
    calls: tuple[JsonObject, ...] = ()
    reasoning: str | None = None
    tool_call_id: str | None = None
    if role == "assistant":
        if speaker.strip().lower() in _CALL_ROLES:
            calls, content = read_calls(content), ""
        calls += read_calls(json_values.take(fields, "tool_calls")) + read_calls(
            json_values.take(fields, "function_call")
        )
        reasoning = _read_reasoning(fields)
        if isinstance(content, (list, tuple)):
            content, reasoning = _split_thinking(content, reasoning)
    elif fields.get("tool_calls") or fields.get("function_call"):
        raise errors.InvalidSpec(f"has calls of tools in a turn of the role {role}", fix="give them to the assistant")
    if role == "tool":
        tool_call_id = _take_text(fields, "tool_call_id")
        if content is not None and not isinstance(content, (str, list, tuple)):
            content = json.dumps(json_values.clean(content), ensure_ascii=False)  # results of tools are often objects
    name = _take_text(fields, "name")
    text = _read_content(content, may_be_absent=bool(calls or reasoning))
    unused.update(str(field) for field, value in fields.items() if value not in ("", [], {}, ()))
    given: JsonObject = {"reasoning": reasoning, "tool_calls": calls, "name": name, "tool_call_id": tool_call_id}
    given = {field: value for field, value in given.items() if value}  # each field that is set takes memory
    if role == "assistant" and not is_learned:
        given["learn"] = False
    return Message(role=role, content=text, **given)


def _take_text(fields: dict[str, Any], name: str) -> str | None:
    value = json_values.take(fields, name)
    if value is not None and not isinstance(value, str):
        raise errors.InvalidSpec(f"has {describe(value)} instead of a text in {name!r}")
    return value or None


def _read_reasoning(fields: dict[str, Any]) -> str | None:
    for name in REASONING:
        if (text := _take_text(fields, name)) and text.strip():
            return text
    return None


def _split_thinking(parts: Sequence[Any], reasoning: str | None) -> tuple[Any, str | None]:
    """Return the parts of a content without those that hold reasoning, and the reasoning."""
    is_thinking = [isinstance(part, Mapping) and part.get("type") in ("thinking", "reasoning") for part in parts]
    texts = [
        next((part[name] for name in ("thinking", "reasoning", "text") if isinstance(part.get(name), str)), "")
        for part, is_thought in zip(parts, is_thinking, strict=True)
        if is_thought
    ]
    rest = [part for part, is_thought in zip(parts, is_thinking, strict=True) if not is_thought]
    return rest or None, "".join(texts) or reasoning


def _read_content(value: Any, *, may_be_absent: bool) -> str:
    """Return a text, or the joined texts of OpenAI's content parts."""
    if isinstance(value, str):
        return value
    if value is None and may_be_absent:
        return ""
    if not isinstance(value, (list, tuple)) or not value:
        raise errors.InvalidSpec(f"has {describe(value) if value else 'nothing'} instead of a text in 'content'")
    texts = []
    for part in value:
        fields = json_values.clean(part) if isinstance(part, Mapping) else {}
        kind = fields.get("type", "text")
        if kind not in _TEXT_PARTS or not isinstance(fields.get("text"), str) or any("image" in f for f in fields):
            shown = repr(kind) if isinstance(kind, str) and len(kind) <= _MAX_ROLE else describe(kind)
            what = f"has a part of the type {shown} without a text" if kind in _TEXT_PARTS else f"has a part {shown}"
            raise errors.InvalidSpec(f"{what} in 'content'", fix="only texts can be learned; remove the row")
        texts.append(fields["text"])
    return "".join(texts)
