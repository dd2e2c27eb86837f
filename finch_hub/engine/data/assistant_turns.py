"""Location of the assistant's turns in a rendered conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from finch_hub.engine.data import chat
from finch_hub.specs.examples import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def find_assistant_turns(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, text: str
) -> dict[int, tuple[int, int]]:
    """Return begin and end of each assistant turn in the rendered text, by the turn's index.

    A turn begins after its header, where generation starts, so the model also learns what a template puts before the
    content. The turn is found by rendering the conversation with other content in this turn: the text that both
    renderings share before and after is not the turn. Simpler ways fail. Templates can change earlier turns (Qwen3's
    drops the reasoning of all turns but the last), and most do not mark what the model generates.
    """
    headers = _headers(messages, tokenizer)
    spans: dict[int, tuple[int, int]] = {}
    previous_end = 0
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        replaced = message.evolve(content=_absent_character(message.content))
        turns = [*messages[:index], replaced, *messages[index + 1 :]]
        changed = chat.render(tokenizer, turns, generation=False)
        begin = _count_shared(text, changed)
        end = len(text) - _count_shared(text[begin:][::-1], changed[begin:][::-1])
        for header in headers:
            start = text.rfind(header, previous_end, begin)
            if start >= 0:
                begin = start + len(header)
                break
        spans[index] = (begin, end)
        previous_end = end
    return spans


def _headers(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the template's header of an assistant turn, and its beginnings that end a line, the longest first.

    A template can shorten the header: if it drops the turn's reasoning, or if the turn has reasoning of its own.
    """
    first = next(i for i, message in enumerate(messages) if message.role == "assistant")
    question = messages[:first] or [Message(role="user", content="")]
    without = chat.render(tokenizer, question, generation=False)
    with_prompt = chat.render(tokenizer, question, generation=True)
    if not with_prompt.startswith(without):
        return []
    header = with_prompt.removeprefix(without)
    ends = {index + 1 for index, character in enumerate(header) if character == "\n"} | {len(header)}
    return [header[:end] for end in sorted(ends, reverse=True) if end]


def _count_shared(first: str, second: str) -> int:
    """Return the number of characters that both texts begin with."""
    pairs = zip(first, second, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _absent_character(content: str) -> str:
    """Return a character of the private use area that is not in the content."""
    return next(character for character in map(chr, range(0xE000, 0xF900)) if character not in content)
