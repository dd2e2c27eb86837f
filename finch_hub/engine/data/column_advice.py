"""Advice for rows whose columns cannot be read: the options that name the columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from finch_hub import errors
from finch_hub.specs.options import write_options

# Parts of names that columns of questions and answers have.
_PROMPT_WORDS = re.compile("prompt|question|query|instruction|input|user|human|customer|request|frage|pregunta")
_ANSWER_WORDS = re.compile(
    "completion|answer|response|reply|output|assistant|agent|bot|solution|target|antwort|respuesta"
)
_MAX_NAME_WORDS = 4
_NO_NAMES = (
    "if these are not names but values of a row, name the columns, in CSV by a first line such as prompt,completion"
)


def suggest_columns(columns: Sequence[str], row: Mapping[str, Any], named: Mapping[str, str]) -> str:
    """Return the options that would make rows of these columns readable.

    Args:
        row: one of the rows.
        named: columns that the user has named, by the field that they are read as. Some may not exist.
    """
    found = {f"{field}_column": column for field, column in _guess_columns(columns, row, named).items()}
    advice = f"name the columns: add {write_options(found)}"
    return f"{_NO_NAMES}; otherwise {advice}" if any(map(_looks_like_text, columns)) else advice


def suggest_answers(row: Mapping[str, Any], answers: Sequence[str], others: Sequence[str]) -> dict[str, str]:
    """Return the options that read one of these columns as the answer; none if the row has no prompt for it.

    Args:
        others: columns that hold no prompt.
    """
    answer = next((name for name in answers if _looks_like_turns(row[name])), None)
    if answer is not None and len(row[answer]) > 1 and "prompt" not in row:
        return {"messages_column": answer}
    answer = answer or next((name for name in answers if isinstance(row[name], str)), None)
    prompts = [
        name
        for name, value in row.items()
        if name not in others and (isinstance(value, str) or _looks_like_turns(value))
    ]
    prompt = "prompt" if "prompt" in prompts else _find_word(prompts, _PROMPT_WORDS, other=None)
    if answer is None or prompt is None:
        return {}
    return {**({"prompt_column": prompt} if prompt != "prompt" else {}), "completion_column": answer}


def _guess_columns(columns: Sequence[str], row: Mapping[str, Any], named: Mapping[str, str]) -> dict[str, str]:
    turns = next((str(name) for name, value in row.items() if _looks_like_turns(value)), None)
    if "messages" in named or (turns and not named):
        near = errors.near(named.get("messages", ""), columns)
        return {"messages": turns or (near[0] if near else "COLUMN")}
    prompt, answer = (_find_named(columns, named.get(field)) for field in ("prompt", "completion"))
    prompt = prompt or _find_word(columns, _PROMPT_WORDS, other=answer)
    answer = answer or _find_word(columns, _ANSWER_WORDS, other=prompt)
    if len(columns) == 2 and prompt != answer:  # one is known, so that the other column is the other text
        prompt = prompt or next(name for name in columns if name != answer)
        answer = answer or next(name for name in columns if name != prompt)
    return {"prompt": prompt or "COLUMN", "completion": answer or "COLUMN"}


def _find_named(columns: Sequence[str], name: str | None) -> str | None:
    """Return the column that a user has named, or the one whose name is nearest."""
    return name if name is None or name in columns else next(iter(errors.near(name, columns)), None)


def _find_word(columns: Sequence[str], words: re.Pattern[str], *, other: str | None) -> str | None:
    return next((name for name in columns if name != other and words.search(str(name).lower())), None)


def _looks_like_turns(value: object) -> bool:
    if isinstance(value, str):
        return value.startswith(('[{"role"', '[{"from"'))
    first = value[0] if isinstance(value, (list, tuple)) and value else None
    return isinstance(first, Mapping) and not {"role", "from"}.isdisjoint(first)


def _looks_like_text(name: str) -> bool:
    """Tell whether the name of a column is rather a text or number of a row, as in a table without a header."""
    words = name.split()
    is_sentence = len(words) > 1 and name.rstrip("\"'”»)")[-1:] in tuple(".?!。？！…")
    is_number = bool(re.fullmatch(r"[-+]?[0-9]+([.,][0-9]+)?", name.strip()))
    return is_sentence or is_number or len(words) > _MAX_NAME_WORDS or name.startswith(("{", "["))
