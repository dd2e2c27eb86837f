"""Language-model head, and the losses of tokens, computed without holding all logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from finch_hub.engine.bases.memory import LOGIT_ROWS
from finch_hub.engine.decoder.frozen_linear import FrozenLinear, can_prepack, get_frozen_linear
from finch_hub.engine.decoder.own_head import OwnHead

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Head:
    """Language-model head.

    Its logits are the product of one linear module, or those of the model's own forward.

    Args:
        is_linear: whether the logits are this product; see :mod:`finch_hub.engine.decoder.forward_check`.

    Attributes:
        linear: product from [L, d] to [L, V]; None if the model's own forward computes the logits.
        vocabulary: V, number of tokens.
    """

    def __init__(self, model: PreTrainedModel, *, is_linear: bool) -> None:
        module: Any = model.get_output_embeddings()
        self.linear = get_frozen_linear([module], is_prepacked=can_prepack([module])) if is_linear else None
        self.vocabulary = len(module.weight)
        self._own = OwnHead(model)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits [n, V] of hidden states [n, d]."""
        return self._own.logits(hidden) if self.linear is None else self.linear.forward(hidden)


class _HeadLosses(torch.autograd.Function):
    """Losses of tokens; the forward pass computes the gradient too, while it holds the logits."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: FrozenLinear, targets: Tensor, scales: Tensor) -> Tensor:
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        likelihoods = scales.new_empty(len(targets))
        buffer = _probability_buffer(targets, sum(head.sizes))
        for rows in _chunks(len(targets)):
            target = targets[rows, None]
            probabilities = _softmax(head.forward(hidden[rows]), buffer)
            likelihood = probabilities.gather(1, target)
            likelihoods[rows] = likelihood[:, 0]
            if gradient is not None:
                probabilities.scatter_(1, target, likelihood - 1.0)
                # Scaled after the product: in float16 the gradients of single tokens would vanish.
                torch.mul(head.backward(probabilities.to(hidden.dtype)), scales[rows, None], out=gradient[rows])
        ctx.save_for_backward(gradient)
        # A probability below the smallest float32 would be 0, and its loss infinite.
        return likelihoods.clamp_(min=torch.finfo(torch.float32).tiny).log_().mul_(scales).neg_()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # Backward starts from the sum of the losses, so the gradient of each loss is 1.
        return gradient, None, None, None


def head_losses(hidden: Tensor, head: Head, targets: Tensor, scales: Tensor) -> Tensor:
    """Return ``scale * cross-entropy`` of each token, float32 [L].

    A backward pass must start from the sum of the losses.

    Args:
        hidden: [L, d], hidden states that predict the targets.
        head: language-model head, to V outputs.
        targets: int64 [L], token ids.
        scales: float32 [L], usually 1 / label tokens of the whole step.
    """
    losses: Tensor
    if head.linear is not None:
        losses = _HeadLosses.apply(hidden, head.linear, targets, scales)  # type: ignore[no-untyped-call]
        return losses

    def compute(rows: Tensor, target: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(head.logits(rows).float(), target, reduction="none")

    # Logits are computed again in the backward pass: those of all tokens would not fit into memory.
    chunks = [checkpoint(compute, hidden[rows], targets[rows], use_reentrant=False) for rows in _chunks(len(targets))]
    return torch.cat(chunks) * scales


@torch.no_grad()
def token_losses(hidden: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of each token (float32 [L]) and whether its logit was the largest (bool [L]).

    It uses ``log p_t = z_t - z_max + log p_max``: ``p_max >= 1 / V`` cannot underflow, but ``p_t`` can.
    """
    losses, correct = [], []
    buffer = _probability_buffer(targets, head.vocabulary)
    for rows in _chunks(len(targets)):
        logits = head.logits(hidden[rows])
        probabilities = _softmax(logits, buffer)
        # argmax takes seven times as long as amax, and differs only where several logits are the largest.
        best = logits.amax(dim=-1, keepdim=True)
        target_logits = logits.gather(1, targets[rows, None])
        losses.append((best.float() - target_logits.float() - probabilities.amax(dim=-1, keepdim=True).log())[:, 0])
        hits = (target_logits == best)[:, 0]
        tied = (hits & ((logits == best).sum(dim=-1) > 1)).nonzero()[:, 0]
        if len(tied):
            hits[tied] = logits[tied].argmax(dim=-1) == targets[rows][tied]
        correct.append(hits)
    return torch.cat(losses), torch.cat(correct)


def _chunks(count: int) -> Iterator[slice]:
    """Divide rows evenly: a small last chunk would read all of the head's weights again."""
    number = -(-count // LOGIT_ROWS)
    for place in range(number):
        yield slice(count * place // number, count * (place + 1) // number)


def _probability_buffer(targets: Tensor, vocabulary: int) -> Tensor:
    """Return float32 memory for one chunk, which all chunks reuse: allocating it again for each would be slow."""
    shape = (min(LOGIT_ROWS, len(targets)), vocabulary)
    return torch.empty(shape, dtype=torch.float32, device=targets.device)


def _softmax(logits: Tensor, buffer: Tensor) -> Tensor:
    """Return the probabilities [c, V] in the buffer."""
    # Softmax from one dtype to another takes ten times as long as a copy and softmax in place.
    probabilities = buffer[: len(logits)].copy_(logits)
    return torch.softmax(probabilities, dim=-1, out=probabilities)
