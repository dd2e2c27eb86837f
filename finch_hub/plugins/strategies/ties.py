"""Trim, elect sign and merge (TIES, arXiv 2306.01708), elementwise in the core basis."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.engine.numerics import linalg
from finch_hub.plugins.strategies.parameters import TiesParameters


def merge(core: CoreSpace, weights: tuple[float, ...], parameters: TiesParameters, *, seed: int) -> dict[str, Tensor]:
    """Return the mean over the parents that agree with the elected sign, entry by entry, of the trimmed parents."""

    def of_block(block: Block, w: Tensor) -> Tensor:
        trimmed = trim(block.cores[list(block.present)], parameters.density)
        return disjoint_mean(w.view(-1, 1, 1, 1) * trimmed)

    return core.merge(weights, of_block)


def trim(cores: Tensor, density: float) -> Tensor:
    """Keep the share `density` of each parent's entries that is largest in magnitude, at least one; zero the rest.

    Args:
        cores: [T, n, p, q].
        density: in (0, 1]; the number kept is rounded up.

    """
    if density == 1:
        return cores
    flat = cores.flatten(-2)
    kept = flat.abs().topk(math.ceil(density * flat.shape[-1]), dim=-1).indices
    mask = torch.zeros_like(flat, dtype=torch.bool).scatter_(-1, kept, True)
    return (flat * mask).view_as(cores)


def disjoint_mean(cores: Tensor) -> Tensor:
    """Average, entry by entry, the nonzero values whose sign is the elected one; zero where there are none."""
    agreeing = (cores.sign() == linalg.elected_sign(cores)) & (cores != 0)
    return (cores * agreeing).sum(0) / agreeing.sum(0).clamp(min=1)
