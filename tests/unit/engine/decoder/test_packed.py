"""Packed decoder: dropout, several adapters, and bfloat16."""

from __future__ import annotations

import pytest
import torch
from support.training import BIRDS, adapted, assert_close, loss_and_gradients, reference

from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.batches import pack
from finch_hub.engine.data.tokenized_examples import TokenizedExample
from finch_hub.engine.data.tokenizing import tokenize_all
from finch_hub.engine.decoder.decoder import Decoder
from finch_hub.engine.decoder.packed import PackedDecoder
from finch_hub.engine.decoder.packed_layer import AdapterBatch
from finch_hub.engine.decoder.padded import PaddedDecoder

TOLERANCE = 2e-5  # of float32, over the few layers of the tiny models


def test_gradients_under_dropout_use_the_masks_of_the_forward_pass(tiny_base: Base) -> None:
    """Compare with recomputed activations, and with a finite difference."""
    examples = tokenize_all(BIRDS, tiny_base.tokenizer, max_length=512)
    adapter = adapted(tiny_base, dropout=0.3)
    decoder = PackedDecoder(tiny_base.model)
    _, found = loss_and_gradients(tiny_base, adapter, decoder, examples, seed=5)
    again = PackedDecoder(tiny_base.model, gradient_checkpointing=True)
    assert_close(loss_and_gradients(tiny_base, adapter, again, examples, seed=5)[1], found, tolerance=TOLERANCE)
    name = next(name for name in found if "layers.0.mlp.up_proj.lora_A" in name)
    direction = found[name] / found[name].norm()
    slope = []
    for sign in (1, -1):
        with torch.no_grad():
            adapter.parameters()[name].add_(direction, alpha=sign * 1e-2)
        slope.append(loss_and_gradients(tiny_base, adapter, decoder, examples, seed=5)[0])
        with torch.no_grad():
            adapter.parameters()[name].add_(direction, alpha=-sign * 1e-2)
    assert (slope[0] - slope[1]) / 2e-2 == pytest.approx(float(found[name].norm()), rel=2e-2)


def test_batches_go_through_their_own_adapters_at_once(
    tiny_bases: Base, adapter: AttachableAdapter, birds: tuple[TokenizedExample, ...]
) -> None:
    other = adapted(tiny_bases, name="other", seed=1)
    decoder = PackedDecoder(tiny_bases.model)
    parts = [
        AdapterBatch(batch=pack(birds[:2], share_prefix=True), adapter="default"),
        AdapterBatch(batch=pack(birds[2:], share_prefix=False), adapter="other"),
        AdapterBatch(batch=pack(birds[:1], share_prefix=False), adapter="default"),
    ]
    together = decoder.hidden_states_of(parts)
    for part, hidden in zip(parts, together, strict=True):
        assert torch.allclose(hidden, decoder.hidden_states_of([part])[0], atol=1e-4)
    other.disable()
    assert torch.allclose(together[0], decoder.hidden_states(parts[0].batch), atol=1e-4)


def test_several_enabled_adapters_act_on_the_same_tokens(
    tiny_bases: Base, adapter: AttachableAdapter, birds: tuple[TokenizedExample, ...]
) -> None:
    alone = PaddedDecoder(tiny_bases.model).hidden_states(pack(birds, share_prefix=False))
    other = adapted(tiny_bases, name="other", seed=1)
    adapter.enable()
    batch = pack(birds, share_prefix=False)
    both = PaddedDecoder(tiny_bases.model).hidden_states(batch)
    assert not torch.allclose(both, alone, atol=1e-2)
    found = PackedDecoder(tiny_bases.model).hidden_states_of([AdapterBatch(batch=batch)])[0]
    assert torch.allclose(found, both, atol=1e-4)
    other.detach()


def test_packed_decoder_in_bfloat16_is_as_accurate_as_the_models_own_forward(
    tiny_bases: Base, adapter: AttachableAdapter, birds: tuple[TokenizedExample, ...]
) -> None:
    _, expected = reference(tiny_bases, adapter, birds)
    for module in tiny_bases.model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                setattr(module, name, torch.nn.Parameter(parameter.bfloat16(), requires_grad=False))

    def error(decoder: Decoder) -> float:
        _, found = loss_and_gradients(tiny_bases, adapter, decoder, birds)
        whole = torch.cat([expected[name].flatten() for name in expected])
        return float((torch.cat([found[name].flatten() for name in expected]) - whole).norm() / whole.norm())

    own = error(PaddedDecoder(tiny_bases.model))
    assert error(PackedDecoder(tiny_bases.model)) < 1.25 * own < 0.1
