"""Attention over packed tokens: each run of them attends to itself and to a prefix that it shares with others.

Products of matrices are computed on grids of runs of similar length. Vectors of single heads go there, and come back,
by one gather each whose indices all layers share: copies and small operations between the products cost more than
the products do.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Spans:
    """Runs of tokens of similar length, each of which attends to a shared prefix and, causally, to itself.

    They are computed as one grid of `count` rows and `length` columns. A cell behind the end of a run is seen by no
    token of it, because attention is causal, so there is nothing to mask.

    Attributes:
        prefix: places of the shared prefix among the N tokens, empty for none.
        runs: places of each run's tokens among the N tokens.

    """

    prefix: range
    runs: tuple[range, ...]

    @property
    def count(self) -> int:
        """Runs."""
        return len(self.runs)

    @property
    def length(self) -> int:
        """Tokens of the longest one."""
        return max(len(run) for run in self.runs)

    def tokens(self) -> Tensor:
        """Return the token of each cell, int64 [count, length]; behind the end of a run, its last one."""
        starts = torch.tensor([run.start for run in self.runs])
        lasts = torch.tensor([run.stop - 1 for run in self.runs])
        return torch.minimum(starts[:, None] + torch.arange(self.length), lasts[:, None])

    def filled(self) -> Tensor:
        """Return which cells hold a token of their own, bool [count, length]."""
        return torch.arange(self.length) < torch.tensor([len(run) for run in self.runs])[:, None]


class Layout:
    """Where the vectors of single heads lie in the grids of attention, for all layers of a forward pass.

    Inside of attention a grid's queries are [S * K, G * T, D] and its keys and values [S * K, P + T, D]: S runs of T
    tokens after a prefix of P, K heads of keys with G of queries each. What goes in and out is one gather each.

    Args:
        groups: every token is in exactly one run of one of them.
        heads: H, of queries.
        key_heads: K.
        device: of the tokens.

    Attributes:
        groups: as given.
        heads: as given.
        key_heads: as given.
        queries: int64, of each query in the grids the place of its vector among [N * H].
        keys: int64, of each key the place among [N * K].
        empty: int64, the queries behind the end of a run.
        query_cells: int64 [N * H], where each vector is among the queries.
        key_cells: int64 [N * K], where each is among the keys; a prefix's are those of its own run.
        query_shapes: (S * K, G * T) of each group.
        key_shapes: (S * K, P + T) of each group.

    """

    def __init__(self, groups: Sequence[Spans], *, heads: int, key_heads: int, device: torch.device) -> None:
        self.groups, self.heads, self.key_heads = tuple(groups), heads, key_heads
        each = heads // key_heads
        queries, keys, filled, own = [], [], [], []
        for spans in groups:
            cells = spans.tokens()[:, None, None, :]
            head = torch.arange(heads).view(1, key_heads, each, 1)
            queries.append((cells * heads + head).flatten())
            filled.append(spans.filled()[:, None, None, :].expand(-1, key_heads, each, -1).flatten())
            prefix = torch.tensor(spans.prefix, dtype=torch.int64).expand(spans.count, -1)
            seen = torch.cat((prefix, spans.tokens()), dim=1)[:, None, :]
            keys.append((seen * key_heads + torch.arange(key_heads)[:, None]).flatten())
            mine = torch.cat((torch.zeros_like(prefix, dtype=torch.bool), spans.filled()), dim=1)
            own.append(mine[:, None, :].expand(-1, key_heads, -1).flatten())
        self.queries, self.query_cells = _places(queries, filled, device)
        self.keys, self.key_cells = _places(keys, own, device)
        self.empty = (~torch.cat(filled)).nonzero()[:, 0].to(device)
        self.query_shapes = [(spans.count * key_heads, each * spans.length) for spans in groups]
        self.key_shapes = [(spans.count * key_heads, len(spans.prefix) + spans.length) for spans in groups]

    def split(self, vectors: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Return the groups' parts of vectors [n, D], each in its shape, as views."""
        parts = torch.split(vectors, [count * length for count, length in shapes])
        return [part.view(*shape, -1) for part, shape in zip(parts, shapes, strict=True)]

    def add_prefixes(self, total: Tensor, gradients: Sequence[Tensor]) -> Tensor:
        """Add to total [N, K, D] what the groups' keys or values [S * K, P + T, D] say of the prefixes."""
        for spans, gradient in zip(self.groups, gradients, strict=True):
            if spans.prefix:
                seen = gradient.view(spans.count, self.key_heads, *gradient.shape[1:])[:, :, : len(spans.prefix)]
                total[spans.prefix.start : spans.prefix.stop] += seen.sum(dim=0).transpose(0, 1)
        return total


def _places(vectors: list[Tensor], wanted: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the vectors of all cells, and for each vector the one cell that is wanted."""
    places, cells = torch.cat(vectors), torch.cat(wanted).nonzero()[:, 0]
    back = torch.empty_like(cells)
    back[places[cells]] = cells
    return places.to(device), back.to(device)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, layout: Layout, scale: float
    ) -> Tensor:
        width = query.shape[-1]
        query, key = _rotated(query, cos, sin), _rotated(key, cos, sin)
        queries = query.view(-1, width).index_select(0, layout.queries)
        keys = key.view(-1, width).index_select(0, layout.keys)
        values = value.reshape(-1, width).index_select(0, layout.keys)
        outputs = torch.empty_like(queries)
        kept = []
        for spans, q, k, v, output in zip(
            layout.groups,
            layout.split(queries, layout.query_shapes),
            layout.split(keys, layout.key_shapes),
            layout.split(values, layout.key_shapes),
            layout.split(outputs, layout.query_shapes),
            strict=True,
        ):
            mask = _causal_mask(spans.length, len(spans.prefix), query.device)
            scores = (q @ k.transpose(1, 2)).view(len(q), -1, *mask.shape)
            masked = torch.add(mask, scores, alpha=scale)
            weights = torch.softmax(masked, dim=-1, out=masked).to(query.dtype).view(*q.shape[:2], -1)
            torch.bmm(weights, v, out=output)
            kept.append(weights)
        ctx.layout, ctx.scale, ctx.shapes = layout, scale, (query.shape, key.shape)
        ctx.save_for_backward(queries, keys, values, cos, sin, *kept)
        return outputs.index_select(0, layout.query_cells).view(query.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        queries, keys, values, cos, sin, *kept = ctx.saved_tensors
        layout: Layout = ctx.layout
        above = gradients[0].reshape(-1, queries.shape[-1]).index_select(0, layout.queries)
        above.index_fill_(0, layout.empty, 0.0)
        to_queries, to_keys, to_values = torch.empty_like(queries), torch.empty_like(keys), torch.empty_like(values)
        split_to_keys, split_to_values = (layout.split(one, layout.key_shapes) for one in (to_keys, to_values))
        for weights, q, k, v, a, to_q, to_k, to_v in zip(
            kept,
            layout.split(queries, layout.query_shapes),
            layout.split(keys, layout.key_shapes),
            layout.split(values, layout.key_shapes),
            layout.split(above, layout.query_shapes),
            layout.split(to_queries, layout.query_shapes),
            split_to_keys,
            split_to_values,
            strict=True,
        ):
            to_scores = torch._softmax_backward_data(a @ v.transpose(1, 2), weights, -1, weights.dtype)
            torch.bmm(to_scores, k, out=to_q)
            torch.bmm(to_scores.transpose(1, 2), q, out=to_k)
            torch.bmm(weights.transpose(1, 2), a, out=to_v)
        query_shape, key_shape = ctx.shapes
        to_query = to_queries.index_select(0, layout.query_cells).view(query_shape)
        to_key = to_keys.index_select(0, layout.key_cells).view(key_shape)
        to_value = to_values.index_select(0, layout.key_cells).view(key_shape)
        to_key = layout.add_prefixes(to_key, split_to_keys)
        to_value = layout.add_prefixes(to_value, split_to_values)
        cos, sin = cos * ctx.scale, sin * -ctx.scale
        return _rotated(to_query, cos, sin), _rotated(to_key, cos, sin), to_value, *(None,) * 4


def attention(
    query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, *, layout: Layout, scale: float
) -> Tensor:
    """Return causal attention within each run and to its prefix, with rotary positions (arXiv 2104.09864).

    Args:
        query: [N, H, D].
        key: [N, K, D], where K divides H (grouped queries, arXiv 2305.13245).
        value: [N, K, D].
        cos: [N, 1, D / 2], of each token's position.
        sin: likewise.
        layout: of the tokens in their runs.
        scale: of the scores.

    Returns:
        [N, H, D].

    """
    result: Tensor = _Attention.apply(query, key, value, cos, sin, layout, scale)  # type: ignore[no-untyped-call]
    return result


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x_i, x_{i + D/2}) of x [N, heads, D]; the inverse has -sin."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.mul(first, cos, out=result[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=result[..., half:]).addcmul_(first, sin)
    return result


@functools.lru_cache(maxsize=8)
def _causal_mask(length: int, seen: int, device: torch.device) -> Tensor:
    """Return float32 [length, seen + length]: 0 where a token sees, -inf where it does not."""
    return torch.full((length, seen + length), -torch.inf, device=device).triu_(seen + 1)
