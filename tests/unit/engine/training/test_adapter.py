"""The adapter that users create and train."""

from __future__ import annotations

import pytest

from finch_hub import errors
from finch_hub.engine.bases.base import Base
from finch_hub.engine.training.adapter import LoRAAdapter
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig


def test_second_training_continues_from_the_first(tiny_base: Base) -> None:
    pairs = [("What does a finch eat?", "It eats seeds."), ("Where does it live?", "In woods and gardens.")]
    one_thread = TrainingConfig(threads=1)
    adapter = LoRAAdapter(LoRAConfig(target_modules="all-linear"), tiny_base)
    first = adapter.train(pairs, epochs=4, lr=1e-2, validation=pairs, training=one_thread)
    second = adapter.train(pairs, epochs=4, lr=1e-2, validation=pairs, training=one_thread)
    assert adapter.is_enabled
    assert first.before is not None
    assert second.before is not None
    assert first.after is not None
    assert second.after is not None
    assert first.after.loss < first.before.loss
    assert second.before.loss == pytest.approx(first.after.loss, rel=1e-5)
    assert second.after.loss < first.after.loss


def test_train_without_a_base_says_how_to_get_one() -> None:
    adapter = LoRAAdapter(LoRAConfig())
    with pytest.raises(errors.InvalidSpec, match=r"cannot train: it has no base.*LoRAAdapter\(config, base=\.\.\.\)"):
        adapter.train([("a", "b")], epochs=1, lr=1e-3)
