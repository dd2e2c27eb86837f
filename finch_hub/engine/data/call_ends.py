"""The token with which a chat template ends a turn that calls tools, such as ``<|call|>`` or ``<|eom_id|>``."""

from __future__ import annotations

import re

from finch_hub.engine.data.frame import Render, cut_header
from finch_hub.specs.examples import Message
from finch_hub.specs.value import JsonObject

_MARKERS = ("first-place-of-a-bird", "second-place-of-a-bird")
_QUESTION = Message(role="user", content="?")


def find_call_end(render: Render, added_tokens: re.Pattern[str], end_of_text: str | None = None) -> str | None:
    """Return the token that ends a turn with calls, None if nothing but text ends it.

    A token that also stands between two calls of one turn, such as ``</tool_call>``, does not end it.

    Args:
        added_tokens: pattern of the tokens that a tokenizer adds to its vocabulary.
        end_of_text: the tokenizer's token of this kind.
    """
    _, written, tail = render(_turns(1), _TOOLS, generation=False).rpartition(_MARKERS[0])
    tail = cut_header(tail, render, end_of_text)
    found = list(added_tokens.finditer(tail))
    if not written or not found or tail[found[-1].end() :].strip():
        return None
    end = found[-1][0]
    both = render(_turns(2), _TOOLS, generation=False)  # empty for templates that allow one call in a turn
    between = both.partition(_MARKERS[0])[2].rpartition(_MARKERS[1])[0]
    question = render((_QUESTION,), _TOOLS, generation=False)
    header = render((_QUESTION,), _TOOLS, generation=True).removeprefix(question).strip()
    # Some templates write a turn for each call.
    is_one_turn = not header or header not in between
    return None if end in between and is_one_turn else end


def _turns(num_calls: int) -> tuple[Message, ...]:
    calls: tuple[JsonObject, ...] = tuple(
        {"type": "function", "id": f"call{number:05d}", "function": {"name": "look", "arguments": {"at": marker}}}
        for number, marker in enumerate(_MARKERS[:num_calls])
    )
    return (_QUESTION, Message(role="assistant", content="", tool_calls=calls))


_TOOLS: tuple[JsonObject, ...] = (
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Look at a place.",
            "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
        },
    },
)
