"""Forecasts against the dense outputs that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import updates
from support.updates import dense, dense_sum

from finch_hub.engine.composition import core_space, forecast
from finch_hub.plugins.strategies import linear
from finch_hub.plugins.strategies.parameters import LinearParameters


def test_fidelity_equals_the_dense_outputs_also_where_only_others_act() -> None:
    parents = [updates.adapter("a", seed=0), updates.adapter("b", seed=1, modules=["layers.0.q", "layers.0.v"])]
    core = core_space.build(parents)
    merged = linear.merge(core, (1.0, 1.0), LinearParameters(), seed=0)
    X = {module: np.random.default_rng(5).normal(size=(inside, 7)) for module, (_, inside) in updates.SHAPES.items()}
    moments = {
        module: torch.tensor(space.right.double().numpy().T @ X[module] @ X[module].T @ space.right.double().numpy())
        for module, space in core.modules.items()
    }
    found = forecast.fidelities(core, merged, [moments, moments])
    scale = 0.7
    for parent, fidelity in zip(parents, found, strict=True):
        missed = whole = 0.0
        for module, inputs in X.items():
            own = dense(parent.factors[module]) if module in parent.factors else np.zeros(updates.SHAPES[module])
            missed += np.square((scale * dense_sum(parents, (1.0, 1.0), module) - own) @ inputs).sum()
            whole += np.square(own @ inputs).sum()
        assert fidelity is not None
        assert fidelity.at(scale) == pytest.approx(1 - missed / whole, rel=1e-4)


def test_the_best_scale_serves_the_worst_parent() -> None:
    # Parabolas with their vertices, of height 1, at 1 and at 0.5: they cross between.
    first, second = forecast.Fidelity(common=1.0, energy=1.0), forecast.Fidelity(common=2.0, energy=4.0)
    found = forecast.best("linear", [first, None, second])
    assert found is not None
    assert found.kept == (first.at(found.scale), None, second.at(found.scale))
    assert min(first.at(found.scale), second.at(found.scale)) > 0.85
    assert 0.5 < found.scale < 1


def test_without_rows_nothing_is_forecast() -> None:
    core = core_space.build([updates.adapter("a", seed=0), updates.adapter("b", seed=1)])
    merged = linear.merge(core, (1.0, 1.0), LinearParameters(), seed=0)
    assert forecast.best("linear", forecast.fidelities(core, merged, [None, None])) is None
