"""Division of examples into steps, micro-batches and shards."""

from __future__ import annotations

import random
from collections.abc import Sequence

from finch_hub.engine.data.batches import count_shared_prefix
from finch_hub.engine.data.tokenized_examples import TokenizedExample

LEAST_TOKENS = 256
"""Number of tokens below which matrix products are slower for each token."""
# Speed of operations that two threads share, relative to threads that work on shards of their own (measured).
_SHARED_SPEED = 0.87
# Number of steps among which examples are sorted by length: little padding, and still a shuffle.
_WINDOW = 16


def plan_epoch(
    lengths: Sequence[int], *, batch_size: int, accumulation: int, seed: int, epoch: int, by_length: bool
) -> list[tuple[int, ...]]:
    """Divide the examples of one epoch into steps of `batch_size * accumulation` examples. The last one can have fewer.

    Seed and epoch decide the order. With `by_length`, a step has examples of similar length (`lengths` in tokens),
    which saves padding in decoders that pad.
    """
    shuffle = random.Random(f"{seed}:{epoch}")  # noqa: S311 - order, not secrecy
    order = list(range(len(lengths)))
    shuffle.shuffle(order)
    size = batch_size * accumulation
    if by_length:
        window = size * _WINDOW
        order = [
            index
            for begin in range(0, len(order), window)
            for index in sorted(order[begin : begin + window], key=lambda index: lengths[index])
        ]
    steps = [tuple(order[begin : begin + size]) for begin in range(0, len(order), size)]
    if by_length:
        shuffle.shuffle(steps)
    return steps


def split_into_micro_batches(
    step: Sequence[int], lengths: Sequence[int], *, batch_size: int, batch_tokens: int | None
) -> list[tuple[int, ...]]:
    """Divide a step's examples into micro-batches of at most `batch_size` examples and `batch_tokens` padded tokens.

    An example that alone exceeds `batch_tokens` becomes a micro-batch of its own.
    """
    micro_batches: list[tuple[int, ...]] = []
    current: list[int] = []
    longest = 0
    for index in step:
        longest = max(longest, lengths[index])
        is_full = len(current) == batch_size
        if current and (is_full or (batch_tokens is not None and longest * (len(current) + 1) > batch_tokens)):
            micro_batches.append(tuple(current))
            current, longest = [], lengths[index]
        current.append(index)
    micro_batches.append(tuple(current))
    return micro_batches


def split_into_shards(
    examples: Sequence[TokenizedExample], *, max_shards: int, share_prefix: bool
) -> list[tuple[int, ...]]:
    """Divide a micro-batch into shards of similar work, if it is faster to compute them in threads of their own.

    Every shard computes the shared prefix again, and matrix products of few tokens are slow. So the result has as many
    shards as pay, up to `max_shards`.
    """

    def count_tokens(shard: Sequence[int]) -> int:
        members = [examples[index] for index in shard]
        prefix = count_shared_prefix(members) if share_prefix and len(members) > 1 else 0
        return sum(len(example) for example in members) - prefix * (len(members) - 1)

    undivided = tuple(range(len(examples)))
    total = count_tokens(undivided)
    for number in range(min(max_shards, len(examples), total // LEAST_TOKENS), 1, -1):
        shards = balance([len(example) for example in examples], number)
        tokens = [count_tokens(shard) for shard in shards]
        if min(tokens) >= LEAST_TOKENS and max(tokens) * number * _SHARED_SPEED < total:
            return shards
    return [undivided]


def balance(weights: Sequence[int], parts: int) -> list[tuple[int, ...]]:
    """Divide indices into parts of similar weight. From the heaviest on, each index goes to the lightest part."""
    members: list[list[int]] = [[] for _ in range(parts)]
    loads = [0] * parts
    for index in sorted(range(len(weights)), key=lambda index: (-weights[index], index)):
        lightest = loads.index(min(loads))
        members[lightest].append(index)
        loads[lightest] += weights[index]
    return [tuple(sorted(indices)) for indices in members]
