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
        wide = _buffer(targets, weight)
        for begin in range(0, len(targets), _ROWS):
            rows = slice(begin, begin + _ROWS)
            chosen = targets[rows, None]
            _, probabilities = _chunk(hidden[rows], weight, bias, wide)
            likelihood = probabilities.gather(1, chosen)
            # Below the smallest float32 a probability is 0 and its loss, of 87 nats, no longer a number.
            total -= likelihood.clamp(min=torch.finfo(torch.float32).tiny).log_().sum()
            if gradient is not None:
                probabilities.scatter_(1, chosen, likelihood - 1.0)
                torch.addmm(
                    gradient[rows], probabilities.to(weight.dtype), weight, beta=0, alpha=scale, out=gradient[rows]
                )
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
    """Return the cross-entropy of each token (float32 [L]) and whether the largest logit was its (bool [L]).

    ``log p_t = z_t - z_max + log p_max``, for ``p_max >= 1 / V`` cannot underflow as ``p_t`` can.
    """
    losses, right = [], []
    wide = _buffer(targets, weight)
    for begin in range(0, len(targets), _ROWS):
        chosen = targets[begin : begin + _ROWS, None]
        logits, probabilities = _chunk(hidden[begin : begin + _ROWS], weight, bias, wide)
        best, best_id = logits.max(dim=-1, keepdim=True)
        difference = best.float() - logits.gather(1, chosen).float()
        losses.append((difference - probabilities.gather(1, best_id).log())[:, 0])
        right.append((best_id == chosen)[:, 0])
    return torch.cat(losses), torch.cat(right)


def _buffer(targets: Tensor, weight: Tensor) -> Tensor:
    """Return float32 memory for the logits of one chunk, which is larger than allocators like to give repeatedly."""
    return weight.new_empty((min(_ROWS, len(targets)), weight.shape[0]), dtype=torch.float32)


def _chunk(hidden: Tensor, weight: Tensor, bias: Tensor | None, wide: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits [c, V] in the weights' dtype, and probabilities [c, V] in `wide`."""
    logits = torch.nn.functional.linear(hidden, weight, bias)
    # Softmax from one dtype to another takes ten times as long as to copy and compute in place.
    probabilities = wide[: len(hidden)].copy_(logits)
    return logits, torch.softmax(probabilities, dim=-1, out=probabilities)
