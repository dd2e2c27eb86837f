"""Find the strategy, scale and weights that keep most of every parent, within a budget of evaluations."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from finch_hub import errors
from finch_hub.engine.composition import retention, truncation
from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.measurement import Bench
from finch_hub.engine.composition.parent_data import Objective
from finch_hub.engine.composition.truncation import Rank, Update
from finch_hub.specs.reports import Candidate, TokenMetrics
from finch_hub.specs.value import Value

# A sweep steps by this factor until the best scale has a neighbour on either side, then interpolates.
_STEP = 1.3
# Scales closer than this are not worth an evaluation.
_CLOSE = 1.07
# A strategy that is behind by more than this is not going to lead by another scale.
_HOPELESS = 0.08
_SMALLEST, _LARGEST = 0.05, 4.0


class Merge(Protocol):
    """A strategy's kernel: weights of all parents in, one M [p, q] (or factors) a module out."""

    def __call__(
        self, core: CoreSpace, weights: tuple[float, ...], parameters: Any, *, seed: int, **data: Any
    ) -> Mapping[str, Update]:
        """Merge."""


class Resolve(Protocol):
    """A resolver's kernel: a core space in, another out."""

    def __call__(self, core: CoreSpace, parameters: Any) -> CoreSpace:
        """Resolve."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One way to compose: a resolver, then a strategy.

    Attributes:
        strategy: its name in reports; `merge` its kernel, called with `parameters`.
        resolver: likewise, with `resolve` and `resolver_parameters`.
        scale: where a sweep begins.
        exact: the result must not be truncated.
        needs_data: the kernel is also given ``objective``, a `Bench`-backed
            `finch_hub.engine.composition.parent_data.Objective`.

    """

    strategy: str
    merge: Merge
    parameters: Value
    resolver: str = "keep"
    resolve: Resolve = field(default=lambda core, parameters: core)
    resolver_parameters: Value = field(default_factory=Value)
    scale: float = 1.0
    exact: bool = False
    needs_data: bool = False

    @property
    def label(self) -> str:
        """What it is called in messages, such as ``tsv sides=left``."""
        return " ".join(
            [
                *([] if self.resolver == "keep" else [_named(self.resolver, self.resolver_parameters), "then"]),
                _named(self.strategy, self.parameters),
            ]
        )


def _named(name: str, parameters: Value) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in parameters.model_dump(exclude_defaults=True).items())])


@dataclass(frozen=True, kw_only=True)
class Point:
    """A trial at one scale and weighting, and what it kept.

    Attributes:
        kept: retention of each parent, None where it gained nothing itself or has no rows.
        harmed: how many parents gained nothing themselves, and got worse than under the bare base.
        floor: what the best plain linear point keeps of each parent, where that is known.

    """

    trial: Trial
    scale: float
    weights: tuple[float, ...]
    losses: tuple[float | None, ...]
    kept: tuple[float | None, ...]
    harmed: int
    floor: tuple[float | None, ...] = ()

    @property
    def worst(self) -> float:
        """Least retention over the parents that gained; minus infinity where none did."""
        return min((k for k in self.kept if k is not None), default=-math.inf)

    @property
    def mean(self) -> float:
        """Average retention over the same."""
        measured = [k for k in self.kept if k is not None]
        return statistics.fmean(measured) if measured else -math.inf

    @property
    def shortfall(self) -> float:
        """The most by which a parent keeps less than under plain linear."""
        both = zip(self.floor, self.kept, strict=False)
        return max((f - k for f, k in both if f is not None and k is not None and f > k), default=0.0)

    @property
    def score(self) -> float:
        """What a search raises: the worst parent's retention, less the shortfall."""
        return self.worst - self.shortfall

    @property
    def rank_key(self) -> tuple[float, ...]:
        """What points are ordered by: whom they harm, the score, the mean, (where nobody gained) the losses."""
        return (-self.harmed, self.score, self.mean, -sum(loss for loss in self.losses if loss is not None))

    def candidate(self) -> Candidate:
        """Return it as the report has it."""
        measured = any(k is not None for k in self.kept)
        return Candidate(
            strategy=self.trial.strategy,
            parameters=self.trial.parameters.model_dump(),
            resolver=self.trial.resolver,
            resolver_parameters=self.trial.resolver_parameters.model_dump(),
            scale=self.scale,
            weights=self.weights,
            losses=self.losses,
            worst=self.worst if measured else None,
            mean=self.mean if measured else None,
        )


class Composer:
    """Computes the factors of a trial at a scale and weighting, resolving and merging only what is new.

    Attributes:
        objective: given to strategies that need data.

    """

    def __init__(self, core: CoreSpace, *, rank: Rank, seed: int) -> None:
        self._core = core
        self._rank = rank
        self._seed = seed
        self.objective: Objective | None = None
        self._merged: dict[tuple[str, tuple[float, ...]], tuple[CoreSpace, Mapping[str, Update]]] = {}

    def __call__(self, trial: Trial, scale: float, weights: tuple[float, ...]) -> dict[str, Factors]:
        """Return the update's factors, truncated to the rank asked for.

        Raises:
            Incompatible: the resolver refuses, or the strategy returns what cannot be.
            PluginError: the kernel raised.

        """
        resolved, merged = self.merged(trial, weights)
        return truncation.lift(
            resolved, {module: _times(update, scale) for module, update in merged.items()}, self._rank
        )

    def merged(self, trial: Trial, weights: tuple[float, ...]) -> tuple[CoreSpace, Mapping[str, Update]]:
        """Return the resolved core space and what the strategy made of it, at scale 1.

        Raises:
            Incompatible: the resolver refuses.
            PluginError: the kernel raised.

        """
        key = (trial.label, weights)
        if key not in self._merged:
            self._merged[key] = self._run(trial, weights)
        return self._merged[key]

    def _run(self, trial: Trial, weights: tuple[float, ...]) -> tuple[CoreSpace, Mapping[str, Update]]:
        data = {"objective": self.objective} if trial.needs_data else {}
        try:
            resolved = trial.resolve(self._core, trial.resolver_parameters)
            return resolved, trial.merge(resolved, weights, trial.parameters, seed=self._seed, **data)
        except errors.FinchError:
            raise
        except (Exception, SystemExit) as error:
            what = f"{trial.label} failed: {type(error).__name__}: {error}"
            raise errors.PluginError(what) from error


def _times(update: Update, scale: float) -> Update:
    return update.scaled(scale) if isinstance(update, Factors) else update * scale


class Search:
    """Measures trials on the selection rows and keeps every point.

    Args:
        compose: makes factors of a trial.
        bench: what measures them.
        base: metrics of the bare base on the selection rows; `own` those of each parent.
        budget: evaluations that may be spent in all.
        tell: called with a line of text for every point.

    Attributes:
        floor: what the best plain linear point keeps of each parent, once it is known; points measured from then on
            are held against it.

    """

    def __init__(
        self,
        compose: Composer,
        bench: Bench,
        *,
        base: Sequence[TokenMetrics | None],
        own: Sequence[TokenMetrics | None],
        budget: int,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._compose = compose
        self._bench = bench
        self._base = base
        self._own = own
        self._budget = budget
        self._tell = tell
        self.floor: tuple[float | None, ...] = ()
        self._points: dict[tuple[str, float, tuple[float, ...]], Point] = {}

    @property
    def points(self) -> tuple[Point, ...]:
        """Every point measured, in the order tried."""
        return tuple(self._points.values())

    @property
    def left(self) -> int:
        """Evaluations that are left."""
        return self._budget - len(self._points)

    def at(self, trial: Trial, scale: float, weights: tuple[float, ...]) -> Point:
        """Measure one point, or return it if it was measured before."""
        key = (trial.label, scale, weights)
        if key not in self._points:
            metrics = self._bench.measure(self._compose(trial, scale, weights))
            kept = tuple(retention.kept(b, o, c) for b, o, c in zip(self._base, self._own, metrics, strict=True))
            losses = tuple(None if m is None else m.loss for m in metrics)
            harmed = sum(
                b is not None and c is not None and k is None and c.loss > b.loss
                for b, c, k in zip(self._base, metrics, kept, strict=True)
            )
            point = Point(
                trial=trial,
                scale=scale,
                weights=weights,
                losses=losses,
                kept=kept,
                harmed=harmed,
                floor=self.floor,
            )
            self._points[key] = point
            share = f"worst {point.worst:.3f}, mean {point.mean:.3f}" if point.worst > -math.inf else f"losses {losses}"
            self._tell(f"{trial.label}, scale {scale:.2f}: {share}")
        return self._points[key]

    def sweep(self, trials: Sequence[Trial], weights: tuple[float, ...], *, budget: int | None = None) -> None:
        """Try every trial once, then spend what is left on the scales of whichever is best at the time."""
        end = len(self._points) + min(self.left, self.left if budget is None else budget)
        for trial in trials:
            if len(self._points) < end:
                self.at(trial, trial.scale, weights)
        open_trials = [trial for trial in trials if self._of(trial, weights)]
        while open_trials and len(self._points) < end:
            trial = max(open_trials, key=lambda t: self.best(t, weights).rank_key)
            if self.best(trial, weights).score < self._ahead(trials, weights) - _HOPELESS:
                return
            scale = next_scale(self._of(trial, weights))
            if scale is None:
                open_trials.remove(trial)
            else:
                self.at(trial, scale, weights)

    def balance(self, point: Point) -> None:
        """Shift weight towards the parents that keep least, as long as that raises the score.

        The scale stays that of the point; the weights' geometric mean stays as it was. Every success doubles the next
        step, every failure halves it.
        """
        strength = 1.0
        while self.left > 0 and strength > 0.2:
            push = [0.0 if k is None else strength * (point.mean - k) for k in point.kept]
            level = statistics.fmean(push)
            weights = tuple(round(w * math.exp(p - level), 3) for w, p in zip(point.weights, push, strict=True))
            if weights == point.weights:
                return
            shifted = self.at(point.trial, point.scale, weights)
            if shifted.rank_key > point.rank_key:
                point = shifted
                strength *= 2
            else:
                strength /= 2

    def best(self, trial: Trial | None = None, weights: tuple[float, ...] | None = None) -> Point:
        """Return the point with the highest score, of all or of one trial."""
        points = self.points if trial is None else self._of(trial, weights)
        return max(points, key=lambda point: point.rank_key)

    def _ahead(self, trials: Sequence[Trial], weights: tuple[float, ...]) -> float:
        return max(self.best(trial, weights).score for trial in trials if self._of(trial, weights))

    def _of(self, trial: Trial, weights: tuple[float, ...] | None) -> tuple[Point, ...]:
        return tuple(
            p for p in self.points if p.trial.label == trial.label and (weights is None or p.weights == weights)
        )


def next_scale(points: Sequence[Point]) -> float | None:
    """Return the scale to try next: outwards until the best lies inside, then the vertex of a parabola; None at rest.

    The parabola runs through the best point and its neighbours over the logarithm of the scale.
    """
    ordered = sorted(points, key=lambda point: point.scale)
    at = ordered.index(max(ordered, key=lambda point: point.rank_key))
    best = ordered[at].scale
    if at == len(ordered) - 1:
        return round(best * _STEP, 4) if best * _STEP < _LARGEST else None
    if at == 0:
        return round(best / _STEP, 4) if best / _STEP > _SMALLEST else None
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
    close = any(max(scale, point.scale) / min(scale, point.scale) < _CLOSE for point in ordered)
    return None if close else scale
