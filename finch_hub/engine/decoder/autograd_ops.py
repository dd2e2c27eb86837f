"""Operations of a decoder layer on packed tokens, each with its own backward pass.

On a CPU, transformers' layers spend nearly half of a LoRA training step outside of matrix products: in casts, copies,
masks and sums of gradients. These operations do the same arithmetic in fewer passes over memory. They use that the
base's weights are frozen and that tokens are not padded.

All tensors are [N, …] with one row for each token. With a float32 base everything is computed in float32. With a
bfloat16 base the products are bfloat16, and sums inside of norms, softmax and products are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from finch_hub.engine.decoder.frozen_linear import FrozenLinear
from finch_hub.engine.decoder.low_rank_updates import LowRankUpdate


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


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, frozen: FrozenLinear, updates: Sequence[LowRankUpdate], *factors: Tensor
    ) -> Tensor:
        y, kept = frozen.forward(x), []
        for update in updates:
            A, B = update.A.to(x.dtype), update.B.to(x.dtype)
            inner = _mask_ranks(_drop_inputs(x[update.rows], update) @ A.T, update)
            y[update.rows, update.columns].addmm_(inner, B.T, alpha=update.scale)
            kept += [A, B, inner]
        ctx.frozen, ctx.updates = frozen, updates
        ctx.save_for_backward(x if kept else None, *kept)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (gradient,) = gradients
        x, *saved = ctx.saved_tensors
        kept = iter(saved)
        to_input = ctx.frozen.backward(gradient) if ctx.needs_input_grad[0] else None
        to_factors: list[Tensor] = []
        for update in ctx.updates:
            A, B, inner = next(kept), next(kept), next(kept)
            to_output = gradient[update.rows, update.columns]
            to_inner = _mask_ranks((to_output @ B).mul_(update.scale), update)
            to_factors.append((_drop_inputs(x[update.rows], update).T @ to_inner).T.to(update.A.dtype))
            to_factors.append((to_output.T @ inner).to(update.B.dtype).mul_(update.scale))
            if to_input is None:
                continue
            if update.dropout:
                to_input[update.rows] += _drop_inputs(to_inner @ A, update)
            else:
                to_input[update.rows].addmm_(to_inner, A)
        return to_input, None, None, *to_factors


def adapted_linear(x: Tensor, frozen: FrozenLinear, updates: Sequence[LowRankUpdate] = ()) -> Tensor:
    """Return the outputs [N, out] of adapted linear modules: ``x Wᵀ + b + scale * x Aᵀ Bᵀ``.

    Args:
        x: [N, in], input that the modules share.
        frozen: weights of the modules.
        updates: terms that adapters add.
    """
    factors = [factor for update in updates for factor in (update.A, update.B)]
    outputs: Tensor = _AdaptedLinear.apply(x, frozen, updates, *factors)  # type: ignore[no-untyped-call]
    return outputs


def _mask_ranks(inner: Tensor, update: LowRankUpdate) -> Tensor:
    # Filled, not multiplied: another adapter's values on a row may be infinite.
    return inner if update.masked_ranks is None else inner.masked_fill_(update.masked_ranks, 0.0)


def _drop_inputs(x: Tensor, update: LowRankUpdate) -> Tensor:
    """Return x with inputs dropped and the others scaled up; equal seeds drop equal inputs."""
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
