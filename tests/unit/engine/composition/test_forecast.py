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


def test_with_a_harm_of_one_it_is_the_squared_error_of_the_dense_outputs_also_where_only_others_act() -> None:
    parents = [updates.adapter("a", seed=0), updates.adapter("b", seed=1, modules=["layers.0.q", "layers.0.v"])]
    core = core_space.build(parents)
    merged = linear.merge(core, (1.0, 1.0), LinearParameters(), seed=0)
    X = {module: np.random.default_rng(5).normal(size=(inside, 7)) for module, (_, inside) in updates.SHAPES.items()}
    moments = {
        module: torch.tensor(space.right.double().numpy().T @ X[module] @ X[module].T @ space.right.double().numpy())
        for module, space in core.modules.items()
    }
    found = forecast.answers(core, merged, [moments, moments])
    scale = 0.7
    for parent, answer in zip(parents, found, strict=True):
        missed = whole = 0.0
        for module, inputs in X.items():
            own = dense(parent.factors[module]) if module in parent.factors else np.zeros(updates.SHAPES[module])
            missed += np.square((scale * dense_sum(parents, (1.0, 1.0), module) - own) @ inputs).sum()
            whole += np.square(own @ inputs).sum()
        assert answer is not None
        assert answer.kept(scale, 1.0) == pytest.approx(1 - missed / whole, rel=1e-4)


def test_what_one_composition_kept_says_what_energy_across_a_parents_answer_costs() -> None:
    loud, itself = forecast.Answer(common=1.0, energy=3.0), forecast.Answer(common=1.0, energy=1.0)
    assert forecast.harms([loud, loud, None, itself, loud], [0.8, None, 0.5, 0.9, 1.2]) == (
        pytest.approx(0.1),
        None,
        None,
        0.0,
        0.0,
    )
    assert loud.kept(1.0, 0.1) == pytest.approx(0.8)
    assert loud.kept(0.5, 0.1) == pytest.approx(2 * 0.5 - 0.25 - 0.1 * 0.5)


def test_the_best_scale_serves_the_worst_parent() -> None:
    # Parabolas with their vertices, of height 1, at 1 and at 0.5: they cross between.
    first, second = forecast.Answer(common=1.0, energy=1.0), forecast.Answer(common=2.0, energy=4.0)
    found = forecast.best("linear", [first, None, second, second], [0.1, None, 0.2, None])
    assert found is not None
    assert found.kept == (first.kept(found.scale, 0.1), None, second.kept(found.scale, 0.2), None)
    assert min(first.kept(found.scale, 0.1), second.kept(found.scale, 0.2)) > 0.85
    assert 0.5 < found.scale < 1


def test_without_rows_nothing_is_forecast() -> None:
    core = core_space.build([updates.adapter("a", seed=0), updates.adapter("b", seed=1)])
    merged = linear.merge(core, (1.0, 1.0), LinearParameters(), seed=0)
    assert forecast.best("linear", forecast.answers(core, merged, [None, None]), [None, None]) is None
