"""Cache of hidden states below the first adapted layer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from support.training import lessons, started

from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.batches import pack
from finch_hub.engine.data.tokenized_examples import TokenizedExample, TokenizedExamples
from finch_hub.engine.data.tokenizing import tokenize_all
from finch_hub.engine.decoder import frozen_states
from finch_hub.engine.decoder.frozen_states import FrozenStates
from finch_hub.engine.decoder.packed import PackedDecoder
from finch_hub.engine.training import loop
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

LORA = LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear")
QUICK = TrainingConfig(epochs=2, batch_size=4, learning_rate=5e-3, threads=1, validation=0)


def test_layers_below_the_adapter_are_computed_once(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LORA.evolve(layers_to_transform=(1,))
    training = QUICK.evolve(epochs=3)
    with_cache = loop.train(tiny_base, config, training, lessons(12))
    with_cache.adapter.detach()
    counted: list[TokenizedExample] = []
    below = PackedDecoder._compute_frozen_states

    def counting(self: PackedDecoder, examples: Sequence[TokenizedExample], layers: int) -> list[torch.Tensor]:
        counted.extend(examples)
        assert layers == 1
        return below(self, examples, layers)

    monkeypatch.setattr(PackedDecoder, "_compute_frozen_states", counting)
    again = loop.train(tiny_base, config, training, lessons(12))
    again.adapter.detach()
    assert len(counted) == len(set(counted)) == 12
    without_cache = train_without_cache(tiny_base, config, training)
    for name, tensor in with_cache.adapter.weights().tensors.items():
        assert torch.equal(again.adapter.weights().tensors[name], tensor)
        assert torch.allclose(without_cache[name], tensor, atol=1e-4)


def train_without_cache(base: Base, config: LoRAConfig, training: TrainingConfig) -> dict[str, torch.Tensor]:
    """Train with a decoder that caches no states."""
    adapter = AttachableAdapter(config, base, seed=training.seed)
    running, decoder = started(base, training, adapter), PackedDecoder(base.model)
    while loop.begin_step(running):
        loop.take_step(decoder, [running])
    running.close()
    weights = dict(adapter.weights().tensors)
    adapter.detach()
    return weights


@pytest.mark.parametrize("threads", [1, 2])
def test_cached_states_depend_only_on_the_data(threads: int, tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(threads)
    AttachableAdapter(LORA.evolve(layers_to_transform=(1,)), tiny_base)
    examples = tokenize_all(lessons(9), tiny_base.tokenizer, max_length=512)
    monkeypatch.setattr(frozen_states, "_CHUNK_TOKENS", 3 * len(examples[0]))
    batch = pack(examples[:6], share_prefix=True)
    expected = PackedDecoder(tiny_base.model).hidden_states(batch)
    decoder = PackedDecoder(tiny_base.model, frozen=FrozenStates(examples))
    decoder.cache_frozen_states([batch])
    found = decoder.hidden_states(batch)
    assert torch.allclose(found, expected, atol=1e-4)
    second = PackedDecoder(tiny_base.model, frozen=FrozenStates(examples))
    for batch_examples in (examples[7:8], examples[1:3], examples[4:5]):  # in a different order
        second.cache_frozen_states([pack(batch_examples, share_prefix=True)])
    second.cache_frozen_states([batch])
    assert torch.equal(second.hidden_states(batch), found)


def test_states_above_the_memory_limit_are_not_cached(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = tokenize_all(lessons(2), tiny_base.tokenizer, max_length=512)
    width = tiny_base.model.config.hidden_size
    monkeypatch.setattr(frozen_states, "_MAX_BYTES", sum(map(len, examples)) * width * 4)
    assert FrozenStates.fits_limit([TokenizedExamples(examples)], width=width, itemsize=4)
    assert not FrozenStates.fits_limit([TokenizedExamples((*examples, examples[0]))], width=width, itemsize=4)
