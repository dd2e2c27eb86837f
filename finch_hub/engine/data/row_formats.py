"""Row formats of datasets. Free of torch, so that data is checked at submit.

A converter takes one row and returns its example. It raises `InvalidSpec` with every problem of the row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from finch_hub import errors
from finch_hub.specs.examples import Example, Message, Role

Convert = Callable[[Mapping[str, Any]], Example]

# OpenAI renamed "system" to "developer" in 2024. Chat templates of open models know only the old name.
_ROLES: Mapping[str, Role] = {**{role: role for role in get_args(Role)}, "developer": "system"}
_SPEAKERS: Mapping[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
}
_MAX_ROLE = 20  # characters


class RowFormat(NamedTuple):
    """One row format. A row that has all `fields` is read in this format."""

    name: str
    fields: frozenset[str]
    convert: Convert


def convert_messages(row: Mapping[str, Any]) -> Example:
    """Convert OpenAI's and TRL's ``{"messages": [{"role", "content"}, …]}``.

    An assistant turn with ``"weight": 0`` is context and not trained on, as in OpenAI's fine-tuning format.
    """
    return Example(messages=tuple(_turns(row["messages"], "messages", speaker="role", text="content", roles=_ROLES)))


def convert_prompt_completion(row: Mapping[str, Any]) -> Example:
    """Convert ``{"prompt", "completion"}``: two texts, or two lists of messages. Only the second one is trained on."""
    prompt, completion = row["prompt"], row["completion"]
    if not isinstance(prompt, (list, tuple)) and not isinstance(completion, (list, tuple)):
        return _make_pair(_text(row, "prompt"), _text(row, "completion"), row.get("system"))
    context = _turns(prompt, "prompt", speaker="role", text="content", roles=_ROLES)
    answer = _turns(completion, "completion", speaker="role", text="content", roles=_ROLES)
    return Example(messages=tuple([turn.evolve(learn=False) for turn in context] + answer))


def convert_alpaca(row: Mapping[str, Any]) -> Example:
    """Convert Alpaca's ``{"instruction", "input", "output"}``. `input` can be missing or empty.

    A `history` of earlier questions and answers, ``[["…", "…"], …]``, is trained on, as in LLaMA-Factory.
    """
    instruction, output = _text(row, "instruction"), _text(row, "output")
    details = _text(row, "input") if row.get("input") else ""
    prompt = f"{instruction}\n\n{details}" if details.strip() else instruction
    pair = _make_pair(prompt, output, row.get("system"), names=("instruction", "output"))
    *system, question, answer = pair.messages
    earlier = [
        Message(role=role, content=content)
        for round_ in _history(row.get("history") or ())
        for role, content in zip(("user", "assistant"), round_, strict=True)
    ]
    return Example(messages=(*system, *earlier, question, answer))


def convert_sharegpt(row: Mapping[str, Any]) -> Example:
    """Convert ShareGPT's ``{"conversations": [{"from", "value"}, …]}``, with an optional `system`."""
    turns = _turns(row["conversations"], "conversations", speaker="from", text="value", roles=_SPEAKERS)
    if row.get("system"):
        turns = [Message(role="system", content=_text(row, "system")), *turns]
    return Example(messages=tuple(turns))


def convert_text(row: Mapping[str, Any]) -> Example:
    """Convert ``{"text"}``, which is trained on whole."""
    return Example(text=_text(row, "text"))


BUILTIN: tuple[RowFormat, ...] = (
    RowFormat("messages", frozenset({"messages"}), convert_messages),
    RowFormat("prompt_completion", frozenset({"prompt", "completion"}), convert_prompt_completion),
    RowFormat("alpaca", frozenset({"instruction", "output"}), convert_alpaca),
    RowFormat("sharegpt", frozenset({"conversations"}), convert_sharegpt),
    RowFormat("text", frozenset({"text"}), convert_text),
)


def recognize(row: Mapping[str, Any], formats: Sequence[RowFormat]) -> RowFormat:
    """Return the first format whose fields are all in the row.

    Raises:
        InvalidSpec: no format fits. The error names the missing fields of the nearest format.
    """
    names = row.keys()
    for row_format in formats:
        if row_format.fields <= names:
            return row_format
    nearest = max(formats, key=lambda row_format: len(row_format.fields & names), default=None)
    if nearest is not None and nearest.fields & names:
        missing = " and ".join(repr(name) for name in sorted(nearest.fields - names))
        raise _invalid(f"has no {missing}", fix=f"{nearest.name} rows need {_listed(nearest.fields)}")
    known = "; ".join(f"{row_format.name}: {_listed(row_format.fields)}" for row_format in formats)
    raise _invalid(f"has only the fields {_listed(names)}, which fit no format", fix=f"known formats: {known}")


def _listed(names: Any) -> str:
    return ", ".join(sorted(str(name) for name in names)) or "(none)"


def _invalid(what: str, *, where: str = "", fix: str = "") -> errors.InvalidSpec:
    return errors.InvalidSpec(what, where=where, fix=fix)


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row[field]
    if not isinstance(value, str):
        raise _invalid(f"is {_kind(value)} instead of a text", where=field)
    return value


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _history(value: Any) -> list[tuple[str, str]]:
    """Read earlier rounds of a conversation: one question and one answer each."""
    rounds = []
    for number, turns in enumerate(value if isinstance(value, Sequence) else [value], start=1):
        match turns:
            case [str(question), str(answer)]:
                rounds.append((question, answer))
            case _:
                what = "is not a pair of texts"
                raise _invalid(what, where=f"history, round {number}", fix='write [["…", "…"], …]')
    return rounds


def _make_pair(
    prompt: str, completion: str, system: Any, *, names: tuple[str, str] = ("prompt", "completion")
) -> Example:
    problems = [
        errors.Problem(what="is empty", where=name, fix="give both texts")
        for name, value in zip(names, (prompt, completion), strict=True)
        if not value.strip()
    ]
    if system is not None and not isinstance(system, str):
        problems.append(errors.Problem(what=f"is {_kind(system)} instead of a text", where="system"))
    if problems:
        raise errors.InvalidSpec(problems)
    return Example.of_pair(prompt, completion, system)


def _turns(value: Any, field: str, *, speaker: str, text: str, roles: Mapping[str, Role]) -> list[Message]:
    """Read a list of turns, and raise every problem of the list at once."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise _invalid(f"is {_kind(value)} instead of a list of turns", where=field)
    turns: list[Message] = []
    problems: list[errors.Problem] = []
    for number, turn in enumerate(value, start=1):
        where = f"{field}, turn {number}"
        if not isinstance(turn, Mapping):
            problems.append(errors.Problem(what=f"is {_kind(turn)} instead of an object", where=where))
            continue
        name = turn.get(speaker)
        if not isinstance(name, str) or name not in roles:
            fix = f"use one of {', '.join(roles)}"
            # A longer name is a text in the wrong field, and errors repeat no text of a data set.
            shown = repr(name) if isinstance(name, str) and len(name) <= _MAX_ROLE else _kind(name)
            problems.append(errors.Problem(what=f"has the {speaker} {shown}", where=where, fix=fix))
            continue
        content = _content(turn.get(text))
        if content is None or turn.get("tool_calls"):
            what = f"has no text in {text!r}" if content is None else "has tool_calls"
            fix = "write the model's output as text, tool calls too"
            problems.append(errors.Problem(what=what, where=where, fix=fix))
            continue
        role = roles[name]
        turns.append(Message(role=role, content=content, learn=role != "assistant" or bool(turn.get("weight", 1))))
    if problems:
        raise errors.InvalidSpec(problems)
    return turns


def _content(value: Any) -> str | None:
    """Return a text, or the joined texts of OpenAI's content parts. Return None for other values."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and not isinstance(value, bytes) and value:
        parts = [part["text"] for part in value if isinstance(part, Mapping) and isinstance(part.get("text"), str)]
        if len(parts) == len(value):
            return "".join(parts)
    return None
