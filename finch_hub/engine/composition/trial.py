"""One way to compose: a resolver and then a strategy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.engine.composition.factors import Factors
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


def _label(name: str, parameters: Value) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in parameters.model_dump(exclude_defaults=True).items())])
