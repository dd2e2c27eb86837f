"""Composer of the updates that a search tries, with a cache of merged core spaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from finch_hub import errors
from finch_hub.engine.composition import truncation
from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.parent_data import ParentData
from finch_hub.engine.composition.trial import MergedUpdate, Trial
from finch_hub.engine.composition.truncation import Rank

_Merged = tuple[CoreSpace, Mapping[str, MergedUpdate]]


@dataclass(kw_only=True, eq=False)
class Composer:
    """Computation of composed updates, with a cache of merged core spaces.

    Attributes:
        parent_data: data for strategies that need them.
    """

    core: CoreSpace
    rank: Rank
    seed: int
    parent_data: ParentData | None = None
    _merged: dict[tuple[str, tuple[float, ...]], _Merged] = field(default_factory=dict, init=False)

    def compose(self, trial: Trial, scale: float, weights: tuple[float, ...]) -> dict[str, Factors]:
        """Return the composed update of each module, truncated to the requested rank.

        Raises:
            Incompatible: the resolver refuses, or the strategy returns an invalid update.
            PluginError: a kernel raised.
        """
        resolved, merged = self.merge(trial, weights)
        return truncation.truncate(
            resolved, {module: _scale(update, scale) for module, update in merged.items()}, self.rank
        )

    def merge(self, trial: Trial, weights: tuple[float, ...]) -> _Merged:
        """Return the resolved core space and the strategy's update of each module, at scale 1."""
        key = (trial.label, weights)
        if key not in self._merged:
            self._merged[key] = self._run_kernels(trial, weights)
        return self._merged[key]

    def _run_kernels(self, trial: Trial, weights: tuple[float, ...]) -> _Merged:
        data = {"parent_data": self.parent_data} if trial.needs_data else {}
        try:
            resolved = trial.resolve(self.core, trial.resolver_parameters)
            return resolved, trial.merge(resolved, weights, trial.parameters, seed=self.seed, **data)
        except errors.FinchError:
            raise
        except (Exception, SystemExit) as error:
            what = f"{trial.label} failed: {type(error).__name__}: {error}"
            raise errors.PluginError(what) from error


def _scale(update: MergedUpdate, scale: float) -> MergedUpdate:
    return update.scaled(scale) if isinstance(update, Factors) else update * scale
