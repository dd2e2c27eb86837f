"""Places of assistant turns in a rendered conversation.

Where an answer begins and ends is asked of the chat template: by the prompt of a generation before the turn, and by the
conversation that ends with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from finch_hub import errors
from finch_hub.engine.data.chat import ChatTemplate
from finch_hub.engine.data.markers import MarkedConversation


class Turn(NamedTuple):
    """Characters of an assistant turn, from where generation begins to the end of its end-of-turn token.

    Attributes:
        is_ended: whether the template ends the turn with a token of its own.
    """

    begin: int
    end: int
    is_ended: bool


@dataclass(frozen=True, kw_only=True)
class _Edges:
    """What a template writes around an assistant turn: offsets in the texts before and after its markers."""

    begin: int
    end: int
    is_ended: bool


class TurnFinder:
    """Finds where generation begins and ends for each assistant turn."""

    def __init__(self, template: ChatTemplate, marked: MarkedConversation, spans: Sequence[tuple[int, int]]) -> None:
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


def _shared(first: str, second: str) -> str:
    """Return the characters that both texts begin with."""
    count = min(len(first), len(second))
    return first[: next((place for place in range(count) if first[place] != second[place]), count)]
