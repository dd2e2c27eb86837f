"""One way to compose, a resolver and then a strategy, and its measurement at one scale."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.specs.reports import Candidate
from finch_hub.specs.value import Value

MergedUpdate = Tensor | Factors
"""A strategy's update of one module: M [p, q] between the core space's bases, or factors."""


class Merge(Protocol):
    """Kernel of a strategy, which merges the parents of each module into one update."""

    # Each kernel has a parameter schema of its own. Only kernels that need data take `parent_data`.
    def __call__(
        self, core: CoreSpace, weights: tuple[float, ...], parameters: Any, *, seed: int, **parent_data: Any
    ) -> Mapping[str, MergedUpdate]:
        """Merge the parents."""


class Resolve(Protocol):
    """Kernel of a resolver, which settles conflicts in a core space."""

    def __call__(self, core: CoreSpace, parameters: Any) -> CoreSpace:
        """Return the resolved core space."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One way to compose: a resolver, then a strategy.

    Attributes:
        merge: kernel of the strategy, which is called with `parameters`.
        resolve: kernel of the resolver, which is called with `resolver_parameters`.
        initial_scale: scale at which a search begins.
        is_exact: whether the result must not be truncated.
        needs_data: whether `merge` also takes ``parent_data``, a
            `finch_hub.engine.composition.parent_data.ParentData`.
    """

    strategy: str
    merge: Merge
    parameters: Value
    resolver: str = "keep"
    resolve: Resolve = field(default=lambda core, parameters: core)
    resolver_parameters: Value = field(default_factory=Value)
    initial_scale: float = 1.0
    is_exact: bool = False
    needs_data: bool = False

    @property
    def label(self) -> str:
        """Name in messages and forecasts, such as ``tsv sides=left``."""
        strategy = _label(self.strategy, self.parameters)
        if self.resolver == "keep":
            return strategy
        return f"{_label(self.resolver, self.resolver_parameters)} then {strategy}"


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


def _label(name: str, parameters: Value) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in parameters.model_dump(exclude_defaults=True).items())])
