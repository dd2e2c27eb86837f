"""Decoder layer of Llama and related models on packed tokens, with any number of adapters."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Linear as LoRALinear
from torch import Tensor, nn

from finch_hub.engine.data.batches import Batch
from finch_hub.engine.decoder.attention import attention
from finch_hub.engine.decoder.attention_layout import GridLayout
from finch_hub.engine.decoder.autograd_ops import adapted_linear, rms_norm, swiglu
from finch_hub.engine.decoder.frozen_linear import get_frozen_linear
from finch_hub.engine.decoder.low_rank_updates import LowRankUpdate, stack_updates

_ATTENTION_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP_MODULES = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True, eq=False)
class AdapterBatch:
    """Batch of examples on the model's device, the adapter that it goes through, and its dropout seed.

    Without an adapter's name, all enabled adapters act. Without a seed, dropout is off.
    """

    batch: Batch
    adapter: str | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedLayer:
    """One decoder layer (transformers' module) with the batches' adapters.

    `output_rows` are the tokens of each batch that the next operation reads. The others are only keys and values.
    """

    layer: Any
    batches: Sequence[AdapterBatch]
    layout: GridLayout
    is_prepacked: bool
    output_rows: Sequence[Tensor] | None = None

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return the layer's output of x [N, d], at rotary positions (cos, sin)."""
        layer, block = self.layer, self.layer.self_attn
        rows = consecutive_slices([len(part.batch.input_ids) for part in self.batches])
        normed = rms_norm(x, layer.input_layernorm.weight, layer.input_layernorm.variance_epsilon)
        joined = self._linear(normed, rows, block, "q_proj", "k_proj", "v_proj")
        heads = joined.view(len(x), -1, block.head_dim)
        counts = [self.layout.heads, self.layout.key_heads, self.layout.key_heads]
        query, key, value = torch.split(heads, counts, dim=1)
        if hasattr(block, "q_norm"):
            query = rms_norm(query, block.q_norm.weight, block.q_norm.variance_epsilon)
            key = rms_norm(key, block.k_norm.weight, block.k_norm.variance_epsilon)
        mixed = attention(query, key, value, cos, sin, layout=self.layout, scale=block.scaling).flatten(1)
        if self.output_rows is not None:
            places = torch.cat(list(self.output_rows))
            x, mixed = x.index_select(0, places), mixed.index_select(0, places)
            rows = consecutive_slices([len(output) for output in self.output_rows])
        x = x + self._linear(mixed, rows, block, "o_proj")
        normed = rms_norm(x, layer.post_attention_layernorm.weight, layer.post_attention_layernorm.variance_epsilon)
        inner = swiglu(self._linear(normed, rows, layer.mlp, "gate_proj", "up_proj"))
        return x + self._linear(inner, rows, layer.mlp, "down_proj")

    def _linear(self, x: Tensor, rows: Sequence[slice], parent: nn.Module, *names: str) -> Tensor:
        modules = [getattr(parent, name) for name in names]
        frozen = get_frozen_linear([_base_linear(module) for module in modules], is_prepacked=self.is_prepacked)
        updates: list[LowRankUpdate] = []
        for module, name, columns in zip(modules, names, frozen.columns(), strict=True):
            if isinstance(module, LoRALinear):
                updates += stack_updates(list(self._updates(module, name, rows, columns)), len(x), dtype=x.dtype)
        return adapted_linear(x, frozen, updates)

    def _updates(self, module: Any, name: str, rows: Sequence[slice], columns: slice) -> Iterator[LowRankUpdate]:
        for part, part_rows in zip(self.batches, rows, strict=True):
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
                    seed=derive_seed(part.seed, self.layer.self_attn.layer_idx, name) if dropout else 0,
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


def derive_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends only on the parts."""
    return int.from_bytes(hashlib.sha256(":".join(map(str, parts)).encode()).digest()[:8], "little") >> 1
