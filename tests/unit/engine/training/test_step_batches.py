"""Division of the training examples into steps."""

from __future__ import annotations

from support.training import started

from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data import batch_plan
from finch_hub.engine.decoder.decoder import Decoder
from finch_hub.engine.decoder.packed import PackedDecoder
from finch_hub.engine.decoder.padded import PaddedDecoder
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

LORA = LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear")
QUICK = TrainingConfig(epochs=2, batch_size=4, learning_rate=5e-3, threads=1, validation=0.2)


def test_only_a_padded_decoder_gets_steps_of_similar_lengths(tiny_base: Base) -> None:
    training = QUICK.evolve(batch_size=2, validation=0)
    decoders: list[Decoder] = [PackedDecoder(tiny_base.model), PaddedDecoder(tiny_base.model)]
    for number, decoder in enumerate(decoders):
        running = started(tiny_base, training, AttachableAdapter(LORA, tiny_base, name=str(number)), decoder=decoder)
        planned = batch_plan.plan_epoch(
            running.batches.lengths, batch_size=2, accumulation=1, seed=0, epoch=0, by_length=decoder.is_padded
        )
        assert len(set(running.batches.lengths)) > 1
        assert running.batches.rows(0) == planned[0]
