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

from finch_hub.engine.decoder.frozen_linear import Product


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Update:
    """What an adapter, or a stack of several, adds to one linear module on some rows: ``scale * dropout(x) Aᵀ Bᵀ``.

    Attributes:
        rows: of the packed tokens.
        columns: of the product's outputs, those of the module.
        A: float32 [r, in].
        B: float32 [out, r].
        scale: alpha / r, or as rsLoRA has it.
        dropout: probability of dropping an input, 0 in evaluation.
        seed: of the dropout mask, which is drawn again in the backward pass rather than kept.
        others: of a stack, bool [rows, r]: which of the r factors are another adapter's than the row's, and nothing to
            it.

    """

    rows: slice
    columns: slice
    A: Tensor
    B: Tensor
    scale: float
    dropout: float = 0.0
    seed: int = 0
    others: Tensor | None = None


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
    def forward(ctx: Any, x: Tensor, product: Product, updates: Sequence[Update], *factors: Tensor) -> Tensor:
        y, kept = product.forward(x), []
        for update in updates:
            A, B = update.A.to(x.dtype), update.B.to(x.dtype)
            inner = _own(_dropped(x[update.rows], update) @ A.T, update)
            y[update.rows, update.columns].addmm_(inner, B.T, alpha=update.scale)
            kept += [A, B, inner]
        ctx.product, ctx.updates = product, updates
        ctx.save_for_backward(x if kept else None, *kept)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (gradient,) = gradients
        x, *saved = ctx.saved_tensors
        kept = iter(saved)
        to_input = ctx.product.backward(gradient) if ctx.needs_input_grad[0] else None
        to_factors: list[Tensor] = []
        for update in ctx.updates:
            A, B, inner = next(kept), next(kept), next(kept)
            own = gradient[update.rows, update.columns]
            to_inner = _own((own @ B).mul_(update.scale), update)
            to_factors.append((_dropped(x[update.rows], update).T @ to_inner).T.to(update.A.dtype))
            to_factors.append((own.T @ inner).to(update.B.dtype).mul_(update.scale))
            if to_input is None:
                continue
            if update.dropout:
                to_input[update.rows] += _dropped(to_inner @ A, update)
            else:
                to_input[update.rows].addmm_(to_inner, A)
        return to_input, None, None, *to_factors


def linears(x: Tensor, product: Product, updates: Sequence[Update] = ()) -> Tensor:
    """Return the outputs [N, out] of adapted linear modules that share their input: ``x Wᵀ + b + scale * x Aᵀ Bᵀ``.

    Args:
        x: [N, in].
        product: of the modules.
        updates: on them.

    """
    factors = [factor for update in updates for factor in (update.A, update.B)]
    outputs: Tensor = _Linears.apply(x, product, updates, *factors)  # type: ignore[no-untyped-call]
    return outputs


def _own(inner: Tensor, update: Update) -> Tensor:
    # Filled, not multiplied: what another adapter makes of a row may be infinite.
    return inner if update.others is None else inner.masked_fill_(update.others, 0.0)


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
    def forward(ctx: Any, joined: Tensor) -> Tensor:
        ctx.save_for_backward(joined)
        gate, up = joined.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (joined,) = ctx.saved_tensors
        gate, up = joined.chunk(2, dim=-1)
        to_joined = torch.empty_like(joined)
        to_gate, to_up = to_joined.chunk(2, dim=-1)
        torch.mul(torch.nn.functional.silu(gate), gradients[0], out=to_up)
        torch.ops.aten.silu_backward.grad_input(gradients[0] * up, gate, grad_input=to_gate)
        return to_joined


def swiglu(joined: Tensor) -> Tensor:
    """Return ``silu(gate) * up`` [N, F] of gate and up side by side [N, 2 F] (arXiv 2002.05202)."""
    result: Tensor = _SwiGLU.apply(joined)  # type: ignore[no-untyped-call]
    return result
