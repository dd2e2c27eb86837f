"""Batches of examples, packed end to end without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from finch_hub.engine.data.tokenized_examples import TokenizedExample


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Examples end to end in one row of N tokens. Each token attends only to tokens of its own example.

    A shared prefix is at the beginning of the row, once, and belongs to every example.

    Attributes:
        input_ids: token ids, int64 [N].
        positions: position of each token in its own example with the prefix, int64 [N].
        prefix: number of tokens of the shared prefix, 0 without one.
        lengths: number of tokens of each example without the prefix.
        sources: index of the token whose hidden state predicts each target, int64 [L].
        targets: token ids to predict, int64 [L].
        owners: index of each target's example, int64 [L].
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
        """Number of tokens of all examples. A shared prefix counts for each of them."""
        return sum(self.lengths) + self.prefix * len(self.lengths)

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Begin and end of each example in the row, without the prefix."""
        ends = np.cumsum(self.lengths) + self.prefix
        return tuple((int(end) - length, int(end)) for end, length in zip(ends, self.lengths, strict=True))

    def to(self, device: torch.device) -> Batch:
        """Return the batch on the device. A copy to CUDA is asynchronous."""
        if device.type == "cpu":
            return self
        moved = {
            name: getattr(self, name).pin_memory().to(device, non_blocking=True)
            for name in ("input_ids", "positions", "sources", "targets", "owners")
        }
        return replace(self, **moved)


def pack(examples: Sequence[TokenizedExample], *, share_prefix: bool) -> Batch:
    """Pack examples end to end. With `share_prefix`, tokens that all of them begin with are packed once."""
    prefix = count_shared_prefix(examples) if share_prefix and len(examples) > 1 else 0
    ids = [examples[0].input_ids[:prefix]]
    positions = [np.arange(prefix)]
    sources, targets, owners = [], [], []
    start = prefix
    for number, example in enumerate(examples):
        length = len(example) - prefix
        ids.append(example.input_ids[prefix:])
        positions.append(np.arange(prefix, len(example)))
        labels = example.labels.nonzero()[0]
        targets.append(example.input_ids[labels])
        # If the first own token is a label, the last token of the shared prefix predicts it.
        sources.append(np.where(labels > prefix, labels - prefix + start - 1, max(prefix - 1, 0)))
        owners.append(np.full(len(labels), number))
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


def count_shared_prefix(examples: Sequence[TokenizedExample]) -> int:
    """Count the tokens without labels that all examples begin with. Each example keeps at least one token."""
    limit = min(min(int(example.labels.argmax()), len(example) - 1) for example in examples)
    first = examples[0].input_ids[:limit]
    for example in examples:
        if not len(first):
            break
        differs = (first != example.input_ids[: len(first)]).nonzero()[0]
        first = first[: differs[0]] if len(differs) else first
    return len(first)
