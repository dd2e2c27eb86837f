"""Row formats of data sets: how a row of each becomes an `Example`; torch-free, so that submitting can check data.

A converter takes one row and returns its example; it raises `InvalidSpec` with every problem of the row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from finch_hub import errors
from finch_hub.specs.examples import Example, Message

Convert = Callable[[Mapping[str, Any]], Example]

# OpenAI renamed "system" to "developer" in 2024; the chat templates of open models know the old name only.
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
}


class Format(NamedTuple):
    """A row format: a row that has all `fields` is taken to be of it."""

    name: str
    fields: frozenset[str]
    convert: Convert


def messages(row: Mapping[str, Any]) -> Example:
    """Convert OpenAI's and TRL's ``{"messages": [{"role", "content"}, …]}``.

    An assistant turn with ``"weight": 0`` is context and not learnt, as in OpenAI's fine-tuning format.
    """
    return _conversation(_turns(row["messages"], "messages", speaker="role", text="content", roles=_ROLES))


def prompt_completion(row: Mapping[str, Any]) -> Example:
    """Convert ``{"prompt", "completion"}``: two texts, or two lists of messages of which the second is learnt."""
    prompt, completion = row["prompt"], row["completion"]
    if not isinstance(prompt, (list, tuple)) and not isinstance(completion, (list, tuple)):
        return _pair(_text(row, "prompt"), _text(row, "completion"), row.get("system"))
    context = _turns(prompt, "prompt", speaker="role", text="content", roles=_ROLES)
    learnt = _turns(completion, "completion", speaker="role", text="content", roles=_ROLES)
    return _conversation([{**turn, "learn": False} for turn in context] + learnt)


def alpaca(row: Mapping[str, Any]) -> Example:
    """Convert Alpaca's ``{"instruction", "input", "output"}``; `input` may be missing or empty.

    A `history` of earlier questions and answers, ``[["…", "…"], …]``, is learnt as LLaMA-Factory does.
    """
    instruction, output = _text(row, "instruction"), _text(row, "output")
    given = _text(row, "input") if row.get("input") else ""
    asked = f"{instruction}\n\n{given}" if given.strip() else instruction
    pair = _pair(asked, output, row.get("system"), names=("instruction", "output"))
    *system, question, answer = pair.messages
    earlier = [
        Message(role=role, content=said)
        for asked, answered in _history(row.get("history") or ())
        for role, said in (("user", asked), ("assistant", answered))
    ]
    return Example(messages=(*system, *earlier, question, answer))


def sharegpt(row: Mapping[str, Any]) -> Example:
    """Convert ShareGPT's ``{"conversations": [{"from", "value"}, …]}``; `system` may stand beside it."""
    turns = _turns(row["conversations"], "conversations", speaker="from", text="value", roles=_SPEAKERS)
    if row.get("system"):
        turns = [{"role": "system", "content": _text(row, "system")}, *turns]
    return _conversation(turns)


def text(row: Mapping[str, Any]) -> Example:
    """Convert ``{"text"}``, which is learnt whole."""
    return Example(text=_text(row, "text"))


BUILTIN: tuple[Format, ...] = (
    Format("messages", frozenset({"messages"}), messages),
    Format("prompt_completion", frozenset({"prompt", "completion"}), prompt_completion),
    Format("alpaca", frozenset({"instruction", "output"}), alpaca),
    Format("sharegpt", frozenset({"conversations"}), sharegpt),
    Format("text", frozenset({"text"}), text),
)


def recognize(row: Mapping[str, Any], formats: Sequence[Format]) -> Format:
    """Return the first format all of whose fields the row has.

    Raises:
        InvalidSpec: none fits; names the missing fields of the format that comes nearest.

    """
    names = row.keys()
    for candidate in formats:
        if candidate.fields <= names:
            return candidate
    nearest = max(formats, key=lambda candidate: len(candidate.fields & names), default=None)
    if nearest is not None and nearest.fields & names:
        missing = " and ".join(repr(name) for name in sorted(nearest.fields - names))
        raise _invalid(f"has no {missing}", fix=f"{nearest.name} rows need {_listed(nearest.fields)}")
    known = "; ".join(f"{candidate.name}: {_listed(candidate.fields)}" for candidate in formats)
    raise _invalid(f"has the fields {_listed(names)} of no known format", fix=f"known are {known}")


def _listed(names: Any) -> str:
    return ", ".join(sorted(str(name) for name in names)) or "(none)"


def _invalid(what: str, *, where: str = "", fix: str = "") -> errors.InvalidSpec:
    return errors.InvalidSpec(errors.Problem(what=what, where=where, fix=fix))


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row[field]
    if not isinstance(value, str):
        raise _invalid(f"is {_kind(value)} where a text belongs", where=field)
    return value


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _history(value: Any) -> list[tuple[str, str]]:
    """Read earlier rounds of a conversation, a question and an answer each."""
    found = []
    for number, turns in enumerate(value if isinstance(value, Sequence) else [value], start=1):
        match turns:
            case [str(asked), str(answered)]:
                found.append((asked, answered))
            case _:
                raise _invalid("is no pair of texts", where=f"history, round {number}", fix='write [["…", "…"], …]')
    return found


def _pair(prompt: str, completion: str, system: Any, *, names: tuple[str, str] = ("prompt", "completion")) -> Example:
    problems = [
        errors.Problem(what="is empty", where=name, fix="every example needs both")
        for name, value in zip(names, (prompt, completion), strict=True)
        if not value.strip()
    ]
    if system is not None and not isinstance(system, str):
        problems.append(errors.Problem(what=f"is {_kind(system)} where a text belongs", where="system"))
    if problems:
        raise errors.InvalidSpec(problems)
    return Example.of_pair(prompt, completion, system)


def _conversation(turns: list[dict[str, Any]]) -> Example:
    return Example.of({"messages": turns})


def _turns(value: Any, field: str, *, speaker: str, text: str, roles: Mapping[str, str]) -> list[dict[str, Any]]:
    """Read a list of turns, with every problem of the list at once."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise _invalid(f"is {_kind(value)} where a list of turns belongs", where=field)
    turns: list[dict[str, Any]] = []
    problems: list[errors.Problem] = []
    for number, turn in enumerate(value, start=1):
        where = f"{field}, turn {number}"
        if not isinstance(turn, Mapping):
            problems.append(errors.Problem(what=f"is {_kind(turn)} where an object belongs", where=where))
            continue
        who = turn.get(speaker)
        if not isinstance(who, str) or who not in roles:
            fix = f"use one of {', '.join(roles)}"
            problems.append(errors.Problem(what=f"has the {speaker} {who!r}", where=where, fix=fix))
            continue
        content = _content(turn.get(text))
        if content is None or turn.get("tool_calls"):
            what = f"has no text in {text!r}" if content is None else "has tool_calls"
            fix = "write what the model shall say, a tool call included, as text"
            problems.append(errors.Problem(what=what, where=where, fix=fix))
            continue
        role = roles[who]
        learn = {} if role != "assistant" or turn.get("weight", 1) else {"learn": False}
        turns.append({"role": role, "content": content, **learn})
    if problems:
        raise errors.InvalidSpec(problems)
    return turns


def _content(value: Any) -> str | None:
    """Return a text, or the joined texts of OpenAI's content parts; None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and not isinstance(value, bytes) and value:
        parts = [part["text"] for part in value if isinstance(part, Mapping) and isinstance(part.get("text"), str)]
        if len(parts) == len(value):
            return "".join(parts)
    return None
