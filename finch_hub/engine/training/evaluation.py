"""Held-out quality by token, streamed: no logits are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from finch_hub import errors
from finch_hub.engine.bases import Base
from finch_hub.engine.data.batches import pack
from finch_hub.engine.data.tokenizing import TokenizedExample
from finch_hub.engine.training.decoder import Decoder, Head, decoder_of
from finch_hub.engine.training.loss import token_losses
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
    for rows in _batches(examples):
        between()
        batch = pack([examples[row] for row in rows], share_prefix=decoder.shares_prefix).to(device)
        losses, hits = token_losses(decoder.hidden(batch), head.weight, head.bias, batch.targets)
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


def _batches(examples: Sequence[TokenizedExample]) -> list[list[int]]:
    """Divide the examples into batches by length; results don't depend on it but for rounding."""
    order = sorted(range(len(examples)), key=lambda row: len(examples[row]))
    found: list[list[int]] = [[]]
    for row in order:
        if found[-1] and len(examples[row]) * (len(found[-1]) + 1) > _BATCH_TOKENS:
            found.append([])
        found[-1].append(row)
    return found
