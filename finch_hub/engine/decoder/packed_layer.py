"""Decoder layer of Llama and related models on packed tokens, with any number of adapters."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft.tuners.lora import Linear as LoRALinear
from torch import Tensor, nn

from finch_hub.engine.decoder.adapter_batch import AdapterBatch
from finch_hub.engine.decoder.attention import attention
from finch_hub.engine.decoder.attention_layout import AttentionLayout
from finch_hub.engine.decoder.autograd_ops import adapted_linear, rms_norm, swiglu
from finch_hub.engine.decoder.frozen_linear import get_frozen_linear
from finch_hub.engine.decoder.low_rank_updates import LowRankUpdate, stack_updates

_ATTENTION_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP_MODULES = ("gate_proj", "up_proj", "down_proj")


class PackedLayer:
    """One decoder layer with the batches' adapters.

    Args:
        layer: transformers' module.
        batches: batches whose tokens are computed.
        layout: layout of the attention.
        is_prepacked: whether the weights are prepacked.
        output_rows: tokens of each batch that the next operation reads; None for all. The others are only keys and
            values.

    """

    def __init__(
        self,
        layer: Any,
        batches: Sequence[AdapterBatch],
        layout: AttentionLayout,
        *,
        is_prepacked: bool,
        output_rows: Sequence[Tensor] | None = None,
    ) -> None:
        self._layer, self._batches, self._layout = layer, batches, layout
        self._is_prepacked, self._output_rows = is_prepacked, output_rows

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return the layer's output of x [N, d], at rotary positions (cos, sin)."""
        layer, block = self._layer, self._layer.self_attn
        rows = consecutive_slices([len(part.batch.input_ids) for part in self._batches])
        normed = rms_norm(x, layer.input_layernorm.weight, layer.input_layernorm.variance_epsilon)
        joined = self._linear(normed, rows, block, "q_proj", "k_proj", "v_proj")
        heads = joined.view(len(x), -1, block.head_dim)
        counts = [self._layout.heads, self._layout.key_heads, self._layout.key_heads]
        query, key, value = torch.split(heads, counts, dim=1)
        if hasattr(block, "q_norm"):
            query = rms_norm(query, block.q_norm.weight, block.q_norm.variance_epsilon)
            key = rms_norm(key, block.k_norm.weight, block.k_norm.variance_epsilon)
        mixed = attention(query, key, value, cos, sin, layout=self._layout, scale=block.scaling).flatten(1)
        if self._output_rows is not None:
            places = torch.cat(list(self._output_rows))
            x, mixed = x.index_select(0, places), mixed.index_select(0, places)
            rows = consecutive_slices([len(output) for output in self._output_rows])
        x = x + self._linear(mixed, rows, block, "o_proj")
        normed = rms_norm(x, layer.post_attention_layernorm.weight, layer.post_attention_layernorm.variance_epsilon)
        inner = swiglu(self._linear(normed, rows, layer.mlp, "gate_proj", "up_proj"))
        return x + self._linear(inner, rows, layer.mlp, "down_proj")

    def _linear(self, x: Tensor, rows: Sequence[slice], parent: nn.Module, *names: str) -> Tensor:
        modules = [getattr(parent, name) for name in names]
        frozen = get_frozen_linear([_base_linear(module) for module in modules], is_prepacked=self._is_prepacked)
        updates: list[LowRankUpdate] = []
        for module, name, columns in zip(modules, names, frozen.columns(), strict=True):
            if isinstance(module, LoRALinear):
                updates += stack_updates(list(self._updates(module, name, rows, columns)), len(x), dtype=x.dtype)
        return adapted_linear(x, frozen, updates)

    def _updates(self, module: Any, name: str, rows: Sequence[slice], columns: slice) -> Iterator[LowRankUpdate]:
        for part, part_rows in zip(self._batches, rows, strict=True):
            active = [part.adapter] if part.adapter is not None else module.active_adapters
            for adapter in active:
                if adapter not in module.lora_A or module.disable_adapters:
                    continue
                dropout = getattr(module.lora_dropout[adapter], "p", 0.0) if part.seed is not None else 0.0
                yield LowRankUpdate(
                    rows=part_rows,
                    columns=columns,
                    A=module.lora_A[adapter].weight,
                    B=module.lora_B[adapter].weight,
                    scale=module.scaling[adapter],
                    dropout=dropout,
                    seed=_derive_seed(part.seed, self._layer.self_attn.layer_idx, name) if dropout else 0,
                )


def linear_modules_of(layers: Sequence[Any]) -> Iterator[nn.Linear]:
    """Yield the linear modules of transformers' layers, without PEFT's wrappers."""
    for layer in layers:
        for parent, names in ((layer.self_attn, _ATTENTION_MODULES), (layer.mlp, _MLP_MODULES)):
            yield from (_base_linear(getattr(parent, name)) for name in names)


def consecutive_slices(sizes: Sequence[int]) -> list[slice]:
    """Return the rows of parts that stand one after another."""
    return [slice(begin, end) for begin, end in itertools.pairwise(itertools.accumulate(sizes, initial=0))]


def _base_linear(module: Any) -> nn.Linear:
    base: nn.Linear = module.get_base_layer() if isinstance(module, LoRALinear) else module
    return base


def _derive_seed(seed: int | None, layer: int, name: str) -> int:
    """Return a 63-bit seed for the dropout of one module, independent of the tokens' places."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{layer}:{name}".encode()).digest()[:8], "little") >> 1
