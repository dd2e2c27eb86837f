"""Held-out loss and accuracy of a model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.batch_plan import LEAST_TOKENS
from finch_hub.engine.data.batches import Batch, pack
from finch_hub.engine.data.tokenized_examples import TokenizedExample
from finch_hub.engine.decoder.decoder import Decoder, choose_decoder, make_head
from finch_hub.engine.decoder.loss import Head, token_losses
from finch_hub.engine.numerics.concurrency import MAX_TASKS, run_in_parallel
from finch_hub.progress import track
from finch_hub.specs.reports import TokenMetrics

# Products of this many rows run at full speed. More would only take more memory.
_BATCH_TOKENS = 2048


def measure(base: Base, examples: Sequence[TokenizedExample]) -> TokenMetrics:
    """Evaluate the base with its enabled adapters; see :func:`evaluate`."""
    base.fit_attention(max(len(example) for example in examples))
    return evaluate(choose_decoder(base), make_head(base), examples, device=base.device)


@torch.no_grad()
def evaluate(
    decoder: Decoder,
    head: Head,
    examples: Sequence[TokenizedExample],
    *,
    device: torch.device,
    before_batch: Callable[[], None] = lambda: None,
) -> TokenMetrics:
    """Measure loss and accuracy over the label tokens of the examples.

    `before_batch` is called before each round of batches. An exception of it ends the evaluation.

    Raises:
        Diverged: a loss is not finite.
    """
    sums = torch.zeros(len(examples), dtype=torch.float64)
    correct = torch.zeros((), dtype=torch.int64)
    counts = torch.tensor([int(example.labels.sum()) for example in examples])
    ways = min(torch.get_num_threads(), MAX_TASKS) if decoder.is_thread_safe else 1
    batch_rows = _divide_into_batches(examples, ways)
    for begin in track(range(0, len(batch_rows), ways), "measuring"):
        before_batch()
        batches = [
            pack([examples[row] for row in rows], share_prefix=decoder.can_share_prefix).to(device)
            for rows in batch_rows[begin : begin + ways]
        ]
        decoder.cache_frozen_states(batches)
        measured = run_in_parallel([functools.partial(_token_losses, decoder, head, batch) for batch in batches])
        for rows, batch, (losses, hits) in zip(batch_rows[begin:], batches, measured, strict=False):
            sums.index_add_(0, torch.tensor(rows)[batch.owners.cpu()], losses.double().cpu())
            correct += hits.sum().cpu()
    tokens = int(counts.sum())
    if not torch.isfinite(sums).all():
        number = int((~torch.isfinite(sums)).nonzero()[0, 0]) + 1
        raise errors.Diverged(f"the loss of held-out example {number} is not finite")
    return TokenMetrics(
        loss=float(sums.sum() / tokens),
        accuracy=float(correct / tokens),
        tokens=tokens,
        examples=len(examples),
        example_losses=tuple((sums / counts).tolist()),
    )


@torch.no_grad()
def _token_losses(decoder: Decoder, head: Head, batch: Batch) -> tuple[Tensor, Tensor]:
    return token_losses(decoder.hidden_states(batch), head, batch.targets)


def _divide_into_batches(examples: Sequence[TokenizedExample], ways: int) -> list[list[int]]:
    """Divide the examples by length into batches; `ways` of them are computed at once.

    Results depend on the division only by rounding.
    """
    lengths = [len(example) for example in examples]
    order = sorted(range(len(examples)), key=lengths.__getitem__)
    # Few examples are divided evenly, so that no thread is idle.
    share = -(-len(examples) * lengths[order[-1]] // ways)
    max_tokens = min(_BATCH_TOKENS, max(share, LEAST_TOKENS))
    batches: list[list[int]] = [[]]
    for row in order:
        if batches[-1] and lengths[row] * (len(batches[-1]) + 1) > max_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches
