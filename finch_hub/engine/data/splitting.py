"""Split of a dataset into training and validation, and counts of repeated examples. Free of torch."""

from __future__ import annotations

import hashlib
import itertools
import json
from array import array
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from finch_hub.progress import track
from finch_hub.specs.examples import Example, Message


def split_examples(
    examples: Sequence[Example], share: float, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Divide examples into training and validation. Examples with one prompt stay on one side, and so do copies.

    A hash of example and seed decides the side. So the order of the rows does not matter, and few rows change sides
    when others are added. The validation part has at most its share of the rows, unless each group is larger. Both
    parts keep the order. If all examples have one prompt, only copies stay together. At least one group stays in
    training, so that nothing is held out of a single one.
    """
    is_held_out = choose_held_out(examples, share, seed)
    train = tuple(example for example, is_out in zip(examples, is_held_out, strict=True) if not is_out)
    return train, tuple(example for example, is_out in zip(examples, is_held_out, strict=True) if is_out)


def choose_held_out(examples: Iterable[Example], share: float, seed: int) -> NDArray[np.bool_]:
    """Return which examples :func:`split_examples` takes for validation, bool [examples]; one at a time is read."""
    keys, prompts, ranks = array("Q"), array("Q"), array("Q")
    for example in examples:
        key = _key(example)
        keys.append(_shorten(key))
        prompts.append(_shorten(_prompt_key(example)))
        ranks.append(_shorten(hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()))
    groups = np.array(prompts, dtype=np.uint64)
    if len(np.unique(groups)) < 2:
        groups = np.array(keys, dtype=np.uint64)
    target = max(1, round(share * len(keys))) if share > 0 else 0
    return np.isin(groups, _choose_groups(groups, np.array(ranks, dtype=np.uint64), target))


def count_duplicates(examples: Sequence[Example]) -> int:
    """Count the examples that repeat an earlier one. Whitespace does not matter."""
    return len(examples) - len(np.unique(_shorten_all(examples, _key)))


def count_overlap(train: Sequence[Example], validation: Sequence[Example]) -> int:
    """Count the validation examples that are also in the training data. Whitespace does not matter."""
    return _count_shared(train, validation, _key)


def count_shared_prompts(train: Sequence[Example], validation: Sequence[Example]) -> int:
    """Count the validation examples whose prompt is also in the training data. Whitespace does not matter."""
    return _count_shared(train, validation, _prompt_key)


def _count_shared(train: Sequence[Example], validation: Sequence[Example], key: Callable[[Example], str]) -> int:
    return int(np.isin(_shorten_all(validation, key), _shorten_all(train, key)).sum()) if validation else 0


def _choose_groups(groups: NDArray[np.uint64], ranks: NDArray[np.uint64], target: int) -> NDArray[np.uint64]:
    """Return groups of about `target` rows together, in the order of their lowest ranks, and not all groups."""
    names, places, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if not target or len(names) < 2:
        return names[:0]
    lowest = np.full(len(names), np.iinfo(np.uint64).max)
    np.minimum.at(lowest, places, ranks)
    order = np.argsort(lowest, kind="stable")
    held_out: list[int] = []
    rows = 0
    for group in order.tolist():
        if rows + sizes[group] <= target and len(held_out) < len(names) - 1:
            held_out.append(group)
            rows += sizes[group]
    return names[held_out or [order[sizes[order].argmin()]]]


def _shorten_all(examples: Iterable[Example], key: Callable[[Example], str]) -> NDArray[np.uint64]:
    return np.array(
        array("Q", (_shorten(key(example)) for example in track(examples, "comparing rows"))), dtype=np.uint64
    )


def _shorten(digest: str) -> int:
    """Return the first 64 bits of a hash, which order and tell apart like the whole one."""
    return int(digest[:16], 16)


def row_key(example: Example) -> int:
    """Return 64 bits of a hash that is equal for examples that differ only in whitespace."""
    return _shorten(_key(example))


def _key(example: Example) -> str:
    """Return a hash that is equal for examples that differ only in whitespace."""
    return _hash([*map(_normalize, example.messages)] or [("text", _collapse(example.text or ""))], example)


def _prompt_key(example: Example) -> str:
    """Return a hash of the turns before the first one that is learned. A text is its own prompt."""
    prompt = itertools.takewhile(lambda message: message.role != "assistant" or not message.learn, example.messages)
    return _hash([*map(_normalize, prompt)], example) if example.messages else _key(example)


def _normalize(message: Message) -> tuple[str, ...]:
    turn = (str(message.role), _collapse(message.content))
    if message.tool_calls or message.reasoning:
        return (*turn, _collapse(message.reasoning or ""), json.dumps(message.tool_calls, sort_keys=True))
    return turn


def _collapse(text: str) -> str:
    return " ".join(text.split())


def _hash(turns: Sequence[tuple[str, ...]], example: Example) -> str:
    """Return a hash of turns with the tools and documents on which the answers of the example rest."""
    beside = (
        json.dumps([example.tools, example.documents], sort_keys=True) if example.tools or example.documents else ""
    )
    return hashlib.sha256(f"{turns!r}{beside}".encode(errors="surrogatepass")).hexdigest()
