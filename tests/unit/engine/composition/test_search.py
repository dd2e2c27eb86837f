"""Choice of the next scale in a sweep, and the order of points."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from finch_hub.engine.composition.point import Point
from finch_hub.engine.composition.search import choose_next_scale
from finch_hub.engine.composition.trial import Trial
from finch_hub.plugins.descriptors import NoParameters

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
    assert (
        choose_next_scale([point(0.8, 0.5), point(1.0, 0.5), point(1.3, 0.5)]) is not None
    )  # the last point is the best, so the sweep goes on
    assert (
        choose_next_scale([point(0.8, 0.4), point(1.0, 0.5), point(1.03, 0.49)]) is None
    )  # the next scale is too close


def test_points_are_ordered_by_harm_then_worst_then_mean_then_loss() -> None:
    ordered = [
        point(1, 0.9, 0.9, harmed=1),
        point(1, 0.2, 0.9),
        point(1, 0.3, 0.4),
        point(1, 0.3, 0.8),
    ]
    assert sorted(ordered, key=lambda p: p.sort_key) == ordered
    # If no parent gained anything, the lower loss is better.
    assert point(1, None, losses=(2.0,)).sort_key > point(1, None, losses=(3.0,)).sort_key


def test_parent_without_retention_does_not_count() -> None:
    assert point(1, None, 0.7, 0.9).worst == 0.7
    assert point(1, None, 0.7, 0.9).mean == pytest.approx(0.8)
    assert point(1, None).to_candidate().worst is None
