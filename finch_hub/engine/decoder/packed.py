"""Decoder of Llama and related models over packed tokens, without padding."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora import Linear as LoRALinear
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from finch_hub.engine.bases.rope import depends_on_length
from finch_hub.engine.data.batches import Batch, pack
from finch_hub.engine.data.tokenized_examples import TokenizedExample
from finch_hub.engine.decoder.attention_layout import GridLayout, group_sequences
from finch_hub.engine.decoder.autograd_ops import rms_norm
from finch_hub.engine.decoder.frozen_linear import can_prepack
from finch_hub.engine.decoder.frozen_states import FrozenStates
from finch_hub.engine.decoder.packed_layer import AdapterBatch, PackedLayer, consecutive_slices, linear_modules_of
from finch_hub.engine.numerics.concurrency import MAX_TASKS, run_in_parallel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FAMILIES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})


class PackedDecoder:
    """Decoder that computes the same as the own forward of a model that :meth:`supports` accepts.

    `adapter` names the only adapter that :meth:`hidden_states` uses. Without it, all enabled adapters act. `frozen`
    caches the hidden states below the first adapted layer.
    """

    is_padded = False
    can_share_prefix = True
    is_thread_safe = True

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        gradient_checkpointing: bool = False,
        adapter: str | None = None,
        frozen: FrozenStates | None = None,
    ) -> None:
        self._body: Any = model.get_decoder()
        self._gradient_checkpointing = gradient_checkpointing
        self._adapter = adapter
        self._frozen = frozen
        self._is_prepacked = can_prepack(list(linear_modules_of(self._body.layers)))

    @classmethod
    def supports(cls, model: PreTrainedModel) -> bool:
        """Return whether this decoder computes the same as the model with its adapters.

        It does for the plain families in full attention, without hooks, which change what a module computes. Adapters
        must be plain LoRA, because the magnitude of DoRA is not implemented here.
        """
        if not cls.fits_architecture(model):
            return False
        return all(_is_plain(module) for layer in model.get_decoder().layers for module in layer.modules())

    @classmethod
    def fits_architecture(cls, model: PreTrainedModel) -> bool:
        """Return whether this decoder is made for the model's layers and positions."""
        config = model.config
        is_plain = type(model).__name__ in _FAMILIES and config.hidden_act == "silu" and not config.attention_dropout
        is_sliding = any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ())
        is_windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
        # The longest sequence of a packed batch would decide the positions of the others.
        return is_plain and not (is_sliding or is_windowed or depends_on_length(model))

    def hidden_states(self, batch: Batch, *, seed: int | None = None) -> Tensor:
        """Return the final hidden states [L, d] at the batch's sources."""
        return self.hidden_states_of([AdapterBatch(batch=batch, adapter=self._adapter, seed=seed)])[0]

    def hidden_states_of(self, batches: Sequence[AdapterBatch]) -> list[Tensor]:
        """Return the final hidden states [L, d] at the sources of each batch, computed together."""
        body = self._body
        positions = torch.cat([part.batch.positions for part in batches])
        layers = self._layers(batches, positions.device)
        rows = consecutive_slices([len(part.batch.input_ids) for part in batches])
        sources = [part.batch.sources + part_rows.start for part, part_rows in zip(batches, rows, strict=True)]
        layers[-1] = replace(layers[-1], output_rows=sources)
        first = self._first_layer
        if first > 0:
            x = torch.cat([self._cached_states(part.batch) for part in batches])
        else:
            x = body.embed_tokens(torch.cat([part.batch.input_ids for part in batches]))
        rotation = _rotation(body, x, positions)
        for layer in layers[first:]:
            if self._gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, *rotation, use_reentrant=False, preserve_rng_state=False)
            else:
                x = layer(x, *rotation)
        final = rms_norm(x, body.norm.weight, body.norm.variance_epsilon)
        return list(torch.split(final, [len(places) for places in sources]))

    def cache_frozen_states(self, batches: Sequence[Batch]) -> None:
        """Compute the frozen states of the batches' examples that are not in the cache.

        The number of threads that compute a state shows in its rounding. So it is always the same, and states are
        computed before the batches are computed side by side.
        """
        first, frozen = self._first_layer, self._frozen
        if frozen is None or first == 0:
            return
        missing = frozen.missing([example for batch in batches for example in batch.examples])
        ways = min(torch.get_num_threads(), MAX_TASKS)
        shares = [missing[begin::ways] for begin in range(min(ways, len(missing)))]

        def compute(share: Sequence[tuple[TokenizedExample, ...]]) -> None:
            for chunk in share:
                frozen.add(chunk, self._compute_frozen_states(chunk, first))

        run_in_parallel([functools.partial(compute, share) for share in shares], shares=ways)

    @property
    def _first_layer(self) -> int:
        """First layer to compute: 0, or the first adapted layer if the states below it are cached."""
        if self._frozen is None:
            return 0
        layers = self._body.layers
        is_adapted = (any(isinstance(module, LoRALinear) for module in layer.modules()) for layer in layers)
        return next((index for index, adapted in enumerate(is_adapted) if adapted), len(layers) - 1)

    def _cached_states(self, batch: Batch) -> Tensor:
        """Return the input [N, d] of the first adapted layer."""
        frozen: Any = self._frozen
        states = [frozen.get(example) for example in batch.examples]
        return torch.cat([states[0][: batch.prefix], *(state[batch.prefix :] for state in states)])

    @torch.no_grad()
    def _compute_frozen_states(self, examples: Sequence[TokenizedExample], num_layers: int) -> list[Tensor]:
        """Return the hidden states [length, d] of each example after the first layers."""
        batch = pack(examples, share_prefix=True).to(self._body.embed_tokens.weight.device)
        x: Tensor = self._body.embed_tokens(batch.input_ids)
        rotation = _rotation(self._body, x, batch.positions)
        for layer in self._layers([AdapterBatch(batch=batch)], x.device)[:num_layers]:
            x = layer(x, *rotation)
        return [torch.cat((x[: batch.prefix], x[begin:end])) for begin, end in batch.spans]

    def _layers(self, batches: Sequence[AdapterBatch], device: torch.device) -> list[PackedLayer]:
        config = self._body.config
        layout = GridLayout(
            group_sequences([part.batch for part in batches]),
            heads=config.num_attention_heads,
            key_heads=config.num_key_value_heads,
            device=device,
        )
        return [
            PackedLayer(layer=layer, batches=batches, layout=layout, is_prepacked=self._is_prepacked)
            for layer in self._body.layers
        ]


def _rotation(body: Any, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine [N, 1, D / 2] of the rotary positions; both halves of transformers' are equal."""
    cos, sin = body.rotary_emb(x[None], positions[None])
    half = cos.shape[-1] // 2
    return cos[0, :, None, :half], sin[0, :, None, :half]


def _is_plain(module: Any) -> bool:
    """Return whether the module's output depends only on its input and weights."""
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    if isinstance(module, LoRALinear):
        return not (module.lora_variant or module.merged or any(module.lora_bias.values()))
    return not isinstance(module, nn.Linear) or type(module) is nn.Linear
