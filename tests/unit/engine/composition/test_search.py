"""Choice of the next scale in a sweep, and the order of points."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from finch_hub.engine.composition.point import Point
from finch_hub.engine.composition.search import Search, choose_next_scale
from finch_hub.engine.composition.trial import Trial
from finch_hub.plugins.descriptors import NoParameters
from finch_hub.specs.reports import TokenMetrics

TRIAL = Trial(strategy="linear", merge=lambda *_, **__: {}, parameters=NoParameters())


def point(scale: float, *kept: float | None, harmed: int = 0, losses: tuple[float, ...] = ()) -> Point:
    return Point(trial=TRIAL, scale=scale, weights=(1.0,), losses=losses, retention=kept, num_harmed=harmed)


def sweep_curve(curve: Callable[[float], float], start: float) -> list[Point]:
    """Sweep a curve of retention over scale until no scale is left to try."""
    points = [point(start, curve(start))]
    while (scale := choose_next_scale(points)) is not None:
        points.append(point(scale, curve(scale)))
        assert len(points) < 30
    return points


@pytest.mark.parametrize("peak", [0.2, 0.5, 1.0, 1.7, 3.0])
def test_sweep_finds_the_peak_from_any_start(peak: float) -> None:
    for start in (0.3, 1.0, 2.0):
        points = sweep_curve(lambda scale: 1 - math.log(scale / peak) ** 2, start)
        best = max(points, key=lambda p: p.sort_key)
        assert best.worst > 0.98
        assert len(points) <= 14


def test_sweep_ends_at_the_bounds() -> None:
    assert max(p.scale for p in sweep_curve(lambda scale: scale, 1.0)) <= 4
    assert min(p.scale for p in sweep_curve(lambda scale: -scale, 1.0)) >= 0.05


def test_sweep_stops_on_a_plateau() -> None:
    # The last point is the best, so the sweep goes on.
    assert choose_next_scale([point(0.8, 0.5), point(1.0, 0.5), point(1.3, 0.5)]) is not None
    # The next scale is too close.
    assert choose_next_scale([point(0.8, 0.4), point(1.0, 0.5), point(1.03, 0.49)]) is None


def test_points_are_ordered_by_harm_then_worst_then_mean_then_loss() -> None:
    ordered = [point(1, 0.9, 0.9, harmed=1), point(1, 0.2, 0.9), point(1, 0.3, 0.4), point(1, 0.3, 0.8)]
    assert sorted(ordered, key=lambda p: p.sort_key) == ordered
    # If no parent gained anything, the lower loss is better.
    assert point(1, None, losses=(2.0,)).sort_key > point(1, None, losses=(3.0,)).sort_key


def test_parent_without_retention_does_not_count() -> None:
    assert point(1, None, 0.7, 0.9).worst == 0.7
    assert point(1, None, 0.7, 0.9).mean == pytest.approx(0.8)
    assert point(1, None).to_candidate().worst is None


def test_score_subtracts_the_largest_shortfall_below_plain_linear() -> None:
    measured = replace(point(1, 0.6, 0.9, None), linear_retention=(0.5, 0.95, 0.4))
    assert measured.shortfall == pytest.approx(0.05)
    assert measured.score == pytest.approx(0.6 - 0.05)
    assert replace(measured, linear_retention=()).score == 0.6


def metrics(loss: float) -> TokenMetrics:
    return TokenMetrics(loss=loss, accuracy=0.0, tokens=1, examples=1, example_losses=(loss,))


class LossTable:
    """Measurement of the losses that a composer returns instead of updates."""

    def measure(self, losses: tuple[float, ...]) -> tuple[TokenMetrics, ...]:
        return tuple(metrics(loss) for loss in losses)


def make_search(losses: Callable[[float, tuple[float, ...]], tuple[float, ...]], own: tuple[float, ...]) -> Search:
    """Return a search over known losses, for parents with these own losses and a base with loss 2."""
    composer: Any = SimpleNamespace(compose=lambda trial, scale, weights: losses(scale, weights))
    measurement: Any = LossTable()
    base = [metrics(2.0)] * len(own)
    return Search(composer=composer, measurement=measurement, base=base, own=[metrics(o) for o in own], budget=8)


def test_search_counts_only_parents_that_gained_nothing_and_became_worse_as_harmed() -> None:
    losses = (1.5, 2.1, 1.9, 2.5)
    measured = make_search(lambda scale, weights: losses, own=(1.0, 2.0, 2.0, 1.0)).measure(TRIAL, 1.0, (1.0,) * 4)
    assert measured.retention == (0.5, None, None, -0.5)
    assert measured.num_harmed == 1


def test_search_measures_each_scale_and_weights_once() -> None:
    search = make_search(lambda scale, weights: (2.0 - scale * weights[0],), own=(1.0,))
    first = search.measure(TRIAL, 0.5, (1.0,))
    assert search.measure(TRIAL, 0.5, (1.0,)) is first
    assert search.measure(TRIAL, 0.5, (0.5,)).retention == (0.25,)
    assert (len(search.points), search.evaluations_left) == (2, 6)


def test_balance_shifts_weight_to_the_parent_with_the_lowest_retention() -> None:
    search = make_search(lambda scale, weights: (2.0 - 0.9 * weights[0], 2.0 - 0.5 * weights[1]), own=(1.0, 1.0))
    search.balance_weights(search.measure(TRIAL, 1.0, (1.0, 1.0)))
    best = search.find_best()
    assert best.weights[0] < 1 < best.weights[1]
    assert best.worst > 0.6
