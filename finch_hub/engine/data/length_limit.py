"""Shortening of conversations that are longer than the maximum length, at the borders of turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from finch_hub.engine.data.chat import Conversation
from finch_hub.specs.examples import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A prompt that is cut at a token can have a token more than expected.
_ATTEMPTS = 3


class Measure(NamedTuple):
    """Length of a conversation in tokens, and number of the tokens before its first label."""

    tokens: int
    prompt: int


def shorten(
    conversation: Conversation,
    measure: Callable[[Conversation], Measure],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
) -> Conversation:
    """Return a conversation that is shorter, if possible not longer than the maximum length.

    The system prompt and the last exchange stay. Earlier exchanges are dropped, the earliest first. If that is not
    enough, the longest prompt loses its beginning, but never more than half of the tokens before the first label.
    The template writes the rest, so the text begins as every other text does, and no turn is without its header.
    """
    starts = _exchanges(conversation.messages)
    fewest, most = 0, len(starts) - 1
    while fewest < most:  # a binary search for the smallest number of exchanges to drop
        middle = (fewest + most) // 2
        if measure(_drop(conversation, starts, middle)).tokens <= max_length:
            most = middle
        else:
            fewest = middle + 1
    shorter = whole = _drop(conversation, starts, fewest)
    measured = measure(whole)
    spare, excess = measured.prompt // 2, measured.tokens - max_length
    for _ in range(_ATTEMPTS):
        if excess <= 0:
            break
        shorter = _shorten_prompt(whole, min(excess, spare), tokenizer)
        if excess >= spare:
            break
        excess += max(0, measure(shorter).tokens - max_length)
    return shorter


def _exchanges(messages: Sequence[Message]) -> list[int]:
    """Return the turns with which an exchange begins after which something is learned."""
    last = max((i for i, message in enumerate(messages) if message.role == "assistant" and message.learn), default=0)
    first = next((i for i, message in enumerate(messages) if message.role != "system"), 0)
    return [first] + [
        i
        for i in range(first + 1, last)
        if messages[i].role == "user" and messages[i - 1].role not in ("user", "system")
    ]


def _drop(conversation: Conversation, starts: Sequence[int], number: int) -> Conversation:
    messages = conversation.messages
    return conversation._replace(messages=(*messages[: starts[0]], *messages[starts[number] :]))


def _shorten_prompt(conversation: Conversation, excess: int, tokenizer: PreTrainedTokenizerBase) -> Conversation:
    messages = list(conversation.messages)
    prompts = [i for i, message in enumerate(messages) if message.role not in ("assistant", "system")]
    if not prompts:
        return conversation
    longest = max(prompts, key=lambda index: len(messages[index].content))
    content = messages[longest].content
    offsets = tokenizer(content, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    place = offsets[min(excess, len(offsets) - 1)][0] if offsets else 0
    messages[longest] = messages[longest].evolve(content=content[place:])
    return conversation._replace(messages=tuple(messages))
