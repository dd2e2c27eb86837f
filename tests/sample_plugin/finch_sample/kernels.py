"""Composition kernels; no other module of this plugin imports torch."""

from __future__ import annotations

import torch
from torch import Tensor

from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.plugins.descriptors import NoParameters
from finch_sample.parameters import LevelParameters


def strongest(core: CoreSpace, weights: tuple[float, ...], parameters: NoParameters, *, seed: int) -> dict[str, Tensor]:
    """Return, for each entry, the weighted value with the largest magnitude."""

    def merge_block(block: Block, w: Tensor) -> Tensor:
        weighted = block.cores[list(block.present)] * w[:, None, None, None]
        winner = weighted.abs().argmax(dim=0, keepdim=True)
        return torch.take_along_dim(weighted, winner, dim=0)[0]

    return core.merge(weights, merge_block)


def level(core: CoreSpace, parameters: LevelParameters) -> CoreSpace:
    """Scale the core of each parent towards the mean norm of the present parents."""

    def resolve_block(block: Block) -> Tensor:
        norms = block.cores.flatten(2).norm(dim=2)
        is_present = norms > 0
        mean = norms.sum(0) / is_present.sum(0).clamp(min=1)
        factor = torch.where(is_present, (mean / norms.clamp(min=1e-30)) ** parameters.strength, 1.0)
        return block.cores * factor[..., None, None]

    return core.map(resolve_block)
