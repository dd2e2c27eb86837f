"""Held-out quality by token, streamed: no logits are kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.bases.loading import Base
from finch_hub.engine.data.batches import LEAST_TOKENS, Batch, pack
from finch_hub.engine.data.tokenizing import TokenizedExample
from finch_hub.engine.decoder.decoder import Decoder, Head, decoder_of
from finch_hub.engine.decoder.loss import token_losses
from finch_hub.engine.numerics.concurrency import MOST, side_by_side
from finch_hub.specs.reports import TokenMetrics

# Tokens of a batch: products of this many rows run at full speed, and nothing is kept for a backward pass.
_BATCH_TOKENS = 2048


def measure(base: Base, examples: Sequence[TokenizedExample]) -> TokenMetrics:
    """Measure the base with whatever adapters are enabled on it; see :func:`evaluate`."""
    base.fit_attention(max(len(example) for example in examples))
    return evaluate(decoder_of(base), Head(base.model), examples, device=base.device)


@torch.no_grad()
def evaluate(
    decoder: Decoder,
    head: Head,
    examples: Sequence[TokenizedExample],
    *,
    device: torch.device,
    between: Callable[[], None] = lambda: None,
) -> TokenMetrics:
    """Measure loss and accuracy over the label tokens of the examples.

    Args:
        decoder: as it stands, adapters that are switched on included.
        head: of the same model.
        examples: at least one.
        device: where the model is.
        between: called between batches; what it raises ends the evaluation.

    Raises:
        Diverged: a loss is not finite.

    """
    sums = torch.zeros(len(examples), dtype=torch.float64)
    right = torch.zeros((), dtype=torch.int64)
    counts = torch.tensor([int(example.labels.sum()) for example in examples])
    ways = min(torch.get_num_threads(), MOST) if decoder.concurrent else 1
    divided = _batches(examples, ways)
    for begin in range(0, len(divided), ways):
        between()
        batches = [
            pack([examples[row] for row in rows], share_prefix=decoder.shares_prefix).to(device)
            for rows in divided[begin : begin + ways]
        ]
        decoder.remember(batches)
        measured = side_by_side([functools.partial(_token_losses, decoder, head, batch) for batch in batches])
        for rows, batch, (losses, hits) in zip(divided[begin:], batches, measured, strict=False):
            sums.index_add_(0, torch.tensor(rows)[batch.owners.cpu()], losses.double().cpu())
            right += hits.sum().cpu()
    tokens = int(counts.sum())
    if not torch.isfinite(sums).all():
        worst = int((~torch.isfinite(sums)).nonzero()[0, 0]) + 1
        raise errors.Diverged(f"the held-out loss is not finite, first in example {worst}")
    return TokenMetrics(
        loss=float(sums.sum() / tokens),
        accuracy=float(right / tokens),
        tokens=tokens,
        examples=len(examples),
        example_losses=tuple((sums / counts).tolist()),
    )


@torch.no_grad()
def _token_losses(decoder: Decoder, head: Head, batch: Batch) -> tuple[Tensor, Tensor]:
    return token_losses(decoder.hidden(batch), head.product, batch.targets)


def _batches(examples: Sequence[TokenizedExample], ways: int) -> list[list[int]]:
    """Divide the examples by length into batches, so many of which are computed at once.

    Results don't depend on it but for rounding.
    """
    order = sorted(range(len(examples)), key=lambda row: len(examples[row]))
    # Where there is little, it is a batch for each.
    share = -(-len(examples) * len(examples[order[-1]]) // ways)
    most = min(_BATCH_TOKENS, max(share, LEAST_TOKENS))
    found: list[list[int]] = [[]]
    for row in order:
        if found[-1] and len(examples[row]) * (len(found[-1]) + 1) > most:
            found.append([])
        found[-1].append(row)
    return found
