"""The operations of a decoder layer on packed tokens, each with its own backward pass.

transformers' layers are written to be read; on a CPU they spend nearly half of a LoRA training step outside of matrix
products: casts, copies, masks and sums of gradients. These do the same arithmetic in fewer passes over memory, know
that the base's weights are frozen, and know which tokens belong together, so that nothing is padded.

All tensors are [N, …] with one row for each token. With a float32 base everything is computed in float32; with a
bfloat16 base products are, and sums inside of norms, softmax and products are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Update:
    """What one adapter adds to one linear module, on some of the rows: ``scale * dropout(x) Aᵀ Bᵀ``.

    Attributes:
        rows: of the packed tokens.
        A: float32 [r, in].
        B: float32 [out, r].
        scale: alpha / r, or as rsLoRA has it.
        dropout: probability of dropping an input, 0 in evaluation.
        seed: of the dropout mask, which is drawn again in the backward pass rather than kept.

    """

    rows: slice
    A: Tensor
    B: Tensor
    scale: float
    dropout: float = 0.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class AdaptedLinear:
    """A frozen linear module and the updates on it; weight [out, in], bias [out] or None."""

    weight: Tensor
    bias: Tensor | None
    updates: tuple[Update, ...] = ()


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        normed: Tensor = (wide * scale).mul_(weight).to(x.dtype)
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        gradient = gradients[0] * weight.float()
        wide = x.float()
        inner = (gradient * wide).sum(dim=-1, keepdim=True).mul_(scale.pow(3)).div_(-x.shape[-1])
        return gradient.mul_(scale).addcmul_(wide, inner).to(x.dtype), None, None


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Return ``x / sqrt(mean(x²) + epsilon) * weight`` over the last dimension (arXiv 1910.07467)."""
    result: Tensor = _RMSNorm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]
    return result


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linears: Sequence[AdaptedLinear], *factors: Tensor) -> tuple[Tensor, ...]:
        outputs, kept = [], []
        for linear in linears:
            y = torch.nn.functional.linear(x, linear.weight, linear.bias)
            for update in linear.updates:
                A, B = update.A.to(x.dtype), update.B.to(x.dtype)
                inner = _dropped(x[update.rows], update) @ A.T
                y[update.rows].addmm_(inner, B.T, alpha=update.scale)
                kept += [A, B, inner]
            outputs.append(y)
        ctx.linears = linears
        ctx.save_for_backward(x if kept else None, *kept)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, *saved = ctx.saved_tensors
        kept = iter(saved)
        to_input: Tensor | None = None
        to_factors: list[Tensor] = []
        for linear, gradient in zip(ctx.linears, gradients, strict=True):
            if ctx.needs_input_grad[0]:
                weight = linear.weight
                to_input = gradient @ weight if to_input is None else to_input.addmm_(gradient, weight)
            for update in linear.updates:
                A, B, inner = next(kept), next(kept), next(kept)
                own = gradient[update.rows]
                to_inner = (own @ B).mul_(update.scale)
                to_factors.append((to_inner.T @ _dropped(x[update.rows], update)).to(update.A.dtype))
                to_factors.append((own.T @ inner).to(update.B.dtype).mul_(update.scale))
                if to_input is None:
                    continue
                if update.dropout:
                    to_input[update.rows] += _dropped(to_inner @ A, update)
                else:
                    to_input[update.rows].addmm_(to_inner, A)
        return to_input, None, *to_factors


def linears(x: Tensor, group: Sequence[AdaptedLinear]) -> tuple[Tensor, ...]:
    """Return the outputs of linear modules that share their input: ``x Wᵀ + b + scale * x Aᵀ Bᵀ`` of each.

    Args:
        x: [N, in].
        group: the modules.

    """
    factors = [factor for linear in group for update in linear.updates for factor in (update.A, update.B)]
    outputs: tuple[Tensor, ...] = _Linears.apply(x, group, *factors)  # type: ignore[no-untyped-call]
    return outputs


def _dropped(x: Tensor, update: Update) -> Tensor:
    """Return x with inputs dropped and the others scaled up, the same ones for the same seed."""
    if not update.dropout:
        return x
    generator = torch.Generator(x.device).manual_seed(update.seed)
    keep = 1.0 - update.dropout
    mask = torch.empty(x.shape, dtype=x.dtype, device=x.device).bernoulli_(keep, generator=generator)
    return x * mask.div_(keep)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        to_up = torch.nn.functional.silu(gate).mul_(gradients[0])
        return torch.ops.aten.silu_backward(gradients[0] * up, gate), to_up


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return ``silu(gate) * up`` (arXiv 2002.05202)."""
    result: Tensor = _SwiGLU.apply(gate, up)  # type: ignore[no-untyped-call]
    return result
