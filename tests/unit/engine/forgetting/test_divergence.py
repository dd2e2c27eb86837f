"""Divergence from the base on general prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from support.training import adapted, lessons

from finch_hub import errors
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.measurement import Measurement
from finch_hub.engine.composition.parents import ParentAdapter
from finch_hub.engine.data.tokenizing import tokenize_all
from finch_hub.engine.decoder.decoder import choose_decoder
from finch_hub.engine.forgetting.divergence import GeneralDivergence
from finch_hub.engine.forgetting.general_prompts import GENERAL_EXAMPLES
from finch_hub.engine.training import loop
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.reports import HIGH_FORGETTING, Forgetting
from finch_hub.specs.training import TrainingConfig

if TYPE_CHECKING:
    from finch_hub.engine.bases.base import Base


def reference(base: Base) -> float:
    """Return the divergence of the base's enabled adapters by transformers' own forward, one example at a time."""
    adapter_logits: list[torch.Tensor] = []
    base_logits: list[torch.Tensor] = []
    for example in tokenize_all(GENERAL_EXAMPLES, base.tokenizer, max_length=256):
        ids = torch.from_numpy(example.input_ids)[None]
        places = torch.from_numpy(example.labels.nonzero()[0]) - 1
        for enabled, logits in ((False, base_logits), (True, adapter_logits)):
            for module in base.model.modules():
                if hasattr(module, "_disable_adapters"):
                    module.enable_adapters(enabled)
            with torch.no_grad():
                logits.append(base.model(ids).logits[0, places].double())
    model, plain = (torch.log_softmax(torch.cat(logits), dim=-1) for logits in (adapter_logits, base_logits))
    return float((plain.exp() * (plain - model)).sum(dim=-1).mean())


def test_divergence_is_that_of_the_models_own_forward(tiny_bases: Base) -> None:
    decoder = choose_decoder(tiny_bases)
    general = GeneralDivergence(tiny_bases, decoder)
    assert general.measure(decoder) == 0
    adapter = adapted(tiny_bases, seed=1)
    try:
        measured = general.measure(choose_decoder(tiny_bases))
        assert measured == pytest.approx(reference(tiny_bases), rel=1e-3)
    finally:
        adapter.detach()


def test_training_reports_how_far_it_moved_the_model(tiny_base: Base) -> None:
    config = LoRAConfig(rank=4, target_modules=("q_proj", "v_proj"))
    training = TrainingConfig(epochs=2, learning_rate=2e-3, validation=0.2)
    first = loop.train(tiny_base, config, training, lessons(20))
    try:
        assert first.report.forgetting is not None
        assert first.report.forgetting.before == 0
        assert first.report.forgetting.after == pytest.approx(reference(tiny_base), rel=1e-3)
        assert first.report.forgetting.tokens > 400
        more = loop.train(tiny_base, config, training, lessons(20), adapter=first.adapter)
        assert more.report.forgetting is not None
        assert more.report.forgetting.before == pytest.approx(first.report.forgetting.after, rel=1e-5)
        assert more.report.forgetting.after > more.report.forgetting.before
    finally:
        first.adapter.detach()


def test_a_base_whose_context_is_too_short_is_not_measured(tiny_base: Base) -> None:
    tiny_base.model.config.max_position_embeddings, before = 8, tiny_base.model.config.max_position_embeddings
    try:
        with pytest.raises(errors.InvalidDataset):
            GeneralDivergence(tiny_base, choose_decoder(tiny_base))
    finally:
        tiny_base.model.config.max_position_embeddings = before


def test_a_composition_is_compared_with_its_parents(tiny_base: Base) -> None:
    generator = torch.Generator().manual_seed(0)

    def update(size: float) -> dict[str, Factors]:
        path = "model.layers.0.self_attn.q_proj"
        B, A = (torch.randn(shape, generator=generator) for shape in ((64, 4), (4, 64)))
        return {path: Factors(B=B * size, A=A)}

    small, large = (ParentAdapter.of(name, update(size)) for name, size in (("s", 0.02), ("l", 0.2)))
    with Measurement(tiny_base, [small, large], [None, None]) as measurement:
        same = measurement.measure_forgetting(large.factors)
        assert same is not None
        assert same.after == same.before > 0
        less = measurement.measure_forgetting(small.factors)
        assert less is not None
        assert 0 < less.after < less.before == same.before


def test_forgetting_is_warned_of_where_it_is_high_and_grew() -> None:
    high = Forgetting(before=0.0, after=2 * HIGH_FORGETTING, tokens=1000, prompts=1)
    assert "may have lost other abilities" in high.warning
    assert high.evolve(before=3 * HIGH_FORGETTING).warning == ""
    assert high.evolve(after=HIGH_FORGETTING / 2).warning == ""
