"""Conversion of examples to token ids with labels: the assistant's turns, each with its end-of-turn token."""

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
    """Token ids of one example.

    Attributes:
        input_ids: int64 [length].
        labels: whether each token has loss, bool [length]. The first token has none, because no token predicts it.
        cut: number of tokens that were removed to fit the maximum length.
    """

    input_ids: NDArray[np.int64]
    labels: NDArray[np.bool_]
    cut: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)


def with_system(example: Example, system: str | None) -> tuple[Message, ...]:
    """Return the turns, with this system turn first unless the example has a system turn."""
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
    """Tokenize every example, in order.

    Raises:
        InvalidDataset: one problem for each example without a label, by its number from 1.
    """
    tokenized: list[TokenizedExample] = []
    problems: list[errors.Problem] = []
    for number, example in enumerate(examples, start=1):
        try:
            tokenized.append(tokenize(example, tokenizer, system=system, max_length=max_length))
        except errors.InvalidInput as error:
            where = f"example {number}"
            problems += [errors.Problem(where=where, what=problem.what, fix=problem.fix) for problem in error.problems]
    if problems:
        raise errors.InvalidDataset(problems, subject=subject)
    return tuple(tokenized)


def tokenize(
    example: Example, tokenizer: PreTrainedTokenizerBase, *, system: str | None = None, max_length: int
) -> TokenizedExample:
    """Tokenize one example.

    A long example loses up to half of the tokens before its first label, from the left, then tokens from the right.
    Tokens after the last label affect nothing and are removed.

    Raises:
        InvalidDataset: no label remains.
        Incompatible: the chat template or the tokenizer cannot be used.
    """
    if not tokenizer.is_fast:
        raise errors.Incompatible("the tokenizer has no offsets", fix="use a base with a tokenizer.json")
    if example.text is not None:
        ids = _plain_ids(example.text, tokenizer)
        labels = np.ones(len(ids), dtype=np.bool_)
    else:
        ids, labels = _conversation_ids(with_system(example, system), tokenizer)
    labels[0] = False
    if not labels.any():
        raise _unusable("has no token to train on", "give the assistant's turn some text")
    end = int(labels.nonzero()[0][-1]) + 1
    return _cut(ids[:end], labels[:end], max_length)


def _cut(ids: NDArray[np.int64], labels: NDArray[np.bool_], max_length: int) -> TokenizedExample:
    excess = len(ids) - max_length
    if excess <= 0:
        return TokenizedExample(input_ids=ids, labels=labels)
    prompt = int(labels.argmax())
    begin = min(excess, prompt // 2)
    kept = slice(begin, begin + max_length)
    labels = labels[kept]
    if not labels.any():
        what = f"has {prompt:,} tokens before the first one to train on, which leaves no room in {max_length:,}"
        raise _unusable(what, "shorten the prompt or raise max_length")
    return TokenizedExample(input_ids=ids[kept], labels=labels, cut=excess)


def _unusable(what: str, fix: str) -> errors.InvalidDataset:
    return errors.InvalidDataset(what, fix=fix)


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
    for index, (begin, end) in _find_assistant_turns(messages, tokenizer, text).items():
        if not messages[index].learn:
            continue
        # A token that overlaps the turn belongs to it: byte-level tokens contain the blank before a word.
        inside = (ends > begin) & (begins < end)
        labels |= inside
        after = int(np.searchsorted(begins, end))
        while after < len(ids) and not special[after] and not text[begins[after] : ends[after]].strip():
            after += 1
        if after < len(ids) and special[after]:
            labels[inside.argmax() : after + 1] = True
        elif index == last and tokenizer.eos_token_id is not None:
            # The template has no end-of-turn token, so the model learns to stop by the end-of-text token.
            stop = int(inside.nonzero()[0][-1]) + 1
            ids = np.append(ids[:stop], tokenizer.eos_token_id)
            labels = np.append(labels[:stop], True)
    return ids, labels


def _find_assistant_turns(
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
