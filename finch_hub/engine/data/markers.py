"""Conversation with markers in place of its texts, which shows what a chat template does with each of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from finch_hub import errors
from finch_hub.engine.data.chat import ChatTemplate, Conversation
from finch_hub.specs.examples import Message
from finch_hub.specs.value import JsonObject

# Templates look for some tags in a turn, as for </think>. Those stay, and the text between them becomes markers.
_TAG = re.compile(r"<[^<>\s]{1,32}>")
_MAX_TAGS = 64
_BLOCKS = [*range(0xE000, 0xF8F4, 12), *range(0xF0000, 0xFFFF0, 12), *range(0x100000, 0x10FFF0, 12)]


class Piece(NamedTuple):
    """Text that a marker stands for."""

    message: int
    text: str
    is_reasoning: bool = False


@dataclass(kw_only=True)
class MarkedConversation:
    """A conversation with markers, and its rendering: `between[0] marker between[1] marker … between[-1]`.

    Attributes:
        found: index of the piece of each marker in the rendering.
    """

    template: ChatTemplate
    conversation: Conversation
    pieces: list[Piece] = field(default_factory=list)
    between: list[str] = field(default_factory=list)
    found: list[int] = field(default_factory=list)
    block: int = 0
    tags: re.Pattern[str] | None = None

    @classmethod
    def of(
        cls,
        template: ChatTemplate,
        conversation: Conversation,
        text: str,
        *,
        only_assistant: bool = False,
        has_calls: bool = True,
    ) -> MarkedConversation:
        """Put markers in a conversation whose rendering is `text`, and render it.

        Args:
            only_assistant: whether only the assistant's turns get markers.
            has_calls: whether the names of called tools get markers too.
        """
        block = _unused_block(text, conversation.messages)
        tags = template.find_all(_TAG)
        pattern = re.compile(f"({'|'.join(map(re.escape, tags))})") if tags else None
        marked = cls(template=template, conversation=conversation, block=block, tags=pattern)
        messages = list(conversation.messages)
        for index, message in enumerate(messages):
            if only_assistant and message.role != "assistant":
                continue
            reasoning = message.reasoning and marked._mark(index, message.reasoning, is_reasoning=True)
            content = marked._mark(index, message.content)
            calls = tuple(marked._mark_call(index, call) for call in message.tool_calls) if has_calls else None
            messages[index] = message.evolve(
                content=content, reasoning=reasoning, tool_calls=message.tool_calls if calls is None else calls
            )
        marked.conversation = conversation._replace(messages=tuple(messages))
        marked.between, marked.found = marked.split(template.render(marked.conversation, generation=False))
        return marked

    def split(self, text: str) -> tuple[list[str], list[int]]:
        """Divide a rendering into the texts between markers, and the indices of their pieces."""
        first = self.block
        pattern = f"{chr(first)}([{chr(first + 2)}-{chr(first + 11)}]+){chr(first + 1)}"
        parts = re.split(pattern, text)
        return parts[::2], [int("".join(str(ord(digit) - first - 2) for digit in part)) for part in parts[1::2]]

    def locate(self, text: str) -> list[tuple[int, int]] | None:
        """Return begin and end of what replaces each marker in the text, or None if the texts do not correspond."""
        spans: list[tuple[int, int]] = []
        place = len(self.between[0])
        if not text.startswith(self.between[0]):
            return None
        for number, (piece, after) in enumerate(zip(self.found, self.between[1:], strict=True), start=1):
            end = place + len(self.pieces[piece].text)
            is_last = number == len(self.found)
            if not text.startswith(self.pieces[piece].text + after, place):
                # The template has changed this piece, so what follows it shows its end, unless the piece contains it.
                if after.strip() and after.strip().casefold() in self.pieces[piece].text.casefold():
                    return None
                end = len(text) - len(after) if is_last else text.find(after, place) if after else -1
            if end < place or not text.startswith(after, end):
                return None
            spans.append((place, end))
            place = end + len(after)
        return spans if place == len(text) else None

    def _mark_call(self, message: int, call: JsonObject) -> JsonObject:
        function = call.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str):
            return call
        return {**call, "function": {**function, "name": self._mark(message, name)}}

    def _mark(self, message: int, text: str, *, is_reasoning: bool = False) -> str:
        """Return the text with a marker for each run between tags. White space around a run stays."""
        parts = self.tags.split(text) if self.tags else [text]
        if len(parts) > 2 * _MAX_TAGS:
            parts = [text]
        marked = []
        for number, part in enumerate(parts):
            core = part.strip()
            if number % 2 or not core:
                marked.append(part)
                continue
            begin = part.index(core)
            marked += [part[:begin], self.marker(len(self.pieces)), part[begin + len(core) :]]
            self.pieces.append(Piece(message, core, is_reasoning))
        return "".join(marked)

    def marker(self, number: int) -> str:
        """Return the marker of a piece."""
        digits = "".join(chr(self.block + 2 + int(digit)) for digit in str(number))
        return f"{chr(self.block)}{digits}{chr(self.block + 1)}"


def _unused_block(text: str, messages: Sequence[Message]) -> int:
    """Return the first of twelve private characters that neither the rendering nor a turn contains.

    Raises:
        Incompatible: the conversation contains a private character of every twelve.
    """
    texts = [text, *(part for message in messages for part in (message.content, message.reasoning or ""))]
    used = {ord(character) for part in texts for character in set(part) if character >= "\ue000"}
    for block in _BLOCKS:
        if used.isdisjoint(range(block, block + 12)):
            return int(block)
    raise errors.Incompatible("the turns contain too many of Unicode's private characters", fix="remove them")
