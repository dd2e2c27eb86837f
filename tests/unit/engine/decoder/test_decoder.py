"""All decoders, compared with one example at a time: equal loss and gradients, no leak between examples."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.training import BIRDS, adapted, assert_close, loss_and_gradients, reference
from transformers import PreTrainedModel

from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.batches import pack
from finch_hub.engine.data.tokenized_examples import TokenizedExample
from finch_hub.engine.data.tokenizing import tokenize_all
from finch_hub.engine.decoder.decoder import Decoder, choose_decoder
from finch_hub.engine.decoder.packed import PackedDecoder
from finch_hub.engine.decoder.padded import PaddedDecoder
from finch_hub.specs.lora import LoRAConfig

TOLERANCE = 2e-5  # of float32, over the few layers of the tiny models
DECODERS: dict[str, tuple[Callable[[PreTrainedModel], Decoder], bool]] = {
    "padded": (lambda model: PaddedDecoder(model), False),
    "padded, checkpointed": (lambda model: PaddedDecoder(model, gradient_checkpointing=True), False),
    "packed": (lambda model: PackedDecoder(model), False),
    "packed, shared prefix": (lambda model: PackedDecoder(model), True),
    "packed, checkpointed": (lambda model: PackedDecoder(model, gradient_checkpointing=True), True),
}


@pytest.mark.parametrize("way", DECODERS)
def test_loss_and_gradients_equal_one_example_at_a_time(
    way: str, tiny_bases: Base, adapter: AttachableAdapter, birds: tuple[TokenizedExample, ...]
) -> None:
    make, share_prefix = DECODERS[way]
    expected_loss, expected = reference(tiny_bases, adapter, birds)
    loss, found = loss_and_gradients(tiny_bases, adapter, make(tiny_bases.model), birds, share_prefix=share_prefix)
    assert loss == pytest.approx(expected_loss, rel=TOLERANCE)
    assert_close(found, expected, tolerance=TOLERANCE)


@pytest.mark.parametrize("way", DECODERS)
def test_an_example_does_not_attend_to_its_neighbors(
    way: str, tiny_bases: Base, birds: tuple[TokenizedExample, ...]
) -> None:
    make, share_prefix = DECODERS[way]
    decoder = make(tiny_bases.model)
    with torch.no_grad():
        alone = decoder.hidden_states(pack(birds[:1], share_prefix=False))
        for neighbors in (birds, (birds[0], *birds[2:]), (birds[0], birds[0])):
            batch = pack(neighbors, share_prefix=share_prefix)
            assert torch.allclose(decoder.hidden_states(batch)[batch.owners == 0], alone, atol=1e-4)


def test_choose_decoder_packs_on_a_cpu_unless_packing_is_off(tiny_bases: Base) -> None:
    assert isinstance(choose_decoder(tiny_bases), PackedDecoder)
    assert isinstance(choose_decoder(tiny_bases, packing=False), PaddedDecoder)


def test_choose_decoder_pads_for_hooks_dora_and_sliding_attention(tiny_base: Base) -> None:
    hook = tiny_base.model.get_submodule("model.layers.1.mlp.up_proj").register_forward_hook(lambda *_: None)
    assert isinstance(choose_decoder(tiny_base), PaddedDecoder)
    hook.remove()
    dora = AttachableAdapter(LoRAConfig(use_dora=True), tiny_base)
    assert isinstance(choose_decoder(tiny_base), PaddedDecoder)
    dora.detach()
    assert isinstance(choose_decoder(tiny_base), PackedDecoder)
    tiny_base.model.config.layer_types = ["sliding_attention", "full_attention"]
    assert isinstance(choose_decoder(tiny_base), PaddedDecoder)


@pytest.mark.parametrize("way", ["padded", "packed"])
def test_dropout_depends_on_the_seed_and_is_off_without_one(way: str, tiny_base: Base) -> None:
    examples = tokenize_all(BIRDS, tiny_base.tokenizer, max_length=512)
    adapter = adapted(tiny_base, dropout=0.3)
    decoder = DECODERS[way][0](tiny_base.model)
    losses = [loss_and_gradients(tiny_base, adapter, decoder, examples, seed=seed)[0] for seed in (1, 1, 2, None)]
    assert losses[0] == losses[1] != losses[2]
    assert losses[3] == pytest.approx(reference(tiny_base, adapter, examples)[0], rel=TOLERANCE)
