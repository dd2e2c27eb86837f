"""The token with which a chat template ends a turn that calls tools, such as ``<|call|>`` or ``<|eom_id|>``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from finch_hub.specs.examples import Message
from finch_hub.specs.value import JsonObject

_MARKERS = ("first-place-of-a-bird", "second-place-of-a-bird")
_QUESTION = Message(role="user", content="?")


class Render(Protocol):
    """Function that returns the text of turns with these tools, empty if the template cannot render them."""

    def __call__(self, messages: tuple[Message, ...], tools: tuple[JsonObject, ...], *, generation: bool) -> str:
        """Return the text, with the header of an answer if `generation` is set."""


def find_call_end(
    render: Render, added_tokens: re.Pattern[str], without_header: Callable[[str], str] = lambda text: text
) -> str | None:
    """Return the token that ends a turn with calls, None if nothing but text ends it.

    A token that also stands between two calls of one turn, such as ``</tool_call>``, does not end it.

    Args:
        added_tokens: pattern of the tokens that a tokenizer adds to its vocabulary.
        without_header: function that returns the text after a turn without the header of the next one.
    """
    _, written, tail = render(_turns(1), _TOOLS, generation=False).rpartition(_MARKERS[0])
    tail = without_header(tail)
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
