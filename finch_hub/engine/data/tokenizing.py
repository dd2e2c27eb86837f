"""Conversion of examples to token ids with labels: the assistant's turns, each with its end-of-turn token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finch_hub import errors
from finch_hub.engine.data import length_limit
from finch_hub.engine.data.chat import ChatTemplate, Conversation
from finch_hub.engine.data.rendered import render_turns
from finch_hub.engine.data.row_time import limit_tokenizing
from finch_hub.engine.data.tokenized_examples import TokenizedExample, TokenizedExamples
from finch_hub.engine.data.turn_finder import Turn
from finch_hub.progress import track
from finch_hub.specs.examples import Example, Message
from finch_hub.texts.counts import format_count

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MAX_PROBLEMS = 1_000  # that are kept; all are counted
MAX_LEFT_OUT = 0.05
"""Share of examples that may be left out if nothing else is said."""


@dataclass(kw_only=True, eq=False)
class TokenizedData:
    """Token ids of a data set.

    Attributes:
        examples: in the order of the data, without those that cannot be used.
        left_out: the first problems of the examples that cannot be used, by their numbers from 1.
        lost: number of these examples.
        changes: what the chat template drops or changes, in words, with the number of such examples.
    """

    examples: TokenizedExamples = field(default_factory=TokenizedExamples)
    left_out: list[errors.Problem] = field(default_factory=list)
    lost: int = 0
    changes: Counter[str] = field(default_factory=Counter)


def tokenize_all(
    examples: Iterable[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    system: str | None = None,
    max_length: int,
    subject: str = "data",
) -> tuple[TokenizedExample, ...]:
    """Tokenize every example, in order. One that cannot be used is an error; see :func:`tokenize_data`."""
    data = tokenize_data(examples, tokenizer, system=system, max_length=max_length, subject=subject, max_left_out=0.0)
    return tuple(data.examples)


def tokenize_data(
    examples: Iterable[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    system: str | None = None,
    max_length: int,
    subject: str = "data",
    max_left_out: float = MAX_LEFT_OUT,
    total: int | None = None,
    lost_before: int = 0,
    is_strict: bool = False,
    num_embeddings: int | None = None,
) -> TokenizedData:
    """Tokenize examples. Those that cannot be used are left out.

    Args:
        max_left_out: largest share of examples that may be left out.
        total: number of examples of which this is the share, if these are a part of a data set.
        lost_before: number of examples of the other parts that cannot be used.
        is_strict: whether examples that are left out, or that the chat template changes, are refused.
        num_embeddings: number of tokens that the model knows; None if it knows all of the tokenizer.

    Raises:
        InvalidDataset: too many examples cannot be used, or none can; has a problem for each, by its number from 1.
        TimeLimitReached: the chat template or the tokenizer has no end.
    """
    template = ChatTemplate(tokenizer)
    data = TokenizedData()
    firsts: dict[str, int] = {}
    kinds: Counter[str] = Counter()
    number = 0
    for number, example in enumerate(track(examples, f"tokenizing {subject}"), start=1):
        try:
            with limit_tokenizing(f"{subject}, example {number}"):
                tokenized = tokenize(example, template, system=system, max_length=max_length)
            check_known(tokenized.input_ids, num_embeddings)
        except errors.InvalidInput as error:
            data.lost += 1
            where = f"example {number}"
            kinds.update(errors.count_kinds(error.problems))
            data.left_out += [
                errors.Problem(where=where, what=" ".join(filter(None, (problem.where, problem.what))), fix=problem.fix)
                for problem in error.problems[: _MAX_PROBLEMS - len(data.left_out)]
            ]
            continue
        data.examples.append(tokenized)
        for change in tokenized.changes:
            data.changes[change] += 1
            firsts.setdefault(change, number)
    is_too_many = lost_before + data.lost > max_left_out * (number if total is None else total)
    if data.lost and (is_strict or not data.examples or is_too_many):
        raise errors.InvalidDataset(data.left_out, subject=subject, kinds=kinds)
    if is_strict and data.changes:
        raise errors.InvalidDataset(
            [
                errors.Problem(
                    where=f"example {firsts[change]}", what=f"{change} (in {format_count(count, 'example')})"
                )
                for change, count in data.changes.items()
            ],
            subject=subject,
        )
    return data


def check_known(ids: Sequence[int] | NDArray[np.int64], num_embeddings: int | None) -> None:
    """Check that a model knows the tokens of a text. Those of a tokenizer may have gaps, and end beyond the model's.

    Raises:
        Incompatible: a token is unknown.
    """
    if num_embeddings is not None and (highest := int(np.max(ids, initial=0))) >= num_embeddings:
        what = f"has the token {highest:,}, and the model has {num_embeddings:,} embeddings"
        raise errors.Incompatible(what, fix="change the text, or use the tokenizer that belongs to the model")


def tokenize(
    example: Example, template: ChatTemplate, *, system: str | None = None, max_length: int
) -> TokenizedExample:
    """Tokenize one example.

    A long conversation loses its earliest exchanges, then the beginning of its longest prompt, up to half of the tokens
    before the first label, then tokens from the right. Tokens after the last label affect nothing and are removed.

    Raises:
        InvalidDataset: no label remains.
        Incompatible: the chat template or the tokenizer cannot be used.
    """
    if not template.tokenizer.is_fast:
        raise errors.Incompatible("the tokenizer has no offsets", fix="use a base with a tokenizer.json")
    if example.text is not None:
        whole = _tokenize_text(example.text, template)
    else:
        conversation = Conversation.of(example, system)
        whole = _tokenize_conversation(conversation, template)
        if len(whole) > max_length:
            shorter = length_limit.shorten(
                conversation,
                lambda shorter: _measure(_tokenize_conversation(shorter, template)),
                template.tokenizer,
                max_length=max_length,
            )
            cut = len(whole)
            whole = _tokenize_conversation(shorter, template)
            whole = TokenizedExample(
                input_ids=whole.input_ids, labels=whole.labels, cut=cut - len(whole), changes=whole.changes
            )
    return _cut_right(whole, max_length)


def tokenize_prompt(conversation: Conversation, template: ChatTemplate) -> list[int]:
    """Return the tokens of a conversation up to the answer that comes next: those that a training has before it.

    Raises:
        Incompatible: the chat template cannot render the conversation, or does not write its tools or documents.
    """
    text = template.prompt(conversation)
    answer = Message(role="assistant", content="!")
    answered = render_turns(template, conversation._replace(messages=(*conversation.messages, answer)))
    begins = [turn.begin for turn in answered.turns.values() if turn.begin < len(text)]
    ids, _, _ = _encode(text, begins if answered.text.startswith(text) else [], template.tokenizer)
    return template.begin(ids.tolist()) if template.is_missing else ids.tolist()


def _measure(example: TokenizedExample) -> length_limit.Measure:
    return length_limit.Measure(tokens=len(example), prompt=int(example.labels.argmax()))


def _cut_right(example: TokenizedExample, max_length: int) -> TokenizedExample:
    excess = len(example) - max_length
    if excess <= 0:
        return example
    labels = example.labels[:max_length]
    if not labels.any():
        prompt = int(example.labels.argmax())
        what = f"has {prompt:,} tokens before the first one to train on, which leaves no room in {max_length:,}"
        raise _unusable(what, "shorten the prompt or raise max_length")
    return TokenizedExample(
        input_ids=example.input_ids[:max_length], labels=labels, cut=example.cut + excess, changes=example.changes
    )


def _unusable(what: str, fix: str) -> errors.InvalidDataset:
    return errors.InvalidDataset(what, fix=fix)


def _finish(ids: NDArray[np.int64], labels: NDArray[np.bool_], changes: tuple[str, ...] = ()) -> TokenizedExample:
    """Return the example up to its last label."""
    labels[:1] = False
    if not labels.any():
        raise _unusable("has no token to train on", "give the assistant's turn some text")
    end = int(labels.nonzero()[0][-1]) + 1
    return TokenizedExample(input_ids=ids[:end], labels=labels[:end], changes=changes)


def _tokenize_text(text: str, template: ChatTemplate) -> TokenizedExample:
    ids = template.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    tokens = template.begin(list(ids))
    end = template.tokenizer.eos_token_id
    if end is not None and (not tokens or tokens[-1] not in template.stop_tokens):
        tokens.append(end)
    labels = np.ones(len(tokens), dtype=np.bool_)
    return _finish(np.array(tokens, dtype=np.int64), labels)


def _tokenize_conversation(conversation: Conversation, template: ChatTemplate) -> TokenizedExample:
    rendered = render_turns(template, conversation)
    learned = {index: turn for index, turn in rendered.turns.items() if rendered.messages[index].learn}
    ids, begins, ends = _encode(rendered.text, [turn.begin for turn in rendered.turns.values()], template.tokenizer)
    labels = np.zeros(len(ids), dtype=np.bool_)
    last = max(i for i, message in enumerate(rendered.messages) if message.role == "assistant")
    for index, turn in learned.items():
        begin = turn.begin if _has_answer(rendered.messages[index]) else _find_end(turn, rendered.text, template)
        first, stop = int(np.searchsorted(ends, begin, side="right")), int(np.searchsorted(begins, turn.end))
        labels[first:stop] = begin < turn.end
        if index == last and not turn.is_ended and template.tokenizer.eos_token_id is not None:
            # The template has no end-of-turn token, so the model learns to stop by the end-of-text token.
            ids = np.append(ids[:stop], template.tokenizer.eos_token_id)
            labels = np.append(labels[:stop], True)
    before = template.begin([]) if template.is_missing else []
    if before:
        ids = np.concatenate([np.array(before, dtype=np.int64), ids])
        labels = np.concatenate([np.zeros(len(before), dtype=np.bool_), labels])
    return _finish(ids, labels, rendered.changes)


def _has_answer(message: Message) -> bool:
    return bool(message.content.strip() or message.reasoning or message.tool_calls)


def _find_end(turn: Turn, text: str, template: ChatTemplate) -> int:
    """Return where the tokens begin that end a turn: all that a turn without an answer teaches."""
    ends = template.frame.ends
    place = text.find(ends[0], turn.begin, turn.end) if ends else -1
    return place if place >= 0 else turn.end


def _encode(
    text: str, borders: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return token ids with begin and end of each token in the text, int64 [length] each.

    At a border a generation begins, so its prompt is a text of its own there. If tokens go across borders, the text is
    divided there, unless the tokenizer then writes another text: SentencePiece puts a blank before each one.
    """
    whole = _encode_part(text, 0, tokenizer)
    ids, begins, ends = whole
    numbers = np.searchsorted(ends, borders, side="right")
    crossed = sorted({b for b, n in zip(borders, numbers, strict=True) if n < len(ids) and begins[n] < b})
    if not crossed:
        return whole
    parts = [_encode_part(text[first:last], first, tokenizer) for first, last in pairwise([0, *crossed, len(text)])]
    divided = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    new_ids, new_begins, new_ends = divided
    is_same = tokenizer.decode(new_ids.tolist()) == tokenizer.decode(ids.tolist())
    return (new_ids, new_begins, new_ends) if is_same else whole


def _encode_part(
    text: str, place: int, tokenizer: PreTrainedTokenizerBase
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return token ids with begin and end of each token, counted from where the text is in a longer one."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    begins, ends = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
    return np.array(encoded["input_ids"], dtype=np.int64), begins + place, ends + place
