"""Every decoder against the plain way, over the architectures: same loss, same gradients, no leak between examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from support.training import adapted, assert_close, gradients, reference
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter, attach
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.batches import pack
from finch_hub.engine.data.tokenizing import TokenizedExample
from finch_hub.engine.decoder import packed
from finch_hub.engine.decoder.autograd_ops import Update
from finch_hub.engine.decoder.decoder import Decoder, Head, PaddedDecoder, decoder_of
from finch_hub.engine.decoder.loss import head_losses
from finch_hub.engine.decoder.packed import PackedDecoder, Part
from finch_hub.specs.lora import LoRAConfig

TOLERANCE = 2e-5  # of float32, over the few layers of the tiny models
WAYS = {
    "padded": (lambda model: PaddedDecoder(model), False),
    "padded, checkpointed": (lambda model: PaddedDecoder(model, gradient_checkpointing=True), False),
    "packed": (lambda model: PackedDecoder(model), False),
    "packed, shared prefix": (lambda model: PackedDecoder(model), True),
    "packed, checkpointed": (lambda model: PackedDecoder(model, gradient_checkpointing=True), True),
}


def computed(
    base: Base,
    adapter: AttachableAdapter,
    decoder: Decoder,
    examples: Sequence[TokenizedExample],
    *,
    share_prefix: bool = False,
    seed: int | None = 0,
) -> tuple[float, Mapping[str, Tensor]]:
    head = Head(base.model)
    batch = pack(examples, share_prefix=share_prefix)
    scale = 1.0 / sum(int(example.labels.sum()) for example in examples)
    loss = head_losses(
        decoder.hidden(batch, seed=seed), head.product, batch.targets, torch.full(batch.targets.shape, scale)
    ).sum()
    loss.backward()
    return float(loss.detach()), gradients(adapter)


@pytest.mark.parametrize("way", WAYS)
def test_loss_and_gradients_equal_one_example_at_a_time(
    way: str, tiny_bases: Base, adapter: AttachableAdapter, birds: tuple[TokenizedExample, ...]
) -> None:
    make, share_prefix = WAYS[way]
    expected_loss, expected = reference(tiny_bases, adapter, birds)
    loss, found = computed(tiny_bases, adapter, make(tiny_bases.model), birds, share_prefix=share_prefix)
    assert loss == pytest.approx(expected_loss, rel=TOLERANCE)
    assert_close(found, expected, tolerance=TOLERANCE)


@pytest.mark.parametrize("way", WAYS)
def test_an_example_does_not_see_its_neighbours(
    way: str, tiny_bases: Base, birds: tuple[TokenizedExample, ...]
) -> None:
    make, share_prefix = WAYS[way]
    decoder = make(tiny_bases.model)
    with torch.no_grad():
        alone = decoder.hidden(pack(birds[:1], share_prefix=False))
        for neighbours in (birds, (birds[0], *birds[2:]), (birds[0], birds[0])):
            batch = pack(neighbours, share_prefix=share_prefix)
            assert torch.allclose(decoder.hidden(batch)[batch.owners == 0], alone, atol=1e-4)


def test_the_packed_decoder_is_taken_on_a_cpu_and_can_be_declined(tiny_bases: Base) -> None:
    assert isinstance(decoder_of(tiny_bases), PackedDecoder)
    assert isinstance(decoder_of(tiny_bases, packing=False), PaddedDecoder)


def test_what_the_packed_decoder_does_not_know_is_left_to_the_models_own_forward(tiny_base: Base) -> None:
    hook = tiny_base.model.get_submodule("model.layers.1.mlp.up_proj").register_forward_hook(lambda *_: None)
    assert isinstance(decoder_of(tiny_base), PaddedDecoder)
    hook.remove()
    dora = attach(tiny_base, LoRAConfig(use_dora=True))
    assert isinstance(decoder_of(tiny_base), PaddedDecoder)
    dora.detach()
    assert isinstance(decoder_of(tiny_base), PackedDecoder)
    tiny_base.model.config.layer_types = ["sliding_attention", "full_attention"]
    assert isinstance(decoder_of(tiny_base), PaddedDecoder)


@pytest.mark.parametrize("way", ["padded", "packed"])
def test_dropout_is_drawn_from_the_seed_and_absent_without_one(way: str, tiny_base: Base) -> None:
    from support.training import BIRDS

    from finch_hub.engine.data.tokenizing import tokenize_all

    examples = tokenize_all(BIRDS, tiny_base.tokenizer, max_length=512)
    adapter = adapted(tiny_base, dropout=0.3)
    decoder = WAYS[way][0](tiny_base.model)
    losses = [computed(tiny_base, adapter, decoder, examples, seed=seed)[0] for seed in (1, 1, 2, None)]
    assert losses[0] == losses[1] != losses[2]
    assert losses[3] == pytest.approx(reference(tiny_base, adapter, examples)[0], rel=TOLERANCE)


def test_gradients_under_dropout_are_those_of_the_very_same_masks(tiny_base: Base) -> None:
    """Recomputing (checkpointing) and a finite difference both see the masks that the backward pass draws again."""
    from support.training import BIRDS

    from finch_hub.engine.data.tokenizing import tokenize_all

    examples = tokenize_all(BIRDS, tiny_base.tokenizer, max_length=512)
    adapter = adapted(tiny_base, dropout=0.3)
    decoder = PackedDecoder(tiny_base.model)
    _, found = computed(tiny_base, adapter, decoder, examples, seed=5)
    again = PackedDecoder(tiny_base.model, gradient_checkpointing=True)
    assert_close(computed(tiny_base, adapter, again, examples, seed=5)[1], found, tolerance=TOLERANCE)
    name = next(name for name in found if "layers.0.mlp.up_proj.lora_A" in name)
    direction = found[name] / found[name].norm()
    slope = []
    for sign in (1, -1):
        with torch.no_grad():
            adapter.parameters()[name].add_(direction, alpha=sign * 1e-2)
        slope.append(computed(tiny_base, adapter, decoder, examples, seed=5)[0])
        with torch.no_grad():
            adapter.parameters()[name].add_(direction, alpha=-sign * 1e-2)
    assert (slope[0] - slope[1]) / 2e-2 == pytest.approx(float(found[name].norm()), rel=2e-2)


def test_parts_go_through_their_own_adapters_at_once(
    tiny_bases: Base, adapter: AttachableAdapter, birds: tuple[TokenizedExample, ...]
) -> None:
    other = adapted(tiny_bases, name="other", seed=1)
    decoder = PackedDecoder(tiny_bases.model)
    parts = [
        Part(batch=pack(birds[:2], share_prefix=True), adapter="default"),
        Part(batch=pack(birds[2:], share_prefix=False), adapter="other"),
        Part(batch=pack(birds[:1], share_prefix=False), adapter="default"),
    ]
    together = decoder.hidden_of(parts)
    for part, hidden in zip(parts, together, strict=True):
        assert torch.allclose(hidden, decoder.hidden_of([part])[0], atol=1e-4)
    other.disable()
    assert torch.allclose(together[0], decoder.hidden(parts[0].batch), atol=1e-4)


def test_factors_are_stacked_by_scale_up_to_so_many_ranks_and_never_with_dropout() -> None:
    def update(rank: int, scale: float = 1.0, dropout: float = 0.0) -> Update:
        A, B = torch.zeros(rank, 4), torch.zeros(4, rank)
        return Update(rows=slice(0, 1), columns=slice(0, 4), A=A, B=B, scale=scale, dropout=dropout)

    some = [update(16), update(48), update(16), update(8, 2.0), update(8, 2.0), update(4, dropout=0.1)]
    assert [len(one.A) for one in packed._stacked(some, 1, dtype=torch.bfloat16)] == [64, 16, 16, 4]
    assert packed._stacked(some, 1, dtype=torch.float16) == some


def test_several_enabled_adapters_act_on_the_same_tokens(
    tiny_bases: Base, adapter: AttachableAdapter, birds: tuple[TokenizedExample, ...]
) -> None:
    alone = PaddedDecoder(tiny_bases.model).hidden(pack(birds, share_prefix=False))
    other = adapted(tiny_bases, name="other", seed=1)
    adapter.enable()
    batch = pack(birds, share_prefix=False)
    both = PaddedDecoder(tiny_bases.model).hidden(batch)
    assert not torch.allclose(both, alone, atol=1e-2)
    found = PackedDecoder(tiny_bases.model).hidden_of([Part(batch=batch)])[0]
    assert torch.allclose(found, both, atol=1e-4)
    other.detach()


def test_in_bfloat16_the_packed_decoder_is_as_near_to_float32_as_the_models_own(
    tiny_bases: Base, adapter: AttachableAdapter, birds: tuple[TokenizedExample, ...]
) -> None:
    _, expected = reference(tiny_bases, adapter, birds)
    for module in tiny_bases.model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                setattr(module, name, torch.nn.Parameter(parameter.bfloat16(), requires_grad=False))

    def error(decoder: Decoder) -> float:
        _, found = computed(tiny_bases, adapter, decoder, birds)
        whole = torch.cat([expected[name].flatten() for name in expected])
        return float((torch.cat([found[name].flatten() for name in expected]) - whole).norm() / whole.norm())

    own = error(PaddedDecoder(tiny_bases.model))
    assert error(PackedDecoder(tiny_bases.model)) < 1.25 * own < 0.1


def test_a_base_whose_logits_are_no_linear_function_is_refused(tiny_base: Base) -> None:
    tiny_base.model.config.final_logit_softcapping = 30.0
    with pytest.raises(errors.Incompatible, match="softcapping"):
        Head(tiny_base.model)
