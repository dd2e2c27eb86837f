"""The decoder of Llama and its relatives over packed tokens: without padding, for any number of adapters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora import Linear as LoRALinear
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from finch_hub.engine.data.batches import Batch, pack
from finch_hub.engine.data.tokenizing import TokenizedExample
from finch_hub.engine.training.attention import Layout, Spans, attention
from finch_hub.engine.training.kernels import AdaptedLinear, Update, linears, rms_norm, swiglu

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SIMILAR = 0.6
_FAMILIES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A batch and the adapter that its tokens go through.

    Attributes:
        batch: on the model's device.
        adapter: name of the only adapter that acts; None lets those act that are enabled.
        seed: of the dropout masks; None drops nothing.

    """

    batch: Batch
    adapter: str | None = None
    seed: int | None = None


class PackedDecoder:
    """Computes what the model's own forward does, from its weights and the adapters' on it.

    Args:
        model: one that :meth:`supports` accepts.
        gradient_checkpointing: keep only each layer's input, and compute the layer again in the backward pass.
        adapter: name of the only adapter that :meth:`hidden` goes through; None means those that are enabled.
        frozen: remembers what the layers under the first adapted one make of an example; None computes it each time.

    """

    pads = False
    shares_prefix = True

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        gradient_checkpointing: bool = False,
        adapter: str | None = None,
        frozen: FrozenStates | None = None,
    ) -> None:
        self._body: Any = model.get_decoder()
        self._checkpointing = gradient_checkpointing
        self._adapter = adapter
        self._frozen = frozen

    @classmethod
    def supports(cls, model: PreTrainedModel) -> bool:
        """Tell whether this decoder computes what the model and all that was put on it do.

        It does for the plain families in full attention, without hooks (which change what a module does), and with
        adapters that are plain LoRA: DoRA's magnitude is not known here.
        """
        config = model.config
        plain = type(model).__name__ in _FAMILIES and config.hidden_act == "silu" and not config.attention_dropout
        sliding = any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ())
        windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
        if not plain or sliding or windowed:
            return False
        return all(_is_plain(module) for layer in model.get_decoder().layers for module in layer.modules())

    def hidden(self, batch: Batch, *, seed: int | None = None) -> Tensor:
        """Return the final hidden states [L, d] at the batch's sources."""
        return self.hidden_of([Part(batch=batch, adapter=self._adapter, seed=seed)])[0]

    def hidden_of(self, parts: Sequence[Part]) -> list[Tensor]:
        """Return the final hidden states [L, d] at the sources of each part; all parts are computed at once."""
        body = self._body
        positions = torch.cat([part.batch.positions for part in parts])
        rows, begin = [], 0
        for part in parts:
            rows.append(slice(begin, begin + len(part.batch.input_ids)))
            begin = rows[-1].stop
        layout = self._layout(_groups(parts, rows), positions.device)
        begin_at = 0 if self._frozen is None else _first_adapted(body.layers)
        if self._frozen is not None and begin_at > 0:
            x = torch.cat([self._remembered(part.batch, begin_at) for part in parts])
        else:
            x = body.embed_tokens(torch.cat([part.batch.input_ids for part in parts]))
        rotation = _rotation(body, x, positions)
        for layer in body.layers[begin_at:]:
            place = _Layer(layer, parts, rows, layout)
            if self._checkpointing and torch.is_grad_enabled():
                x = checkpoint(place, x, *rotation, use_reentrant=False, preserve_rng_state=False)
            else:
                x = place(x, *rotation)
        wanted = torch.cat([part.batch.sources + own.start for part, own in zip(parts, rows, strict=True)])
        final = rms_norm(x[wanted], body.norm.weight, body.norm.variance_epsilon)
        return list(torch.split(final, [len(part.batch.sources) for part in parts]))

    @torch.no_grad()
    def _remembered(self, batch: Batch, layers: int) -> Tensor:
        """Return what enters the first adapted layer [N, d], each example's computed once and alone.

        Alone, because rounding depends on what is computed at once: so it is the same in every batch and after a
        resume, whatever is remembered.
        """
        frozen: Any = self._frozen
        states = []
        for example in batch.examples:
            state = frozen.get(example)
            if state is None:
                state = self._below(pack([example], share_prefix=False).to(batch.input_ids.device), layers)
                frozen.put(example, state)
            states.append(state)
        return torch.cat([states[0][: batch.prefix], *(state[batch.prefix :] for state in states)])

    def _below(self, batch: Batch, layers: int) -> Tensor:
        part, rows = Part(batch=batch), slice(0, len(batch.input_ids))
        x: Tensor = self._body.embed_tokens(batch.input_ids)
        rotation = _rotation(self._body, x, batch.positions)
        layout = self._layout(_groups([part], [rows]), batch.input_ids.device)
        for layer in self._body.layers[:layers]:
            x = _Layer(layer, [part], [rows], layout)(x, *rotation)
        return x

    def _layout(self, groups: Sequence[Spans], device: torch.device) -> Layout:
        config = self._body.config
        return Layout(groups, heads=config.num_attention_heads, key_heads=config.num_key_value_heads, device=device)


class FrozenStates:
    """Hidden states of examples under the first adapted layer, kept over the epochs within a limit of memory.

    They don't change while the layers above are trained, so from the second epoch on nothing below is computed.

    Args:
        limit: bytes; what does not fit is computed each time.

    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._states: dict[TokenizedExample, Tensor] = {}

    def get(self, example: TokenizedExample) -> Tensor | None:
        """Return the example's states [length, d], None if they are not here."""
        return self._states.get(example)

    def put(self, example: TokenizedExample, states: Tensor) -> None:
        """Keep the example's states if there is room."""
        if states.nbytes <= self._left:
            self._left -= states.nbytes
            self._states[example] = states


class _Layer:
    """One decoder layer with the parts' adapters."""

    def __init__(self, layer: Any, parts: Sequence[Part], rows: Sequence[slice], layout: Layout) -> None:
        self._layer, self._parts, self._rows, self._layout = layer, parts, rows, layout

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        layer, block = self._layer, self._layer.self_attn
        normed = rms_norm(x, layer.input_layernorm.weight, layer.input_layernorm.variance_epsilon)
        query, key, value = linears(normed, self._adapted(block, "q_proj", "k_proj", "v_proj"))
        query, key, value = (one.view(len(x), -1, block.head_dim) for one in (query, key, value))
        if hasattr(block, "q_norm"):
            query = rms_norm(query, block.q_norm.weight, block.q_norm.variance_epsilon)
            key = rms_norm(key, block.k_norm.weight, block.k_norm.variance_epsilon)
        mixed = attention(query, key, value, cos, sin, layout=self._layout, scale=block.scaling)
        x = x + linears(mixed.flatten(1), self._adapted(block, "o_proj"))[0]
        normed = rms_norm(x, layer.post_attention_layernorm.weight, layer.post_attention_layernorm.variance_epsilon)
        gate, up = linears(normed, self._adapted(layer.mlp, "gate_proj", "up_proj"))
        return x + linears(swiglu(gate, up), self._adapted(layer.mlp, "down_proj"))[0]

    def _adapted(self, parent: nn.Module, *names: str) -> list[AdaptedLinear]:
        return [self._one(getattr(parent, name), name) for name in names]

    def _one(self, module: Any, name: str) -> AdaptedLinear:
        if not isinstance(module, LoRALinear):
            return AdaptedLinear(weight=module.weight, bias=module.bias)
        updates = []
        for part, rows in zip(self._parts, self._rows, strict=True):
            active = [part.adapter] if part.adapter is not None else module.active_adapters
            for adapter in active:
                if adapter not in module.lora_A or module.disable_adapters:
                    continue
                dropout = getattr(module.lora_dropout[adapter], "p", 0.0) if part.seed is not None else 0.0
                updates.append(
                    Update(
                        rows=rows,
                        A=module.lora_A[adapter].weight,
                        B=module.lora_B[adapter].weight,
                        scale=module.scaling[adapter],
                        dropout=dropout,
                        seed=_mixed(part.seed, self._layer.self_attn.layer_idx, name) if dropout else 0,
                    )
                )
        base: Any = module.get_base_layer()
        return AdaptedLinear(weight=base.weight, bias=base.bias, updates=tuple(updates))


def _rotation(body: Any, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine [N, 1, D / 2] of the rotary positions; both halves of transformers' are the same."""
    cos, sin = body.rotary_emb(x[None], positions[None])
    half = cos.shape[-1] // 2
    return cos[0, :, None, :half], sin[0, :, None, :half]


def _first_adapted(layers: Sequence[nn.Module]) -> int:
    """Return the index of the first layer with an adapter on it, the number of layers if there is none."""
    adapted = (any(isinstance(module, LoRALinear) for module in layer.modules()) for layer in layers)
    return next((index for index, has in enumerate(adapted) if has), len(layers))


def _groups(parts: Sequence[Part], rows: Sequence[slice]) -> list[Spans]:
    """Divide the runs of all parts into groups of one prefix and similar length, so that grids have few empty cells."""
    found: list[Spans] = []
    loose: list[range] = []  # runs without a prefix may be of any part
    for part, own in zip(parts, rows, strict=True):
        offset, batch = own.start, part.batch
        runs = [range(offset + begin, offset + end) for begin, end in batch.spans]
        if batch.prefix:
            prefix = range(offset, offset + batch.prefix)
            found += [Spans(prefix=prefix, runs=some) for some in _similar(runs)]
            runs = [prefix]
        loose += runs
    return found + [Spans(prefix=range(0), runs=some) for some in _similar(loose)]


def _similar(runs: Sequence[range]) -> list[tuple[range, ...]]:
    """Divide runs by length; the shortest of a division has at least so much of the longest's."""
    found: list[list[range]] = []
    for run in sorted(runs, key=len, reverse=True):
        if not found or len(run) < _SIMILAR * len(found[-1][0]):
            found.append([])
        found[-1].append(run)
    return [tuple(some) for some in found]


def _mixed(seed: int | None, layer: int, name: str) -> int:
    """Return a seed of 63 bits for the dropout of one module, the same wherever its tokens lie."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{layer}:{name}".encode()).digest()[:8], "little") >> 1


def _is_plain(module: Any) -> bool:
    """Tell whether the module is computed by nothing but its weights."""
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    if isinstance(module, LoRALinear):
        return not (module.lora_variant or module.merged or any(module.lora_bias.values()))
    return not isinstance(module, nn.Linear) or type(module) is nn.Linear
