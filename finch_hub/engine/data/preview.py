"""Examples as a model sees them: what is read, what is learned, and what is dropped."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from finch_hub import errors
from finch_hub.engine.data.chat import ChatTemplate, Conversation
from finch_hub.engine.data.row_time import limit_tokenizing
from finch_hub.engine.data.tokenized_examples import TokenizedExample
from finch_hub.engine.data.tokenizing import tokenize
from finch_hub.specs.examples import Example
from finch_hub.specs.previews import PreviewPart, PreviewRow

_WHOLE = 2**31  # tokens, so that nothing is cut
_MOST_COMPARED = 20_000  # tokens between which a cut is searched


def preview_example(
    example: Example, template: ChatTemplate, *, number: int, system: str | None, max_length: int
) -> PreviewRow:
    """Return an example as the model sees it. One that cannot be used has its problem."""
    try:
        with limit_tokenizing(f"example {number}"):
            whole = tokenize(example, template, system=system, max_length=_WHOLE)
            kept = whole
            if len(whole) > max_length:
                kept = tokenize(example, template, system=system, max_length=max_length)
    except errors.InvalidInput as error:
        return PreviewRow(number=number, problem=str(error))
    return PreviewRow(
        number=number,
        parts=tuple(_merge(_divide(whole, kept, template))),
        tokens=len(kept),
        learned_tokens=int(kept.labels.sum()),
        dropped_tokens=len(whole) - len(kept),
        lost=tuple(_find_lost(example, system, _decode(whole.input_ids, template))),
        changes=kept.changes,
    )


def _divide(whole: TokenizedExample, kept: TokenizedExample, template: ChatTemplate) -> Iterator[PreviewPart]:
    """Yield the kept tokens by whether they are learned, and the cut ones where they were."""
    before, after = whole.input_ids, kept.input_ids
    for tag, first, last, begin, end in _compare(before.tolist(), after.tolist()):
        if tag in ("delete", "replace"):
            yield PreviewPart(kind="dropped", text=_decode_part(before, first, last, template))
        if tag != "delete":
            yield from _divide_by_label(kept, begin, end, template)


def _compare(before: Sequence[int], after: Sequence[int]) -> list[tuple[str, int, int, int, int]]:
    """Return what turns the first tokens into the second ones, as `difflib` does. Most cuts are at one place."""
    begin = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(map(len, (before, after)))
    )
    most = min(len(before), len(after)) - begin
    end = next((i for i in range(most) if before[-1 - i] != after[-1 - i]), most)
    inner_before, inner_after = before[begin : len(before) - end], after[begin : len(after) - end]
    codes: list[tuple[str, int, int, int, int]] = [("equal", 0, begin, 0, begin)]
    if max(len(inner_before), len(inner_after)) > _MOST_COMPARED or not inner_after or not inner_before:
        tag = "delete" if not inner_after else "insert" if not inner_before else "replace"
        codes.append((tag, begin, len(before) - end, begin, len(after) - end))
    else:
        matcher = difflib.SequenceMatcher(None, inner_before, inner_after, autojunk=False)
        codes += [(tag, a + begin, b + begin, c + begin, d + begin) for tag, a, b, c, d in matcher.get_opcodes()]
    return [*codes, ("equal", len(before) - end, len(before), len(after) - end, len(after))]


def _divide_by_label(example: TokenizedExample, begin: int, end: int, template: ChatTemplate) -> Iterator[PreviewPart]:
    labels = example.labels[begin:end]
    borders = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), end - begin]
    for first, last in itertools.pairwise(borders):
        if first < last:
            kind: Literal["prompt", "learned"] = "learned" if labels[first] else "prompt"
            text = _decode_part(example.input_ids, begin + first, begin + last, template)
            yield PreviewPart(kind=kind, text=text)


def _merge(parts: Iterator[PreviewPart]) -> Iterator[PreviewPart]:
    """Yield the parts that have text, with neighbors of one kind as one."""
    last: PreviewPart | None = None
    for part in parts:
        if not part.text:
            continue
        if last is not None and last.kind == part.kind:
            last = PreviewPart(kind=part.kind, text=last.text + part.text)
        else:
            if last is not None:
                yield last
            last = part
    if last is not None:
        yield last


def _find_lost(example: Example, system: str | None, seen: str) -> Iterator[str]:
    """Yield the texts of the turns that are not in what the model sees."""
    for message in Conversation.of(example, system).messages:
        for text in (message.reasoning or "", message.content):
            if text.strip() and text.strip() not in seen:
                yield f"{message.role}: {text}"


def _decode_part(ids: NDArray[np.int64], begin: int, end: int, template: ChatTemplate) -> str:
    """Return the text of some tokens within their text: a token at the beginning of a text may lack its blank."""
    return _decode(ids[:end], template)[len(_decode(ids[:begin], template)) :]


def _decode(ids: NDArray[np.int64], template: ChatTemplate) -> str:
    return str(template.tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))
