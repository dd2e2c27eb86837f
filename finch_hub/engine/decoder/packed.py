"""The decoder of Llama and its relatives over packed tokens: without padding, for any number of adapters."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora import Linear as LoRALinear
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from finch_hub.engine.data.batches import Batch, pack
from finch_hub.engine.data.tokenizing import TokenizedExample
from finch_hub.engine.decoder.attention import Layout, Spans, attention
from finch_hub.engine.decoder.autograd_ops import Update, linears, rms_norm, swiglu
from finch_hub.engine.decoder.frozen_linear import can_prepare, product_of
from finch_hub.engine.decoder.frozen_states import FrozenStates
from finch_hub.engine.numerics.concurrency import MOST, side_by_side

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SIMILAR = 0.6
# Ranks of a stack, all of which every row computes: 64 add about a seventh to a product of SmolLM2's shapes.
_STACKED_RANKS = 64
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
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
    concurrent = True

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
        self._prepared = can_prepare(list(_linear_modules(self._body.layers)))

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
        wanted = [part.batch.sources + own.start for part, own in zip(parts, rows, strict=True)]
        first, last = self._first, len(body.layers) - 1
        if first > 0:
            x = torch.cat([self._remembered(part.batch) for part in parts])
        else:
            x = body.embed_tokens(torch.cat([part.batch.input_ids for part in parts]))
        rotation = _rotation(body, x, positions)
        for number in range(first, last + 1):
            place = self._layer(number, parts, rows, layout, wanted=wanted if number == last else None)
            if self._checkpointing and torch.is_grad_enabled():
                x = checkpoint(place, x, *rotation, use_reentrant=False, preserve_rng_state=False)
            else:
                x = place(x, *rotation)
        final = rms_norm(x, body.norm.weight, body.norm.variance_epsilon)
        return list(torch.split(final, [len(own) for own in wanted]))

    def remember(self, several: Sequence[Batch]) -> None:
        """Compute frozen states of the batches' examples that are not here yet.

        To be done before the batches are computed side by side. How many threads compute a state shows in its
        rounding, so it is always as many.
        """
        first, frozen = self._first, self._frozen
        if frozen is None or first == 0:
            return
        missing = frozen.missing([example for batch in several for example in batch.examples])
        ways = min(torch.get_num_threads(), MOST)
        shares = [missing[begin::ways] for begin in range(min(ways, len(missing)))]

        def compute(share: Sequence[tuple[TokenizedExample, ...]]) -> None:
            for chunk in share:
                frozen.keep(chunk, self._below(chunk, first))

        side_by_side([functools.partial(compute, share) for share in shares], ways=ways)

    @property
    def _first(self) -> int:
        """Number of the layers under the first adapted one, if their states are kept."""
        if self._frozen is None:
            return 0
        return min(_first_adapted(self._body.layers), len(self._body.layers) - 1)

    def _remembered(self, batch: Batch) -> Tensor:
        """Return what enters the first adapted layer [N, d]."""
        frozen: Any = self._frozen
        states = [frozen.of(example) for example in batch.examples]
        return torch.cat([states[0][: batch.prefix], *(state[batch.prefix :] for state in states)])

    @torch.no_grad()
    def _below(self, examples: Sequence[TokenizedExample], layers: int) -> list[Tensor]:
        """Return what so many layers make of each example [length, d]."""
        batch = pack(examples, share_prefix=True).to(self._body.embed_tokens.weight.device)
        part, rows = Part(batch=batch), slice(0, len(batch.input_ids))
        x: Tensor = self._body.embed_tokens(batch.input_ids)
        rotation = _rotation(self._body, x, batch.positions)
        layout = self._layout(_groups([part], [rows]), x.device)
        for number in range(layers):
            x = self._layer(number, [part], [rows], layout)(x, *rotation)
        return [torch.cat((x[: batch.prefix], x[begin:end])) for begin, end in batch.spans]

    def _layer(self, number: int, *what: Any, wanted: Sequence[Tensor] | None = None) -> _Layer:
        return _Layer(self._body.layers[number], *what, prepared=self._prepared, wanted=wanted)

    def _layout(self, groups: Sequence[Spans], device: torch.device) -> Layout:
        config = self._body.config
        return Layout(groups, heads=config.num_attention_heads, key_heads=config.num_key_value_heads, device=device)


class _Layer:
    """One decoder layer with the parts' adapters.

    Args:
        layer: transformers' module.
        parts: whose tokens are computed.
        rows: of each part among the tokens.
        layout: of the attention.
        prepared: whether its products are.
        wanted: of each part, the tokens that anybody asks for behind this layer; None for all. The others are keys and
            values to them and nothing else.

    """

    def __init__(
        self,
        layer: Any,
        parts: Sequence[Part],
        rows: Sequence[slice],
        layout: Layout,
        *,
        prepared: bool,
        wanted: Sequence[Tensor] | None = None,
    ) -> None:
        self._layer, self._parts, self._rows, self._layout = layer, parts, rows, layout
        self._prepared, self._wanted = prepared, wanted

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        layer, block, rows = self._layer, self._layer.self_attn, self._rows
        normed = rms_norm(x, layer.input_layernorm.weight, layer.input_layernorm.variance_epsilon)
        joined = self._linears(normed, rows, block, "q_proj", "k_proj", "v_proj")
        heads = joined.view(len(x), -1, block.head_dim)
        counts = [self._layout.heads, self._layout.key_heads, self._layout.key_heads]
        query, key, value = torch.split(heads, counts, dim=1)
        if hasattr(block, "q_norm"):
            query = rms_norm(query, block.q_norm.weight, block.q_norm.variance_epsilon)
            key = rms_norm(key, block.k_norm.weight, block.k_norm.variance_epsilon)
        mixed = attention(query, key, value, cos, sin, layout=self._layout, scale=block.scaling).flatten(1)
        if self._wanted is not None:
            places = torch.cat(list(self._wanted))
            x, mixed = x.index_select(0, places), mixed.index_select(0, places)
            rows = _consecutive([len(own) for own in self._wanted])
        x = x + self._linears(mixed, rows, block, "o_proj")
        normed = rms_norm(x, layer.post_attention_layernorm.weight, layer.post_attention_layernorm.variance_epsilon)
        inner = swiglu(self._linears(normed, rows, layer.mlp, "gate_proj", "up_proj"))
        return x + self._linears(inner, rows, layer.mlp, "down_proj")

    def _linears(self, x: Tensor, rows: Sequence[slice], parent: nn.Module, *names: str) -> Tensor:
        modules = [getattr(parent, name) for name in names]
        product = product_of([_frozen(module) for module in modules], prepared=self._prepared)
        updates: list[Update] = []
        for module, name, columns in zip(modules, names, product.columns(), strict=True):
            if isinstance(module, LoRALinear):
                updates += _stacked(list(self._updates(module, name, rows, columns)), len(x), dtype=x.dtype)
        return linears(x, product, updates)

    def _updates(self, module: Any, name: str, rows: Sequence[slice], columns: slice) -> Iterator[Update]:
        for part, own in zip(self._parts, rows, strict=True):
            active = [part.adapter] if part.adapter is not None else module.active_adapters
            for adapter in active:
                if adapter not in module.lora_A or module.disable_adapters:
                    continue
                dropout = getattr(module.lora_dropout[adapter], "p", 0.0) if part.seed is not None else 0.0
                yield Update(
                    rows=own,
                    columns=columns,
                    A=module.lora_A[adapter].weight,
                    B=module.lora_B[adapter].weight,
                    scale=module.scaling[adapter],
                    dropout=dropout,
                    seed=_mixed(part.seed, self._layer.self_attn.layer_idx, name) if dropout else 0,
                )


def _stacked(updates: list[Update], count: int, *, dtype: torch.dtype) -> list[Update]:
    """Join updates of one module on `count` rows: a few larger products instead of some for every adapter.

    Every row then goes through all factors of a stack, so these may not be many. Those with dropout stay apart, since
    each drops other inputs; and all in float16, where one that grows beyond its numbers would spoil the others.
    """
    if dtype == torch.float16:
        return updates
    apart = [update for update in updates if update.dropout]
    stacks: list[list[Update]] = []
    for update in sorted((one for one in updates if not one.dropout), key=lambda one: one.scale):
        stack = stacks[-1] if stacks else []
        if stack and stack[0].scale == update.scale and sum(len(one.A) for one in [*stack, update]) <= _STACKED_RANKS:
            stack.append(update)
        else:
            stacks.append([update])
    return [stack[0] if len(stack) == 1 else _stack(stack, count) for stack in stacks] + apart


def _stack(updates: Sequence[Update], count: int) -> Update:
    first = updates[0]
    A, B = torch.cat([update.A for update in updates]), torch.cat([update.B for update in updates], dim=1)
    others = _others(tuple((one.rows.start, one.rows.stop, len(one.A)) for one in updates), count, A.device)
    return Update(rows=slice(0, count), columns=first.columns, A=A, B=B, scale=first.scale, others=others)


@functools.lru_cache(maxsize=32)
def _others(shares: tuple[tuple[int, int, int], ...], count: int, device: torch.device) -> Tensor:
    """Return bool [count, sum of ranks]: where a row is not of the share (begin, end, rank) whose factors those are."""
    others = torch.ones(count, sum(rank for _, _, rank in shares), dtype=torch.bool, device=device)
    column = 0
    for begin, end, rank in shares:
        others[begin:end, column : column + rank] = False
        column += rank
    return others


def _frozen(module: Any) -> nn.Linear:
    """Return the linear module itself, without what PEFT put around it."""
    base: nn.Linear = module.get_base_layer() if isinstance(module, LoRALinear) else module
    return base


def _linear_modules(layers: Sequence[Any]) -> Iterator[nn.Linear]:
    for layer in layers:
        for parent, names in ((layer.self_attn, _ATTENTION), (layer.mlp, _MLP)):
            yield from (_frozen(getattr(parent, name)) for name in names)


def _consecutive(sizes: Sequence[int]) -> list[slice]:
    """Return the rows of parts that stand one after another."""
    return [slice(begin, end) for begin, end in itertools.pairwise(itertools.accumulate(sizes, initial=0))]


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
