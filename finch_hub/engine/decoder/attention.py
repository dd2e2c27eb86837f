"""Attention over packed tokens: each sequence attends to itself and to a prefix that it shares with others.

Products of matrices are computed on grids of sequences of similar length. All layers share the indices of the gathers
that move vectors to the grids and back: copies between the products cost more than the products.

This is for CPUs. Other devices get :mod:`finch_hub.engine.decoder.padded`.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from finch_hub.engine.decoder.attention_layout import GridLayout


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, layout: GridLayout, scale: float
    ) -> Tensor:
        width = query.shape[-1]
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        queries = query.view(-1, width).index_select(0, layout.queries)
        keys = key.view(-1, width).index_select(0, layout.keys)
        values = value.reshape(-1, width).index_select(0, layout.keys)
        outputs = torch.empty_like(queries)
        kept = []
        for group, q, k, v, output in zip(
            layout.groups,
            layout.split(queries, layout.query_shapes),
            layout.split(keys, layout.key_shapes),
            layout.split(values, layout.key_shapes),
            layout.split(outputs, layout.query_shapes),
            strict=True,
        ):
            mask = _causal_mask(group.length, len(group.prefix), query.device)
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
        layout: GridLayout = ctx.layout
        to_outputs = gradients[0].reshape(-1, queries.shape[-1]).index_select(0, layout.queries)
        to_outputs.index_fill_(0, layout.empty, 0.0)
        to_queries, to_keys, to_values = torch.empty_like(queries), torch.empty_like(keys), torch.empty_like(values)
        to_keys_by_group = layout.split(to_keys, layout.key_shapes)
        to_values_by_group = layout.split(to_values, layout.key_shapes)
        for weights, q, k, v, to_output, to_q, to_k, to_v in zip(
            kept,
            layout.split(queries, layout.query_shapes),
            layout.split(keys, layout.key_shapes),
            layout.split(values, layout.key_shapes),
            layout.split(to_outputs, layout.query_shapes),
            layout.split(to_queries, layout.query_shapes),
            to_keys_by_group,
            to_values_by_group,
            strict=True,
        ):
            to_scores = torch._softmax_backward_data(to_output @ v.transpose(1, 2), weights, -1, weights.dtype)
            torch.bmm(to_scores, k, out=to_q)
            torch.bmm(to_scores.transpose(1, 2), q, out=to_k)
            torch.bmm(weights.transpose(1, 2), to_output, out=to_v)
        query_shape, key_shape = ctx.shapes
        to_query = to_queries.index_select(0, layout.query_cells).view(query_shape)
        to_key = to_keys.index_select(0, layout.key_cells).view(key_shape)
        to_value = to_values.index_select(0, layout.key_cells).view(key_shape)
        to_key = layout.add_prefix_gradients(to_key, to_keys_by_group)
        to_value = layout.add_prefix_gradients(to_value, to_values_by_group)
        cos, sin = cos * ctx.scale, sin * -ctx.scale
        return _rotate(to_query, cos, sin), _rotate(to_key, cos, sin), to_value, *(None,) * 4


def attention(
    query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, *, layout: GridLayout, scale: float
) -> Tensor:
    """Return causal attention within each sequence and to its prefix, with rotary positions (arXiv 2104.09864).

    Args:
        query: [N, H, D].
        key: [N, K, D], where K divides H (grouped queries, arXiv 2305.13245).
        value: [N, K, D].
        cos: [N, 1, D / 2], of each token's position.
        sin: [N, 1, D / 2], of each token's position.
        layout: places of the tokens in their sequences.
        scale: factor of the scores.

    Returns:
        [N, H, D].
    """
    result: Tensor = _Attention.apply(query, key, value, cos, sin, layout, scale)  # type: ignore[no-untyped-call]
    return result


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x_i, x_{i + D/2}) of x [N, heads, D]; -sin gives the inverse."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.mul(first, cos, out=result[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=result[..., half:]).addcmul_(first, sin)
    return result


@functools.lru_cache(maxsize=8)
def _causal_mask(length: int, prefix: int, device: torch.device) -> Tensor:
    """Return float32 [length, prefix + length]: 0 for visible tokens, -inf for the others."""
    return torch.full((length, prefix + length), -torch.inf, device=device).triu_(prefix + 1)
