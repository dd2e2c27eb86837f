"""Place of each assistant turn in a rendered conversation.

Most templates do not mark what the model generates, some change earlier turns (Qwen3's drops the reasoning of all but
the last), and a turn's text can be anywhere in the others. So the conversation is rendered once more with markers
instead of its texts. What is between the markers is the template's own, and what replaces them are the turns. Where an
answer begins and ends is then asked of the template: by the prompt of a generation before the turn, and by the
conversation that ends with it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from finch_hub import errors
from finch_hub.engine.data.chat import ChatTemplate, Conversation, fold_system
from finch_hub.specs.examples import Message
from finch_hub.specs.value import JsonObject

# Templates look for some tags in a turn, as for </think>. Those stay, and the text between them becomes markers.
_TAG = re.compile(r"<[^<>\s]{1,32}>")
_MAX_TAGS = 64
_BLOCKS = [*range(0xE000, 0xF8F4, 12), *range(0xF0000, 0xFFFF0, 12), *range(0x100000, 0x10FFF0, 12)]


class Turn(NamedTuple):
    """Characters of an assistant turn, from where generation begins to the end of its end-of-turn token.

    Attributes:
        is_ended: whether the template ends the turn with a token of its own.
    """

    begin: int
    end: int
    is_ended: bool


@dataclass(frozen=True, kw_only=True)
class RenderedConversation:
    """Text of a conversation.

    Attributes:
        turns: assistant turns by their index, as far as the template writes them.
        changes: what the template drops, changes or moves, in words.
    """

    text: str
    turns: Mapping[int, Turn]
    changes: tuple[str, ...] = ()


def render_turns(template: ChatTemplate, conversation: Conversation) -> RenderedConversation:
    """Render a conversation and find its assistant turns.

    The number of renderings depends on how many kinds of neighbors the turns have, and not on the number of turns.

    Raises:
        Incompatible: the template cannot render these turns, leaves out what answers rest on (tools, documents, tool
            turns, all reasoning), or writes an answer so that its place is unclear.
    """
    changes = []
    if conversation.messages[0].role == "system" and not template.has_system_role and not template.is_missing:
        folded = fold_system(conversation.messages)
        if folded != conversation.messages:
            changes.append("the system prompt is put into the first user turn, since the template has no system role")
            conversation = conversation._replace(messages=folded)
    text = template.render(conversation, generation=False)
    _check_fields(template, conversation, text)
    marked = _Marked.of(template, conversation, text)
    spans = marked.locate(text)
    changes += _describe_changes(conversation.messages, marked, spans, text)
    if spans is None:
        # Some templates look into system and user turns, for example for /no_think.
        marked = _Marked.of(template, conversation, text, only_assistant=True)
        spans = marked.locate(text)
    if spans is None:
        # Some know tools by their names.
        marked = _Marked.of(template, conversation, text, only_assistant=True, has_calls=False)
        spans = marked.locate(text)
    if spans is None:
        raise errors.Incompatible(
            "the chat template changes the turns so that the answers cannot be found in its text",
            fix="use a base with another template, or give rows as text",
        )
    changes += _find_control_tokens(template, conversation.messages)
    if any(message.name for message in conversation.messages):
        nameless = tuple(message.evolve(name=None) for message in conversation.messages)
        if template.render(conversation._replace(messages=nameless), generation=False) == text:
            changes.append("names of speakers and of tools in their turns are dropped")
    turns = _Finder(template, marked, spans).turns()
    for index, message in enumerate(conversation.messages):
        content = message.content.strip()
        if message.role == "assistant" and message.learn and content and index not in turns and content in text:
            what = f"the place of turn {index + 1} in the text of the chat template is unclear"
            raise errors.Incompatible(what, fix="use a base with another template")
    return RenderedConversation(text=text, turns=turns, changes=tuple(dict.fromkeys(changes)))


class _Piece(NamedTuple):
    """Text that a marker stands for."""

    message: int
    text: str
    is_reasoning: bool = False


@dataclass(kw_only=True)
class _Marked:
    """A conversation with markers, and its rendering: `between[0] marker between[1] marker … between[-1]`.

    Attributes:
        found: index of the piece of each marker in the rendering.
    """

    template: ChatTemplate
    conversation: Conversation
    pieces: list[_Piece] = field(default_factory=list)
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
    ) -> _Marked:
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
            self.pieces.append(_Piece(message, core, is_reasoning))
        return "".join(marked)

    def marker(self, number: int) -> str:
        """Return the marker of a piece."""
        digits = "".join(chr(self.block + 2 + int(digit)) for digit in str(number))
        return f"{chr(self.block)}{digits}{chr(self.block + 1)}"


@dataclass(frozen=True, kw_only=True)
class _Edges:
    """What a template writes around an assistant turn: offsets in the texts before and after its markers."""

    begin: int
    end: int
    is_ended: bool


class _Finder:
    """Finds where generation begins and ends for each assistant turn."""

    def __init__(self, template: ChatTemplate, marked: _Marked, spans: Sequence[tuple[int, int]]) -> None:
        self._template, self._marked = template, marked
        self._spans = spans  # begin and end of what replaces each marker
        self._edges: dict[tuple[str, str | None, bool], _Edges | None] = {}
        self._begins: dict[tuple[str, int | None], int] = {}
        self._owners = [marked.pieces[piece].message for piece in marked.found]

    def turns(self) -> dict[int, Turn]:
        """Return the assistant turns that the template writes, by their index."""
        places: dict[int, list[int]] = {}
        for place, owner in enumerate(self._owners):
            places.setdefault(owner, []).append(place)
        turns: dict[int, Turn] = {}
        previous = -1  # last place of the turns before
        for index, message in enumerate(self._marked.conversation.messages):
            own = places.get(index, [])
            if message.role == "assistant":
                turn = self._find(index, own, previous)
                if turn is not None:
                    turns[index] = turn
            previous = max([previous, *own])
        return turns

    def _find(self, index: int, own: list[int], previous: int) -> Turn | None:
        message = self._marked.conversation.messages[index]
        if own:
            first, last = own[0], own[-1]
            if len(own) != last - first + 1 or len({self._marked.found[place] for place in own}) != len(own):
                if not message.learn:
                    return None
                what = f"the chat template writes turn {index + 1} in several places, so that it cannot be learned"
                raise errors.Incompatible(what, fix="use a base with another template")
            before, after = self._marked.between[first], self._marked.between[last + 1]
            edges = self._find_edges(index, before, after)
            if edges is None:
                return None
            begin = self._spans[first][0] - len(before) + edges.begin
            return Turn(begin, self._spans[last][1] + edges.end, edges.is_ended)
        # The turn has no text. It is between the turns around it, if the template writes it.
        if previous + 1 < len(self._owners) and self._owners[previous + 1] < index:
            return None
        between = self._marked.between[previous + 1]
        edges = self._find_edges(index, between, None)
        if edges is None:
            return None
        start = self._spans[previous][1] if previous >= 0 else 0
        return Turn(start + edges.begin, start + edges.end, edges.is_ended)

    def _find_edges(self, index: int, before: str, after: str | None) -> _Edges | None:
        """Return the edges of a turn. `after` is None for a turn without text."""
        messages = self._marked.conversation.messages
        end = self._template.frame.end
        if after is not None and messages[index].tool_calls and end and after.count(end) == 1:
            # The arguments of calls differ from turn to turn, and asking the template for each one would be slow.
            return _Edges(begin=self._find_begin(index, before), end=after.find(end) + len(end), is_ended=True)
        # Turns without text can be neighbors between the same texts.
        key = (before, f"{index}" if after is None else after, index == len(messages) - 1)
        if key not in self._edges:
            self._edges[key] = self._ask_template(index, before, after)
        return self._edges[key]

    def _find_begin(self, index: int, before: str, *, is_empty: bool = False) -> int:
        """Return where generation begins in the text before a turn."""
        # The text before a turn without text goes on after it.
        key = (before, index if is_empty else None)
        if key not in self._begins:
            header = self._tail(index, generation=True)
            if header is None or header.startswith(before):
                self._begins[key] = len(before)
            elif before.startswith(header):
                self._begins[key] = len(header)
            else:
                self._begins[key] = self._shortened_header(index, before, header)
        return self._begins[key]

    def _ask_template(self, index: int, before: str, after: str | None) -> _Edges | None:
        begin = self._find_begin(index, before, is_empty=after is None)
        tail = self._tail(index + 1, generation=False)
        if after is None:
            if begin == len(before) or tail is None:
                return None
            shared = _shared(before, tail)
            if len(shared) < begin:
                return None
            lead = self._template.frame.before
            place = begin + len(lead) if shared.startswith(lead, begin) else begin
            end, is_ended = self._end(shared[place:], before[place:], tail[place:], index)
            return _Edges(begin=begin, end=place + end, is_ended=is_ended)
        tail = self._template.frame.after if tail is None else tail
        end, is_ended = self._end(_shared(after, tail), after, tail, index)
        return _Edges(begin=begin, end=end, is_ended=is_ended)

    def _shortened_header(self, index: int, before: str, header: str) -> int:
        """Return the length of the header of a turn that has only the beginning of a generation's header."""
        ended = self._tail(index, generation=False)
        shared = _shared(before, header)
        if ended is None or not shared.startswith(ended):
            return len(before)
        added = self._template.added_tokens
        borders = [
            len(ended),
            shared.rfind("\n") + 1,
            *(match.end() for match in (added.finditer(shared) if added else ())),
        ]
        return max(borders)

    def _tail(self, count: int, *, generation: bool) -> str | None:
        """Return what the template writes after the last marker of the first turns, or None if it refuses them."""
        if count == 0:
            return None
        messages = self._marked.conversation.messages[:count]
        try:
            text = self._template.render(self._marked.conversation._replace(messages=messages), generation=generation)
        except errors.Incompatible:
            return None
        return self._marked.split(text)[0][-1]

    def _end(self, shared: str, after: str, tail: str, index: int) -> tuple[int, bool]:
        """Return where a turn ends in the text after it, and whether a token ends it.

        Args:
            shared: what is after the turn whether it is the last one or not.
            after: what is after the turn here.
            tail: what is after the turn if it is the last one.
        """
        added = self._template.added_tokens
        frame = self._template.frame
        if frame.header and shared.startswith(frame.header):
            return 0, False
        # The arguments of a call can contain anything.
        has_calls = bool(self._marked.conversation.messages[index].tool_calls)
        if frame.end and (place := (shared.rfind if has_calls else shared.find)(frame.end)) >= 0:
            return place + len(frame.end), True
        found = list(added.finditer(shared)) if added else []
        if found:
            return found[-1 if has_calls else 0].end(), True
        # Some templates end the last turn with another token than the others (<|return|> and <|end|> of gpt-oss).
        if frame.middle and after.lstrip().startswith(frame.middle):
            return len(after) - len(after.lstrip()) + len(frame.middle), True
        end = tail.rstrip()
        return (len(end), False) if end and shared.startswith(end) else (0, False)


def _check_fields(template: ChatTemplate, conversation: Conversation, text: str) -> None:
    """Refuse a template that does not write what the answers rest on."""
    problems = []
    messages = conversation.messages
    without_calls = tuple(message.evolve(tool_calls=()) for message in messages)
    without_reasoning = tuple(message.evolve(reasoning=None) for message in messages)
    variants: dict[str, Conversation] = {}
    if conversation.tools:
        variants["tools"] = conversation._replace(tools=())
    if conversation.documents:
        variants["documents"] = conversation._replace(documents=())
    if without_calls != messages:
        variants["tool_calls"] = conversation._replace(messages=without_calls)
    if without_reasoning != messages:
        variants["reasoning_content"] = conversation._replace(messages=without_reasoning)
    for name, variant in variants.items():
        try:
            is_written = template.render(variant, generation=False) != text
        except errors.Incompatible:
            is_written = True
        if not is_written:
            fix = f"remove {name} from the data, or use a base whose template writes it"
            problems.append(errors.Problem(where=name, what="is not written by the chat template", fix=fix))
    written = {
        "tools": [tool.get("function", tool).get("name", "") for tool in conversation.tools],
        "documents": [str(document.get("text", "")).strip() for document in conversation.documents],
    }
    known = {problem.where for problem in problems}
    for name, texts in written.items():
        if name not in known and (lost := sum(part not in text for part in texts)):
            fix = f"give fewer {name}, or use a base whose template writes all of them"
            what = f"{lost} of {len(texts)} are not written by the chat template"
            problems.append(errors.Problem(where=name, what=what, fix=fix))
    if problems:
        raise errors.Incompatible(problems)


def _describe_changes(
    messages: Sequence[Message], marked: _Marked, spans: Sequence[tuple[int, int]] | None, text: str
) -> Iterator[str]:
    """Yield what the template drops, changes or moves, in words that are equal for all rows."""
    counts = Counter(marked.found)
    rendered = "".join(
        part
        for number, between in enumerate(marked.between)
        for part in (between, marked.marker(marked.found[number]) if number < len(marked.found) else "")
    )
    owned: dict[int, list[int]] = {}
    for number, piece in enumerate(marked.pieces):
        owned.setdefault(piece.message, []).append(number)
    altered = {
        marked.pieces[piece].message
        for piece, (begin, end) in zip(marked.found, spans or (), strict=False)
        if text[begin:end] != marked.pieces[piece].text
    }
    for index, message in enumerate(messages):
        numbers = owned.get(index, [])
        spoken = [number for number in numbers if not marked.pieces[number].is_reasoning]
        thought = [number for number in numbers if marked.pieces[number].is_reasoning]
        if thought and not all(counts[number] for number in thought):
            yield "the reasoning of earlier turns is dropped"
        if not spoken:
            continue
        content = marked.conversation.messages[index].content
        if not any(counts[number] for number in spoken):
            if message.role == "tool":
                fix = "remove tool turns from the data, or use a base whose template writes them"
                raise errors.Incompatible("tool turns are not written by the chat template", fix=fix)
            yield f"{message.role} turns are dropped"
        elif not all(counts[number] for number in spoken):
            yield f"{message.role} turns are written in part"
        elif index in altered or (content.strip() not in rendered):
            yield f"the text of {message.role} turns is changed"
        elif content not in rendered:
            yield f"white space around {message.role} turns is removed"
        if any(counts[number] > 1 for number in spoken):
            yield f"{message.role} turns are written more than once"
    order = [marked.pieces[piece].message for piece in dict.fromkeys(marked.found)]
    if order != sorted(order):
        yield "the turns are written in another order"


def _find_control_tokens(template: ChatTemplate, messages: Sequence[Message]) -> Iterator[str]:
    token = template.frame.end
    if token is not None and any(token in message.content for message in messages):
        yield f"turns contain {token}, which ends a turn"


def _unused_block(text: str, messages: Sequence[Message]) -> int:
    """Return the first of twelve private characters that neither the rendering nor a turn contains."""
    texts = [text, *(part for message in messages for part in (message.content, message.reasoning or ""))]
    used = {ord(character) for part in texts for character in set(part) if character >= "\ue000"}
    return next(int(block) for block in _BLOCKS if used.isdisjoint(range(block, block + 12)))


def _shared(first: str, second: str) -> str:
    """Return the characters that both texts begin with."""
    count = min(len(first), len(second))
    return first[: next((place for place in range(count) if first[place] != second[place]), count)]
