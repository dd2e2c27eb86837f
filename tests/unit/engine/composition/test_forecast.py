"""Forecasts compared with dense outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import updates
from support.updates import dense, dense_sum

from finch_hub.engine.composition import core_space, forecast
from finch_hub.engine.composition.forecast import OutputMatch
from finch_hub.plugins.strategies import linear
from finch_hub.plugins.strategies.parameters import LinearParameters


def test_forecast_with_penalty_one_is_the_squared_error_of_dense_outputs() -> None:
    parents = [updates.adapter("a", seed=0), updates.adapter("b", seed=1, modules=["layers.0.q", "layers.0.v"])]
    core = core_space.build(parents)
    merged = linear.merge(core, (1.0, 1.0), LinearParameters(), seed=0)
    X = {module: np.random.default_rng(5).normal(size=(inside, 7)) for module, (_, inside) in updates.SHAPES.items()}
    moments = {
        module: torch.tensor(space.right.double().numpy().T @ X[module] @ X[module].T @ space.right.double().numpy())
        for module, space in core.modules.items()
    }
    matches = forecast.match_outputs(core, merged, [moments, moments])
    scale = 0.7
    for parent, match in zip(parents, matches, strict=True):
        error = energy = 0.0
        for module, inputs in X.items():
            own = dense(parent.factors[module]) if module in parent.factors else np.zeros(updates.SHAPES[module])
            # Only the first parent has layers.1.q, so no scale applies there.
            factor = 1.0 if module == "layers.1.q" else scale
            error += np.square((factor * dense_sum(parents, (1.0, 1.0), module) - own) @ inputs).sum()
            energy += np.square(own @ inputs).sum()
        assert match is not None
        assert match.forecast_retention(scale, 1.0) == pytest.approx(1 - error / energy, rel=1e-4)


def test_penalty_fits_the_measured_retention() -> None:
    loud, itself = OutputMatch(common=1.0, energy=3.0), OutputMatch(common=1.0, energy=1.0)
    assert forecast.fit_penalties([loud, loud, None, itself, loud], [0.8, None, 0.5, 0.9, 1.2]) == (
        pytest.approx(0.1),
        None,
        None,
        0.0,
        0.0,
    )
    assert loud.forecast_retention(1.0, 0.1) == pytest.approx(0.8)
    assert loud.forecast_retention(0.5, 0.1) == pytest.approx(2 * 0.5 - 0.25 - 0.1 * 0.5)
    # Half of the loud update lies in modules without a scale.
    half = OutputMatch(common=0.5, energy=1.5, unscaled_common=0.5, unscaled_energy=1.5)
    assert half.fit_penalty(0.8) == pytest.approx(0.1)
    assert half.forecast_retention(0.5, 0.1) == pytest.approx(2 * 0.75 - 0.75**2 - 0.1 * (0.375 + 1.5 - 0.75**2))


def test_best_scale_maximizes_the_worst_parent() -> None:
    # Two parabolas with height 1 and vertices at 1 and 0.5. They cross in between.
    first, second = OutputMatch(common=1.0, energy=1.0), OutputMatch(common=2.0, energy=4.0)
    found = forecast.forecast_best_scale("linear", [first, None, second, second], [0.1, None, 0.2, None])
    assert found is not None
    assert found.kept == (
        first.forecast_retention(found.scale, 0.1),
        None,
        second.forecast_retention(found.scale, 0.2),
        None,
    )
    assert min(first.forecast_retention(found.scale, 0.1), second.forecast_retention(found.scale, 0.2)) > 0.85
    assert 0.5 < found.scale < 1


def test_forecast_without_rows_returns_nothing() -> None:
    core = core_space.build([updates.adapter("a", seed=0), updates.adapter("b", seed=1)])
    merged = linear.merge(core, (1.0, 1.0), LinearParameters(), seed=0)
    assert (
        forecast.forecast_best_scale("linear", forecast.match_outputs(core, merged, [None, None]), [None, None]) is None
    )
