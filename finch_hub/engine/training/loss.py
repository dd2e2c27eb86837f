"""Cross-entropy of completion tokens, from hidden states, without ever holding all logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Rows of logits at once: enough for the matrix product to run at full speed, and 200 KB a row at most vocabularies.
_ROWS = 128


class _HeadLoss(torch.autograd.Function):
    """Sum of the losses; the gradient of the hidden states is made on the way, while the logits are at hand."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: float) -> Tensor:
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for begin in range(0, len(targets), _ROWS):
            rows = slice(begin, begin + _ROWS)
            losses, probabilities, _ = _chunk(hidden[rows], weight, bias, targets[rows])
            total += losses.sum()
            if gradient is not None:
                probabilities[torch.arange(len(losses), device=hidden.device), targets[rows]] -= 1.0
                torch.mm(probabilities.mul_(scale).to(weight.dtype), weight, out=gradient[rows])
        ctx.save_for_backward(gradient)
        return total * scale

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # The loss is what backward starts from, so its own gradient is 1 and nothing has to be multiplied.
        return gradient, None, None, None, None


def head_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, scale: float) -> Tensor:
    """Return ``scale * sum of cross-entropies`` in float32; only to be the root of a backward pass.

    Args:
        hidden: [L, d], of the places that predict.
        weight: [V, d] of the language-model head, frozen.
        bias: [V] or None.
        targets: int64 [L].
        scale: usually one over the label tokens of the whole step.

    """
    loss: Tensor = _HeadLoss.apply(hidden, weight, bias, targets, scale)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def token_losses(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of each token (float32 [L]) and whether the largest logit was its (bool [L])."""
    losses, right = [], []
    for begin in range(0, len(targets), _ROWS):
        rows = slice(begin, begin + _ROWS)
        some, _, best = _chunk(hidden[rows], weight, bias, targets[rows])
        losses.append(some)
        right.append(best == targets[rows])
    return torch.cat(losses), torch.cat(right)


def _chunk(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return losses [c], probabilities [c, V] and best ids [c], all in float32 from logits of the weights' dtype.

    ``log p_t = z_t - z_max + log p_max``: one pass for the softmax gives everything, and ``p_max >= 1 / V`` cannot
    underflow as ``p_t`` can.
    """
    logits = torch.nn.functional.linear(hidden, weight, bias)
    best, best_id = logits.max(dim=-1)
    chosen = logits.gather(1, targets[:, None])[:, 0]
    probabilities = torch.softmax(logits, dim=-1, dtype=torch.float32)
    best_probability = probabilities.gather(1, best_id[:, None])[:, 0]
    losses = best.float() - chosen.float() - best_probability.log()
    return losses, probabilities, best_id
