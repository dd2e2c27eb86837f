"""Split of a dataset into training and validation, and counts of repeated examples. Free of torch."""

from __future__ import annotations

import collections
import hashlib
import itertools
import json
from collections.abc import Callable, Sequence

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
    keys = [_key(example) for example in examples]
    groups = [_prompt_key(example) for example in examples]
    if len(set(groups)) < 2:
        groups = keys
    held_out = _choose_groups(groups, keys, max(1, round(share * len(examples))) if share > 0 else 0, seed)
    sides = [(example, group in held_out) for example, group in zip(examples, groups, strict=True)]
    return tuple(e for e, is_held_out in sides if not is_held_out), tuple(e for e, is_held_out in sides if is_held_out)


def count_duplicates(examples: Sequence[Example]) -> int:
    """Count the examples that repeat an earlier one. Whitespace does not matter."""
    return len(examples) - len({_key(example) for example in examples})


def count_overlap(train: Sequence[Example], validation: Sequence[Example]) -> int:
    """Count the validation examples that are also in the training data. Whitespace does not matter."""
    return _count_shared(train, validation, _key)


def count_shared_prompts(train: Sequence[Example], validation: Sequence[Example]) -> int:
    """Count the validation examples whose prompt is also in the training data. Whitespace does not matter."""
    return _count_shared(train, validation, _prompt_key)


def _count_shared(train: Sequence[Example], validation: Sequence[Example], key: Callable[[Example], str]) -> int:
    wanted = collections.Counter(key(example) for example in validation)
    return sum(wanted.pop(key(example), 0) for example in train) if wanted else 0


def _choose_groups(groups: Sequence[str], keys: Sequence[str], target: int, seed: int) -> set[str]:
    """Return groups of about `target` rows together, in the order of a hash, and not all groups."""
    sizes = collections.Counter(groups)
    if not target or len(sizes) < 2:
        return set()
    ranks: dict[str, bytes] = {}
    for group, key in zip(groups, keys, strict=True):
        rank = hashlib.sha256(f"{seed}:{key}".encode()).digest()
        ranks[group] = min(rank, ranks.get(group, rank))
    ranked = sorted(sizes, key=lambda group: ranks[group])
    held_out: set[str] = set()
    rows = 0
    for group in ranked:
        if rows + sizes[group] <= target and len(held_out) < len(sizes) - 1:
            held_out.add(group)
            rows += sizes[group]
    return held_out or {min(ranked, key=lambda group: sizes[group])}


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
