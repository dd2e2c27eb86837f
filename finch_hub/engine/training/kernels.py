"""The operations of a decoder layer on packed tokens, each with its own backward pass.

transformers' layers are written to be read; on a CPU they spend nearly half of a LoRA training step outside of matrix
products: casts, copies, masks and sums of gradients. These do the same arithmetic in fewer passes over memory, know
that the base's weights are frozen, and know which tokens belong together, so that nothing is padded.

All tensors are [N, …] with one row for each token. With a float32 base everything is computed in float32; with a
bfloat16 base products are, and sums inside of norms, softmax and products are float32.
"""

from __future__ import annotations

import functools
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


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Spans:
    """Runs of tokens of similar length, each of which attends to a shared prefix and, causally, to itself.

    They are computed as one grid of `count` rows and `length` columns. A cell behind the end of a run is seen by no
    token of it, because attention is causal, so there is nothing to mask.

    Attributes:
        prefix: places of the shared prefix among the N tokens, empty for none.
        rows: int64 [n], places of the runs' tokens among the N tokens.
        cells: int64 [n], their places in the grid.
        count: runs.
        length: tokens of the longest one.

    """

    prefix: slice
    rows: Tensor
    cells: Tensor
    count: int
    length: int

    @property
    def seen(self) -> int:
        """Tokens of the prefix."""
        return int(self.prefix.stop - self.prefix.start)

    def grid(self, x: Tensor) -> Tensor:
        """Return the tokens of x [N, …] as [count, length, …], zero behind the end of a run."""
        cells = x.new_zeros((self.count * self.length, *x.shape[1:])).index_copy_(0, self.cells, x[self.rows])
        return cells.view(self.count, self.length, *x.shape[1:])

    def back(self, grid: Tensor, x: Tensor) -> None:
        """Write the grid's tokens to their places in x [N, …]."""
        x.index_copy_(0, self.rows, grid.flatten(0, 1)[self.cells])


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


class _Attention(torch.autograd.Function):
    """Inside, a grid's queries are [S * K, G * T, D] and its keys and values [S * K, P + T, D].

    S runs of T tokens after a prefix of P, K heads of keys with G of queries each.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cos: Tensor,
        sin: Tensor,
        groups: Sequence[Spans],
        scale: float,
    ) -> Tensor:
        query, key = _rotated(query, cos, sin), _rotated(key, cos, sin)
        output = torch.empty_like(query)
        kept = []
        for spans in groups:
            queries = _queries(spans.grid(query), key.shape[1])
            keys, values = _seen(key, spans), _seen(value, spans)
            scores = queries @ keys.transpose(1, 2)
            mask = _causal_mask(spans.length, spans.seen, scores.device)
            masked = torch.add(mask, scores.view(len(scores), -1, *mask.shape), alpha=scale)
            weights = torch.softmax(masked, dim=-1).to(query.dtype).view(scores.shape)
            spans.back(_tokens(weights @ values, spans, key.shape[1]), output)
            kept += [queries, keys, values, weights]
        ctx.groups, ctx.scale = groups, scale
        ctx.save_for_backward(query, key, output, cos, sin, *kept)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        query, key, output, cos, sin, *saved = ctx.saved_tensors
        heads = key.shape[1]
        kept = iter(saved)
        # Σ_j P_ij dP_ij = dO_i · O_i, which is a sum over the head's width instead of the sequence (arXiv 2205.14135).
        delta = (gradients[0] * output).sum(dim=-1, dtype=torch.float32)[..., None]
        to_query, to_key, to_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(key)
        for spans in ctx.groups:
            queries, keys, values, weights = (next(kept) for _ in range(4))
            above = _queries(spans.grid(gradients[0]), heads)
            to_scores = (above @ values.transpose(1, 2)).sub_(_queries(spans.grid(delta), heads))
            to_scores.mul_(weights)
            spans.back(_tokens(to_scores @ keys, spans, heads), to_query)
            _add(to_key, spans, to_scores.transpose(1, 2) @ queries)
            _add(to_value, spans, weights.transpose(1, 2) @ above)
        cos, sin = cos * ctx.scale, sin * -ctx.scale
        return _rotated(to_query, cos, sin), _rotated(to_key, cos, sin), to_value, *(None,) * 4


def attention(
    query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, *, groups: Sequence[Spans], scale: float
) -> Tensor:
    """Return causal attention within each run and to its prefix, with rotary positions (arXiv 2104.09864).

    Args:
        query: [N, H, D].
        key: [N, K, D], where K divides H (grouped queries, arXiv 2305.13245).
        value: [N, K, D].
        cos: [N, 1, D / 2], of each token's position.
        sin: likewise.
        groups: every token is in exactly one run of one of them.
        scale: of the scores.

    Returns:
        [N, H, D].

    """
    result: Tensor = _Attention.apply(query, key, value, cos, sin, groups, scale)  # type: ignore[no-untyped-call]
    return result


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x_i, x_{i + D/2}) of x [N, heads, D]; the inverse has -sin."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.mul(first, cos, out=result[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=result[..., half:]).addcmul_(first, sin)
    return result


def _queries(grid: Tensor, heads: int) -> Tensor:
    """Bring [S, T, H, D] to [S * K, G * T, D]."""
    runs, length, _, width = grid.shape
    return grid.view(runs, length, heads, -1, width).permute(0, 2, 3, 1, 4).reshape(runs * heads, -1, width)


def _tokens(queries: Tensor, spans: Spans, heads: int) -> Tensor:
    """Bring [S * K, G * T, D] back to [S, T, H, D]."""
    split = queries.view(spans.count, heads, -1, spans.length, queries.shape[-1])
    return split.permute(0, 3, 1, 2, 4).flatten(2, 3)


def _seen(x: Tensor, spans: Spans) -> Tensor:
    """Return what the runs see of x [N, K, D] as [S * K, P + T, D]: the prefix, then their own tokens."""
    own = spans.grid(x)
    if spans.seen:
        own = torch.cat((x[spans.prefix].expand(spans.count, -1, -1, -1), own), dim=1)
    return own.transpose(1, 2).flatten(0, 1)


def _add(total: Tensor, spans: Spans, gradient: Tensor) -> None:
    """Add to total [N, K, D] the gradient of what :func:`_seen` returned."""
    split = gradient.view(spans.count, -1, *gradient.shape[1:]).transpose(1, 2)
    if spans.seen:
        total[spans.prefix] += split[:, : spans.seen].sum(dim=0)
    total.index_add_(0, spans.rows, split[:, spans.seen :].flatten(0, 1)[spans.cells])


@functools.lru_cache(maxsize=8)
def _causal_mask(length: int, seen: int, device: torch.device) -> Tensor:
    """Return float32 [length, seen + length]: 0 where a token sees, -inf where it does not."""
    return torch.full((length, seen + length), -torch.inf, device=device).triu_(seen + 1)
