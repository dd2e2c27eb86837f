"""A point of a search: a measured trial at one scale."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from finch_hub.engine.composition.trial import Trial
from finch_hub.specs.reports import Candidate


@dataclass(frozen=True, kw_only=True)
class Point:
    """A measured trial at one scale, with one set of weights.

    Attributes:
        losses: mean token loss on each parent's rows; None for a parent without rows.
        retention: retention of each parent; None if it gained nothing itself or has no rows.
        num_harmed: number of parents that gained nothing themselves and are now worse than the bare base.
        linear_retention: retention of the best plain linear point; empty until it is known.
    """

    trial: Trial
    scale: float
    weights: tuple[float, ...]
    losses: tuple[float | None, ...]
    retention: tuple[float | None, ...]
    num_harmed: int
    linear_retention: tuple[float | None, ...] = ()

    @property
    def worst(self) -> float:
        """Smallest retention over the parents that gained; minus infinity if none did."""
        return min((k for k in self.retention if k is not None), default=-math.inf)

    @property
    def mean(self) -> float:
        """Mean retention over the parents that gained; minus infinity if none did."""
        measured = [k for k in self.retention if k is not None]
        return statistics.fmean(measured) if measured else -math.inf

    @property
    def shortfall(self) -> float:
        """Largest amount by which a parent keeps less than under plain linear."""
        pairs = zip(self.linear_retention, self.retention, strict=False)
        return max((f - k for f, k in pairs if f is not None and k is not None and f > k), default=0.0)

    @property
    def score(self) -> float:
        """Value that a search maximizes: the worst parent's retention minus the shortfall."""
        return self.worst - self.shortfall

    @property
    def sort_key(self) -> tuple[float, ...]:
        """Order of points: parents harmed, score, mean, and losses for points without retention."""
        return (-self.num_harmed, self.score, self.mean, -sum(loss for loss in self.losses if loss is not None))

    def to_candidate(self) -> Candidate:
        """Return the point in the form of the report."""
        is_measured = any(k is not None for k in self.retention)
        return Candidate(
            strategy=self.trial.strategy,
            parameters=self.trial.parameters.model_dump(),
            resolver=self.trial.resolver,
            resolver_parameters=self.trial.resolver_parameters.model_dump(),
            scale=self.scale,
            weights=self.weights,
            losses=self.losses,
            worst=self.worst if is_measured else None,
            mean=self.mean if is_measured else None,
        )
