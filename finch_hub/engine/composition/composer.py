"""Composer of the updates that a search tries, with a cache of merged core spaces."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch

from finch_hub import errors
from finch_hub.engine.composition import truncation
from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.parent_data import ParentData
from finch_hub.engine.composition.trial import MergedUpdate, Trial
from finch_hub.engine.composition.truncation import Rank

_Merged = tuple[CoreSpace, Mapping[str, MergedUpdate]]


@dataclass(kw_only=True, eq=False)
class Composer:
    """Computation of composed updates, with a cache of merged core spaces.

    A module that only one parent changes gets that parent's update times its given weight, whatever the trial, the
    scale and the weights of a search are.

    Attributes:
        weights: given weights of the parents.
        parent_data: data for strategies that need them.
    """

    core: CoreSpace
    weights: tuple[float, ...]
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
        scaled = {
            module: update if module in self._lone_updates else _scale(update, scale)
            for module, update in merged.items()
        }
        return truncation.truncate(resolved, scaled, self.rank)

    @property
    def has_common_modules(self) -> bool:
        """Whether several parents change one module."""
        return any(len(block.present) > 1 for block in self.core.blocks)

    def merge(self, trial: Trial, weights: tuple[float, ...]) -> _Merged:
        """Return the resolved core space and the strategy's update of each module, at scale 1."""
        key = (trial.label, weights)
        if key not in self._merged:
            self._merged[key] = self._run_kernels(trial, weights)
        return self._merged[key]

    def _run_kernels(self, trial: Trial, weights: tuple[float, ...]) -> _Merged:
        data = {"parent_data": self.parent_data} if trial.needs_data else {}
        try:
            resolved = trial.resolve(_copy(self.core), trial.resolver_parameters)
            _check_resolved(resolved, self.core, trial)
            merged = trial.merge(_copy(resolved), weights, trial.parameters, seed=self.seed, **data)
            _check_merged(merged, resolved, trial)
            return self._restore_lone_blocks(resolved), {**merged, **self._lone_updates}
        except errors.FinchError:
            raise
        except (Exception, SystemExit) as error:
            what = f"{trial.label} failed: {type(error).__name__}: {error}"
            raise errors.PluginError(what) from error

    @cached_property
    def _lone_blocks(self) -> tuple[Block, ...]:
        return tuple(block for block in self.core.blocks if len(block.present) == 1)

    @cached_property
    def _lone_updates(self) -> Mapping[str, MergedUpdate]:
        """Weighted update of each module that only one parent changes."""
        return {
            module: self.weights[t] * M
            for block in self._lone_blocks
            for t in block.present
            for module, M in zip(block.modules, block.cores[t], strict=True)
        }

    def _restore_lone_blocks(self, resolved: CoreSpace) -> CoreSpace:
        """Return a resolved core space with the original blocks of `_lone_updates`; a plugin can replace the bases."""
        masks = (torch.tensor([m not in self._lone_updates for m in block.modules]) for block in resolved.blocks)
        parts = [block.select(mask) for block, mask in zip(resolved.blocks, masks, strict=True)]
        blocks = (*(part for part in parts if part.modules), *self._lone_blocks)
        return dataclasses.replace(resolved, blocks=blocks)


def _copy(core: CoreSpace) -> CoreSpace:
    """Return a copy that a kernel may change. Later trials begin with the same core space."""
    copies = (dataclasses.replace(b, cores=b.cores.clone(), norms=b.norms.clone()) for b in core.blocks)
    return dataclasses.replace(core, blocks=tuple(copies))


def _check_resolved(resolved: object, core: CoreSpace, trial: Trial) -> None:
    """Refuse what a resolver must not return.

    Raises:
        PluginError: it is not a core space of the same parents and modules with finite cores.
    """
    what = ""
    if not isinstance(resolved, CoreSpace):
        what = f"{type(resolved).__name__}, not a core space"
    elif resolved.parents != core.parents or _names(resolved) != _names(core):
        what = "a core space of other parents or modules"
    elif not all(bool(block.cores.isfinite().all()) for block in resolved.blocks):
        what = "cores that are not finite"
    if what:
        raise errors.PluginError(f"resolver {trial.resolver} returned {what}")


def _check_merged(merged: object, core: CoreSpace, trial: Trial) -> None:
    """Refuse what a strategy must not return.

    Raises:
        PluginError: it is not one finite matrix of the core's shape, or factors, for each module.
    """
    what = ""
    if not isinstance(merged, Mapping):
        what = f"{type(merged).__name__}, not updates by modules"
    elif different := sorted(map(str, merged.keys() ^ _names(core))):
        what = f"updates of other modules than those of the parents: {', '.join(different[:3])} and perhaps more"
    else:
        shapes = {module: block.cores.shape[-2:] for block in core.blocks for module in block.modules}
        for module, update in merged.items():
            if isinstance(update, Factors):
                is_usable = update.is_finite
            else:
                is_tensor = isinstance(update, torch.Tensor) and update.shape == shapes[module]
                is_usable = is_tensor and bool(update.isfinite().all())
            if not is_usable:
                what = f"an update of {module} that is no finite matrix of the core's shape"
                break
    if what:
        raise errors.PluginError(f"strategy {trial.strategy} returned {what}")


def _names(core: CoreSpace) -> set[str]:
    return {module for block in core.blocks for module in block.modules}


def _scale(update: MergedUpdate, scale: float) -> MergedUpdate:
    return update.scaled(scale) if isinstance(update, Factors) else update * scale
