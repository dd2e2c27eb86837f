"""Holding out validation data, and finding what stands in a data set twice; torch-free."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from finch_hub.specs.examples import Example


def split(examples: Sequence[Example], share: float, seed: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Divide examples into training and validation; copies of one example stay on one side.

    Which side is decided by a hash of the example and the seed, so it does not depend on the order of the rows, and
    few rows change sides when others are added. At least one distinct example stays in training; with fewer than two
    distinct ones nothing is held out.

    Args:
        examples: in the data's order, which both parts keep.
        share: wanted share of the examples held out, 0 to below 1.
        seed: of the hash.

    """
    keys = [_key(example) for example in examples]
    ranked = sorted(set(keys), key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
    counts = dict.fromkeys(ranked, 0)
    for key in keys:
        counts[key] += 1
    wanted = max(1, round(share * len(examples))) if share > 0 else 0
    held_out: set[str] = set()
    held_rows = 0
    for key in ranked[:-1]:
        if held_rows >= wanted:
            break
        held_out.add(key)
        held_rows += counts[key]
    sides = list(zip(examples, (key in held_out for key in keys), strict=True))
    return tuple(e for e, held in sides if not held), tuple(e for e, held in sides if held)


def duplicates(examples: Sequence[Example]) -> int:
    """Count the examples that repeat an earlier one, whitespace aside."""
    return len(examples) - len({_key(example) for example in examples})


def overlap(train: Sequence[Example], validation: Sequence[Example]) -> int:
    """Count the validation examples that stand in the training data as well, whitespace aside."""
    known = {_key(example) for example in train}
    return sum(_key(example) in known for example in validation)


def _key(example: Example) -> str:
    """Return a hash that ignores differences of whitespace, which make no second example."""
    turns = [(str(message.role), message.content) for message in example.messages] or [("text", example.text or "")]
    normal = repr([(role, " ".join(content.split())) for role, content in turns])
    return hashlib.sha256(normal.encode(errors="surrogatepass")).hexdigest()
