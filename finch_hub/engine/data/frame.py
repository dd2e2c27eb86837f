"""What a chat template writes around an answer, asked of the template."""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

from finch_hub.specs.examples import Message
from finch_hub.specs.value import JsonObject

_MARKER = "\ue000answer\ue001"
_QUESTION, _ANSWER = Message(role="user", content=_MARKER), Message(role="assistant", content="!")


class Render(Protocol):
    """Function that returns the text of turns with these tools, empty if the template cannot render them."""

    def __call__(self, messages: tuple[Message, ...], tools: tuple[JsonObject, ...] = (), *, generation: bool) -> str:
        """Return the text, with the header of an answer if `generation` is set."""


class Frame(NamedTuple):
    """What a template writes around an answer, after the prompt of a generation.

    Attributes:
        before: text before the answer, such as a blank or the name of a channel.
        after: text after the answer of the last turn.
        ends: the tokens in `after` that end the turn, one directly after the other, if the tokenizer adds such tokens
            to its vocabulary.
        middle: the token that ends a turn before other turns, if it is another one.
        header: header of the next answer, if the template writes it whether an answer is asked for or not.
    """

    before: str
    after: str
    ends: tuple[str, ...] = ()
    middle: str | None = None
    header: str = ""

    @property
    def end(self) -> str | None:
        """The last token of the end of a turn."""
        return self.ends[-1] if self.ends else None


def find_frame(render: Render, added_tokens: re.Pattern[str] | None, end_of_text: str | None) -> Frame:
    """Return what a template writes around an answer.

    Args:
        added_tokens: pattern of the tokens that a tokenizer adds to its vocabulary.
        end_of_text: the tokenizer's token of this kind.
    """
    question, answer = Message(role="user", content="?"), Message(role="assistant", content=_MARKER)
    prompt = render((question,), generation=True)
    before, _, after = render((question, answer), generation=False).partition(_MARKER)
    if not prompt or not before:
        return Frame("", "")
    lead = before.removeprefix(prompt) if before.startswith(prompt) else ""
    end = cut_header(after, render, end_of_text)
    tokens = _first_tokens(end, added_tokens)
    # A template without a prompt of a generation can end turns of both roles with one token, which is not a header.
    if after and prompt.endswith(after) and not tokens:
        return Frame(lead, "", header=after)
    return Frame(lead, end, tokens, _find_middle_end(render, added_tokens))


def cut_header(after: str, render: Render, end_of_text: str | None) -> str:
    """Return the text after an answer, without the header of the next one that some templates always write."""
    asked = render((_QUESTION,), generation=False)
    if render((_QUESTION,), generation=True) != asked:
        return after
    if end_of_text and end_of_text in after:
        return after[: after.index(end_of_text) + len(end_of_text)]
    between = render((_QUESTION, _ANSWER, _QUESTION), generation=False).rpartition(_MARKER)[0].rpartition("!")[2]
    header = asked.partition(_MARKER)[0]
    shared = next((n for n in range(len(between), 0, -1) if header.endswith(between[-n:])), 0)
    end = between[: len(between) - shared]
    return end if after.startswith(end) else after


def _first_tokens(text: str, added_tokens: re.Pattern[str] | None) -> tuple[str, ...]:
    """Return the first added token in a text, and those directly after it."""
    if added_tokens is None or (first := added_tokens.search(text)) is None:
        return ()
    found = [first]
    while following := added_tokens.match(text, found[-1].end()):
        found.append(following)
    return tuple(token[0] for token in found)


def _find_middle_end(render: Render, added_tokens: re.Pattern[str] | None) -> str | None:
    """Return the token that ends an answer before a question, None if the question's header follows directly."""
    header = render((_QUESTION,), generation=False).partition(_MARKER)[0]
    between = render((_QUESTION, _ANSWER, _QUESTION), generation=False).partition("!")[2].partition(_MARKER)[0]
    first = added_tokens.match(between.lstrip()) if added_tokens is not None else None
    if added_tokens is None or first is None:
        return None
    rest = between.lstrip()[first.end() :]
    before = header.removesuffix(between).strip() if header.endswith(between) else ""
    is_after_text = bool(before) and added_tokens.sub("", before).strip() != ""
    is_before_header = not header.endswith(between) and header.endswith(rest)
    return first[0] if rest.strip() and (is_after_text or is_before_header) else None
