"""Split of a dataset into training and validation, and counts of repeated examples. Free of torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from finch_hub.specs.examples import Example


def split_examples(
    examples: Sequence[Example], share: float, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Divide examples into training and validation. Copies of one example stay on one side.

    A hash of example and seed decides the side. So the order of the rows does not matter, and few rows change sides
    when others are added. Both parts keep the order. At least one distinct example stays in training. With fewer than
    two distinct examples nothing is held out.
    """
    keys = [_key(example) for example in examples]
    ranked = sorted(set(keys), key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
    counts = dict.fromkeys(ranked, 0)
    for key in keys:
        counts[key] += 1
    target = max(1, round(share * len(examples))) if share > 0 else 0
    held_out: set[str] = set()
    held_rows = 0
    for key in ranked[:-1]:
        if held_rows >= target:
            break
        held_out.add(key)
        held_rows += counts[key]
    sides = [(example, key in held_out) for example, key in zip(examples, keys, strict=True)]
    return tuple(e for e, is_held_out in sides if not is_held_out), tuple(e for e, is_held_out in sides if is_held_out)


def count_duplicates(examples: Sequence[Example]) -> int:
    """Count the examples that repeat an earlier one. Whitespace does not matter."""
    return len(examples) - len({_key(example) for example in examples})


def count_overlap(train: Sequence[Example], validation: Sequence[Example]) -> int:
    """Count the validation examples that are also in the training data. Whitespace does not matter."""
    known = {_key(example) for example in train}
    return sum(_key(example) in known for example in validation)


def _key(example: Example) -> str:
    """Return a hash that is equal for examples that differ only in whitespace."""
    turns = [(str(message.role), message.content) for message in example.messages] or [("text", example.text or "")]
    normal = repr([(role, " ".join(content.split())) for role, content in turns])
    return hashlib.sha256(normal.encode(errors="surrogatepass")).hexdigest()
