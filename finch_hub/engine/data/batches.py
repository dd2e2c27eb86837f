"""Which examples share a step, and how they lie in memory: packed end to end, without padding."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from finch_hub.engine.data.tokenizing import TokenizedExample

# Tokens under which products no longer run at their full speed.
LEAST_TOKENS = 256
# Operations that several threads share run at so much of the speed that threads have apart (two threads, measured).
_SHARED_SPEED = 0.87
# Examples of similar length are looked for among so many batches: enough for little padding, and still a shuffle.
_WINDOW = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Examples laid end to end as one row of N tokens, of which each attends to its own only.

    Where a prefix is shared, it stands once at the beginning and belongs to every example.

    Attributes:
        examples: what was packed.
        input_ids: int64 [N].
        positions: int64 [N], of each token in its own example, the prefix included.
        prefix: tokens of the shared prefix, 0 for none.
        lengths: own tokens of each example, the prefix not included.
        sources: int64 [L], the places whose hidden states predict.
        targets: int64 [L], the token ids they shall predict.
        owners: int64 [L], the example in the batch of each target.

    """

    examples: tuple[TokenizedExample, ...]
    input_ids: Tensor
    positions: Tensor
    prefix: int
    lengths: tuple[int, ...]
    sources: Tensor
    targets: Tensor
    owners: Tensor

    @property
    def tokens(self) -> int:
        """Tokens of all examples, a shared prefix counted for each of them."""
        return sum(self.lengths) + self.prefix * len(self.lengths)

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Where each example's own tokens begin and end."""
        ends = np.cumsum(self.lengths) + self.prefix
        return tuple((int(end) - length, int(end)) for end, length in zip(ends, self.lengths, strict=True))

    def to(self, device: torch.device) -> Batch:
        """Return the batch on the device; to CUDA without waiting for the copy."""
        if device.type == "cpu":
            return self
        moved = {
            name: getattr(self, name).pin_memory().to(device, non_blocking=True)
            for name in ("input_ids", "positions", "sources", "targets", "owners")
        }
        return replace(self, **moved)


def pack(examples: Sequence[TokenizedExample], *, share_prefix: bool) -> Batch:
    """Lay examples end to end; what all of them begin with is laid down once where `share_prefix` is on."""
    prefix = shared_prefix(examples) if share_prefix and len(examples) > 1 else 0
    ids = [examples[0].input_ids[:prefix]]
    positions = [np.arange(prefix)]
    sources, targets, owners = [], [], []
    start = prefix
    for number, example in enumerate(examples):
        length = len(example) - prefix
        ids.append(example.input_ids[prefix:])
        positions.append(np.arange(prefix, len(example)))
        learnt = example.labels.nonzero()[0]
        targets.append(example.input_ids[learnt])
        # The first own token may be learnt as well: then it is the shared prefix's last token that predicts it.
        sources.append(np.where(learnt > prefix, learnt - prefix + start - 1, max(prefix - 1, 0)))
        owners.append(np.full(len(learnt), number))
        start += length
    return Batch(
        examples=tuple(examples),
        input_ids=torch.from_numpy(np.concatenate(ids)),
        positions=torch.from_numpy(np.concatenate(positions)),
        prefix=prefix,
        lengths=tuple(len(example) - prefix for example in examples),
        sources=torch.from_numpy(np.concatenate(sources)),
        targets=torch.from_numpy(np.concatenate(targets)),
        owners=torch.from_numpy(np.concatenate(owners)),
    )


def shared_prefix(examples: Sequence[TokenizedExample]) -> int:
    """Count the tokens that all examples begin with and none of them learns; each keeps one of its own at least."""
    limit = min(min(int(example.labels.argmax()), len(example) - 1) for example in examples)
    first = examples[0].input_ids[:limit]
    for example in examples[1:]:
        differs = (first != example.input_ids[: len(first)]).nonzero()[0]
        first = first[: differs[0]] if len(differs) else first
    return len(first)


def plan_epoch(
    lengths: Sequence[int], *, batch_size: int, accumulation: int, seed: int, epoch: int, by_length: bool
) -> list[tuple[int, ...]]:
    """Divide the examples of one epoch into steps, each of `batch_size * accumulation` examples (the last of fewer).

    Args:
        lengths: tokens of each example.
        batch_size: examples in a micro-batch.
        accumulation: micro-batches in a step.
        seed: of the shuffle, mixed with the epoch's number.
        epoch: from 0.
        by_length: put examples of similar length into a step, which saves padding where a decoder pads.

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


def micro_batches(
    step: Sequence[int], lengths: Sequence[int], *, batch_size: int, batch_tokens: int | None
) -> list[tuple[int, ...]]:
    """Divide a step's examples into micro-batches of at most so many examples and, where given, padded tokens.

    One example that alone exceeds the budget makes a micro-batch of its own.
    """
    found: list[tuple[int, ...]] = []
    current: list[int] = []
    longest = 0
    for index in step:
        longest = max(longest, lengths[index])
        full = len(current) == batch_size
        if current and (full or (batch_tokens is not None and longest * (len(current) + 1) > batch_tokens)):
            found.append(tuple(current))
            current, longest = [], lengths[index]
        current.append(index)
    found.append(tuple(current))
    return found


def shards(examples: Sequence[TokenizedExample], *, ways: int, share_prefix: bool) -> list[tuple[int, ...]]:
    """Divide a micro-batch into up to so many parts of equal work, as many as make it faster to compute them apart.

    Every part lays down a shared prefix anew, and small ones multiply slowly.
    """

    def cost(places: Sequence[int]) -> int:
        some = [examples[place] for place in places]
        prefix = shared_prefix(some) if share_prefix and len(some) > 1 else 0
        return sum(len(example) for example in some) - prefix * (len(some) - 1)

    everything = tuple(range(len(examples)))
    whole = cost(everything)
    for number in range(min(ways, len(examples), whole // LEAST_TOKENS), 1, -1):
        parts = balanced([len(example) for example in examples], number)
        costs = [cost(part) for part in parts]
        if min(costs) >= LEAST_TOKENS and max(costs) * number * _SHARED_SPEED < whole:
            return parts
    return [everything]


def balanced(weights: Sequence[int], ways: int) -> list[tuple[int, ...]]:
    """Divide places among so many ways that the heaviest is light: each, from the heaviest on, to the lightest way."""
    found: list[list[int]] = [[] for _ in range(ways)]
    loads = [0] * ways
    for place in sorted(range(len(weights)), key=lambda place: (-weights[place], place)):
        way = loads.index(min(loads))
        found[way].append(place)
        loads[way] += weights[place]
    return [tuple(sorted(places)) for places in found]
