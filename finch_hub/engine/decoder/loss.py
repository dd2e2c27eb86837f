"""Cross-entropy of completion tokens, from hidden states, without ever holding all logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from finch_hub.engine.decoder.frozen_linear import Product

# Most rows of logits at once: enough for the products to run at full speed, and 200 KB a row at most vocabularies.
_ROWS = 128


class _HeadLosses(torch.autograd.Function):
    """The losses; the gradient of the hidden states is made on the way, while the logits are at hand."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, product: Product, targets: Tensor, scales: Tensor) -> Tensor:
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        likelihoods = scales.new_empty(len(targets))
        wide = _buffer(targets, product)
        for rows in _chunks(len(targets)):
            chosen = targets[rows, None]
            probabilities = _softmax(product.forward(hidden[rows]), wide)
            likelihood = probabilities.gather(1, chosen)
            likelihoods[rows] = likelihood[:, 0]
            if gradient is not None:
                probabilities.scatter_(1, chosen, likelihood - 1.0)
                # Scaled when it is summed up: in float16 single ones would vanish.
                torch.mul(product.backward(probabilities.to(hidden.dtype)), scales[rows, None], out=gradient[rows])
        ctx.save_for_backward(gradient)
        # Below the smallest float32 a probability is 0 and its loss, of 87 nats, no longer a number.
        return likelihoods.clamp_(min=torch.finfo(torch.float32).tiny).log_().mul_(scales).neg_()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # Backward starts from their sum, so each one's own gradient is 1 and nothing has to be multiplied.
        return gradient, None, None, None


def head_losses(hidden: Tensor, product: Product, targets: Tensor, scales: Tensor) -> Tensor:
    """Return ``scale * cross-entropy`` of each token, float32 [L]; a backward pass is to begin from their sum only.

    Args:
        hidden: [L, d], of the places that predict.
        product: of the language-model head, to V outputs.
        targets: int64 [L].
        scales: float32 [L], usually one over the label tokens of the whole step.

    """
    losses: Tensor = _HeadLosses.apply(hidden, product, targets, scales)  # type: ignore[no-untyped-call]
    return losses


@torch.no_grad()
def token_losses(hidden: Tensor, product: Product, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of each token (float32 [L]) and whether the largest logit was its (bool [L]).

    ``log p_t = z_t - z_max + log p_max``, for ``p_max >= 1 / V`` cannot underflow as ``p_t`` can.
    """
    losses, right = [], []
    wide = _buffer(targets, product)
    for rows in _chunks(len(targets)):
        logits = product.forward(hidden[rows])
        probabilities = _softmax(logits, wide)
        # Without its place, which takes seven times as long to find, and matters only where several are the largest.
        best = logits.amax(dim=-1, keepdim=True)
        own = logits.gather(1, targets[rows, None])
        losses.append((best.float() - own.float() - probabilities.amax(dim=-1, keepdim=True).log())[:, 0])
        hits = (own == best)[:, 0]
        tied = (hits & ((logits == best).sum(dim=-1) > 1)).nonzero()[:, 0]
        if len(tied):
            hits[tied] = logits[tied].argmax(dim=-1) == targets[rows][tied]
        right.append(hits)
    return torch.cat(losses), torch.cat(right)


def _chunks(count: int) -> Iterator[slice]:
    """Divide rows evenly: a few left over would read all of the head's weights for themselves."""
    number = -(-count // _ROWS)
    for place in range(number):
        yield slice(count * place // number, count * (place + 1) // number)


def _buffer(targets: Tensor, product: Product) -> Tensor:
    """Return float32 memory for the logits of one chunk, which is larger than allocators like to give repeatedly."""
    shape = (min(_ROWS, len(targets)), sum(product.sizes))
    return torch.empty(shape, dtype=torch.float32, device=targets.device)


def _softmax(logits: Tensor, wide: Tensor) -> Tensor:
    """Return the probabilities [c, V] in `wide`."""
    # Softmax from one dtype to another takes ten times as long as to copy and compute in place.
    probabilities = wide[: len(logits)].copy_(logits)
    return torch.softmax(probabilities, dim=-1, out=probabilities)
