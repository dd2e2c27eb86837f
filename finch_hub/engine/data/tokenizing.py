"""From examples to token ids, with those to learn marked: the assistant's turns, each with its end-of-turn token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finch_hub import errors
from finch_hub.engine.data import chat
from finch_hub.specs.examples import Example, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenizedExample:
    """Token ids, and which of them are learnt.

    Attributes:
        input_ids: int64 [length].
        labels: bool [length]; token j is predicted from those before it, so the first one never counts.
        cut: tokens that were left out to fit the maximum length.

    """

    input_ids: NDArray[np.int64]
    labels: NDArray[np.bool_]
    cut: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)


def with_system(example: Example, system: str | None) -> tuple[Message, ...]:
    """Return the turns, led by this system turn unless the example has one of its own."""
    if not system or example.messages[0].role == "system":
        return example.messages
    return (Message(role="system", content=system), *example.messages)


def tokenize_all(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    system: str | None = None,
    max_length: int,
    subject: str = "data",
) -> tuple[TokenizedExample, ...]:
    """Tokenise every example, in order.

    Raises:
        InvalidDataset: with one problem for each example that leaves nothing to learn, by its number from 1.

    """
    found: list[TokenizedExample] = []
    problems: list[errors.Problem] = []
    for number, example in enumerate(examples, start=1):
        try:
            found.append(tokenize(example, tokenizer, system=system, max_length=max_length))
        except errors.InvalidInput as error:
            problems += [
                errors.Problem(where=f"example {number}", what=problem.what, fix=problem.fix)
                for problem in error.problems
            ]
    if problems:
        raise errors.InvalidDataset(problems, subject=subject)
    return tuple(found)


def tokenize(
    example: Example, tokenizer: PreTrainedTokenizerBase, *, system: str | None = None, max_length: int
) -> TokenizedExample:
    """Tokenise one example.

    Of one that is too long, up to half of what stands before the first learnt token is cut from the left, then the
    rest from the right. What follows the last learnt token influences nothing and is left out.

    Raises:
        InvalidDataset: nothing is left to learn.
        Incompatible: the chat template or the tokenizer cannot be used.

    """
    if not tokenizer.is_fast:
        problem = errors.Problem(what="the tokenizer gives no offsets", fix="use a base with a tokenizer.json")
        raise errors.Incompatible(problem)
    if example.text is not None:
        ids = _plain_ids(example.text, tokenizer)
        labels = np.ones(len(ids), dtype=np.bool_)
    else:
        ids, labels = _conversation_ids(with_system(example, system), tokenizer)
    labels[0] = False
    if not labels.any():
        raise _unusable("has no token to learn", "give the assistant's turn some text")
    end = int(labels.nonzero()[0][-1]) + 1
    ids, labels = ids[:end], labels[:end]
    return _fitted(ids, labels, max_length)


def _fitted(ids: NDArray[np.int64], labels: NDArray[np.bool_], max_length: int) -> TokenizedExample:
    over = len(ids) - max_length
    if over <= 0:
        return TokenizedExample(input_ids=ids, labels=labels)
    prompt = int(labels.argmax())
    begin = min(over, prompt // 2)
    kept = slice(begin, begin + max_length)
    labels = labels[kept].copy()
    labels[0] = False
    if not labels.any():
        what = f"has {prompt:,} tokens before the first one to learn, which leaves no room in {max_length:,}"
        raise _unusable(what, "shorten the prompt or raise max_length")
    return TokenizedExample(input_ids=ids[kept], labels=labels, cut=over)


def _unusable(what: str, fix: str) -> errors.InvalidDataset:
    return errors.InvalidDataset(errors.Problem(what=what, fix=fix))


def _plain_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    ids = list(tokenizer(text)["input_ids"])
    if tokenizer.eos_token_id is not None and ids[-1:] != [tokenizer.eos_token_id]:
        ids.append(tokenizer.eos_token_id)
    return np.array(ids, dtype=np.int64)


def _conversation_ids(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    text = chat.render(tokenizer, messages, generation=False)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = np.array(encoded["input_ids"], dtype=np.int64)
    begins, ends = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
    special = np.isin(ids, tokenizer.all_special_ids)
    labels = np.zeros(len(ids), dtype=np.bool_)
    last = max(i for i, message in enumerate(messages) if message.role == "assistant")
    for index, (begin, end) in _assistant_spans(messages, tokenizer, text).items():
        if not messages[index].learn:
            continue
        # A token that reaches into the span belongs to it: byte-level tokens take the blank before a word along.
        inside = (ends > begin) & (begins < end)
        labels |= inside
        after = int(np.searchsorted(begins, end))
        while after < len(ids) and not special[after] and not text[begins[after] : ends[after]].strip():
            after += 1
        if after < len(ids) and special[after]:
            labels[inside.argmax() : after + 1] = True
        elif index == last and tokenizer.eos_token_id is not None:
            # The template ends no turn: only the end of the text tells the model to stop.
            stop = int(inside.nonzero()[0][-1]) + 1
            ids = np.append(ids[:stop], tokenizer.eos_token_id)
            labels = np.append(labels[:stop], True)
    return ids, labels


def _assistant_spans(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, text: str
) -> dict[int, tuple[int, int]]:
    """Return where each assistant turn stands in the rendered conversation: from its header's end to its text's end.

    Templates need not be prefix-stable (Qwen3's drops the reasoning of earlier turns once a later one is there), and
    most mark no generation, so the place of a turn is found by writing another text in its stead: what both renderings
    share before and after is not the turn. What stands between header and text is the model's to say, for after the
    header generating begins.
    """
    headers = _headers(messages, tokenizer)
    spans: dict[int, tuple[int, int]] = {}
    previous_end = 0
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        probe = _unlike(message.content)
        turns = [*messages[:index], message.evolve(content=probe), *messages[index + 1 :]]
        changed = chat.render(tokenizer, turns, generation=False)
        begin = _shared(text, changed)
        end = len(text) - _shared(text[begin:][::-1], changed[begin:][::-1])
        for candidate in headers:
            found = text.rfind(candidate, previous_end, begin)
            if found >= 0:
                begin = found + len(candidate)
                break
        spans[index] = (begin, end)
        previous_end = end
    return spans


def _headers(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return what the template writes to make the assistant speak, and the beginnings of it that end a line.

    The longest comes first. Shorter ones are what remains before a turn whose reasoning was dropped, or is its own.
    """
    first = next(i for i, message in enumerate(messages) if message.role == "assistant")
    asked = messages[:first] or [Message(role="user", content="")]
    without = chat.render(tokenizer, asked, generation=False)
    with_prompt = chat.render(tokenizer, asked, generation=True)
    if not with_prompt.startswith(without):
        return []
    header = with_prompt.removeprefix(without)
    ends = {place + 1 for place, letter in enumerate(header) if letter == "\n"} | {len(header)}
    return [header[:end] for end in sorted(ends, reverse=True) if end]


def _shared(first: str, second: str) -> int:
    """Return how many characters two texts have in common from their beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(second)))


def _unlike(content: str) -> str:
    """Return a character of the private use area that the content does not have."""
    return next(letter for letter in map(chr, range(0xE000, 0xF900)) if letter not in content)
