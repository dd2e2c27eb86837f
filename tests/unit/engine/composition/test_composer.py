"""The composer's cache of merged core spaces."""

from __future__ import annotations

from typing import Any

import torch
from support import updates

from finch_hub.engine.composition import core_space
from finch_hub.engine.composition.composer import Composer
from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.engine.composition.trial import Trial
from finch_hub.plugins.descriptors import NoParameters


def test_each_trial_and_weights_are_merged_once() -> None:
    calls: list[tuple[float, ...]] = []

    def merge(core: CoreSpace, weights: tuple[float, ...], parameters: Any, **_: Any) -> dict[str, torch.Tensor]:
        calls.append(weights)
        return core.merge(weights, lambda block, w: torch.einsum("t,tnpq->npq", w, block.cores))

    core = core_space.build([updates.adapter("a", seed=0), updates.adapter("b", seed=1)])
    composer = Composer(core=core, weights=(1.0, 1.0), rank=None, seed=0)
    trial = Trial(strategy="sum", merge=merge, parameters=NoParameters())
    first = composer.compose(trial, 1.0, (1.0, 1.0))
    half = composer.compose(trial, 0.5, (1.0, 1.0))
    other = composer.compose(trial, 1.0, (1.0, 0.5))
    assert calls == [(1.0, 1.0), (1.0, 0.5)]
    for module, update in first.items():
        assert updates.relative(updates.dense(half[module]), 0.5 * updates.dense(update)) < 1e-5
        assert updates.relative(updates.dense(other[module]), updates.dense(update)) > 0.01
