"""Search for the trial, scale and weights that keep most of every parent."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from finch_hub.engine.composition import retention
from finch_hub.engine.composition.composer import Composer
from finch_hub.engine.composition.measurement import Measurement
from finch_hub.engine.composition.point import Point
from finch_hub.engine.composition.trial import Trial

# A sweep changes the scale by this factor until the best scale has a neighbor on each side. Then it interpolates.
_STEP = 1.3
# A scale closer than this factor to a measured scale is not worth an evaluation.
_MIN_STEP = 1.07
# A trial whose score is lower by more than this does not catch up at another scale.
_MAX_SCORE_GAP = 0.08
_MIN_SCALE, _MAX_SCALE = 0.05, 4.0


@dataclass(kw_only=True, eq=False)
class Search:
    """Search for the trial, scale and weights that keep most of every parent, within a budget.

    Attributes:
        composer: computes the updates of a trial.
        measurement: measures the updates on the selection rows.
        base: metrics of the bare base on each parent's selection rows.
        own: metrics of each parent on its own selection rows.
        budget: maximum number of evaluations.
        log: called with a line of text for every point.
        linear_retention: retention of the best plain linear point; later points are compared with it.
    """

    composer: Composer
    measurement: Measurement
    base: retention.Metrics
    own: retention.Metrics
    budget: int
    log: Callable[[str], None] = lambda text: None
    linear_retention: tuple[float | None, ...] = ()
    _points: dict[tuple[str, float, tuple[float, ...]], Point] = field(default_factory=dict, init=False)

    @property
    def points(self) -> tuple[Point, ...]:
        """Measured points, in the order of their measurement."""
        return tuple(self._points.values())

    @property
    def evaluations_left(self) -> int:
        """Number of evaluations left in the budget."""
        return self.budget - len(self._points)

    def measure(self, trial: Trial, scale: float, weights: tuple[float, ...]) -> Point:
        """Measure a point, or return it if it was measured before."""
        key = (trial.label, scale, weights)
        if key not in self._points:
            self._points[key] = point = self._measure_new(trial, scale, weights)
            has_retention = point.worst > -math.inf
            result = f"worst {point.worst:.3f}, mean {point.mean:.3f}" if has_retention else f"losses {point.losses}"
            self.log(f"{trial.label}, scale {scale:.2f}: {result}")
        return self._points[key]

    def sweep(self, trials: Sequence[Trial], weights: tuple[float, ...], *, budget: int | None = None) -> None:
        """Measure every trial once, then spend the budget on scales of the trial that leads at the time."""
        end = len(self._points) + min(self.evaluations_left, self.evaluations_left if budget is None else budget)
        for trial in trials:
            if len(self._points) < end:
                self.measure(trial, trial.initial_scale, weights)
        measured = [trial for trial in trials if self._points_of(trial, weights)]
        open_trials = list(measured)
        while open_trials and len(self._points) < end:
            trial = max(open_trials, key=lambda t: self.find_best(t, weights).sort_key)
            leading_score = max(self.find_best(t, weights).score for t in measured)
            if self.find_best(trial, weights).score < leading_score - _MAX_SCORE_GAP:
                return
            scale = choose_next_scale(self._points_of(trial, weights))
            if scale is None:
                open_trials.remove(trial)
            else:
                self.measure(trial, scale, weights)

    def balance_weights(self, point: Point) -> None:
        """Shift weight to the parents with the lowest retention while that raises the score.

        The scale and the geometric mean of the weights stay as they are. Each success doubles the next step, each
        failure halves it.
        """
        strength = 1.0
        while self.evaluations_left > 0 and strength > 0.2:
            push = [0.0 if k is None else strength * (point.mean - k) for k in point.retention]
            level = statistics.fmean(push)
            weights = tuple(round(w * math.exp(p - level), 3) for w, p in zip(point.weights, push, strict=True))
            if weights == point.weights:
                return
            shifted = self.measure(point.trial, point.scale, weights)
            if shifted.sort_key > point.sort_key:
                point = shifted
                strength *= 2
            else:
                strength /= 2

    def find_best(self, trial: Trial | None = None, weights: tuple[float, ...] | None = None) -> Point:
        """Return the best point of all trials or of one trial."""
        points = self.points if trial is None else self._points_of(trial, weights)
        return max(points, key=lambda point: point.sort_key)

    def _measure_new(self, trial: Trial, scale: float, weights: tuple[float, ...]) -> Point:
        metrics = self.measurement.measure(self.composer.compose(trial, scale, weights))
        kept = tuple(retention.compute(b, o, c) for b, o, c in zip(self.base, self.own, metrics, strict=True))
        return Point(
            trial=trial,
            scale=scale,
            weights=weights,
            losses=tuple(None if m is None else m.loss for m in metrics),
            retention=kept,
            num_harmed=sum(
                b is not None and c is not None and k is None and c.loss > b.loss
                for b, c, k in zip(self.base, metrics, kept, strict=True)
            ),
            linear_retention=self.linear_retention,
        )

    def _points_of(self, trial: Trial, weights: tuple[float, ...] | None) -> tuple[Point, ...]:
        return tuple(
            p for p in self.points if p.trial.label == trial.label and (weights is None or p.weights == weights)
        )


def choose_next_scale(points: Sequence[Point]) -> float | None:
    """Return the next scale of a sweep, or None if no scale is worth an evaluation.

    While the best scale is the smallest or largest, the sweep goes outwards. Then it takes the vertex of the parabola
    through the best point and its neighbors, over the logarithm of the scale.
    """
    ordered = sorted(points, key=lambda point: point.scale)
    at = ordered.index(max(ordered, key=lambda point: point.sort_key))
    best = ordered[at].scale
    if at == len(ordered) - 1:
        return round(best * _STEP, 4) if best * _STEP < _MAX_SCALE else None
    if at == 0:
        return round(best / _STEP, 4) if best / _STEP > _MIN_SCALE else None
    x = [math.log(point.scale) for point in ordered[at - 1 : at + 2]]
    y = [point.score for point in ordered[at - 1 : at + 2]]
    if not all(math.isfinite(value) for value in y):
        return None
    left, right = x[1] - x[0], x[2] - x[1]
    slopes = (y[0] - y[1]) / left, (y[2] - y[1]) / right
    if sum(slopes) >= 0:
        return None
    vertex = x[1] - (slopes[1] * left - slopes[0] * right) / (2 * sum(slopes))
    scale = round(math.exp(min(max(vertex, x[0]), x[2])), 4)
    is_close = any(max(scale, point.scale) / min(scale, point.scale) < _MIN_STEP for point in ordered)
    return None if is_close else scale
