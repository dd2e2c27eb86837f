"""Weighted sum of the parents (task arithmetic, arXiv 2212.04089)."""

from __future__ import annotations

import torch
from torch import Tensor

from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.engine.numerics import linalg
from finch_hub.plugins.strategies.parameters import LinearParameters


def merge(core: CoreSpace, weights: tuple[float, ...], parameters: LinearParameters, *, seed: int) -> dict[str, Tensor]:
    """Return ``Σ_t w_t M_t``; its truncation is the truncated SVD of the dense sum ``Σ_t w_t ΔW_t``."""

    def merge_block(block: Block, w: Tensor) -> Tensor:
        present = list(block.present)
        total = sum_weighted(block.cores[present], w)
        return rescale(total, block.norms[present], w) if parameters.norm == "parents" else total

    return core.merge(weights, merge_block)


def sum_weighted(cores: Tensor, weights: Tensor) -> Tensor:
    """Return ``Σ_t w_t M_t [n, p, q]`` of cores [T, n, p, q]."""
    total: Tensor = torch.einsum("t,tnpq->npq", weights, cores)
    return total


def rescale(total: Tensor, norms: Tensor, weights: Tensor) -> Tensor:
    """Scale each module's sum [n, p, q] to the mean of the weighted parents' norms [T, n]; a sum of zero stays zero."""
    target = (weights.abs().unsqueeze(-1) * norms).mean(0).view(-1, 1, 1)
    norm = total.norm(dim=(-2, -1), keepdim=True)
    scaled: Tensor = total * target * linalg.inverse(torch.where(norm > linalg.TOLERANCE * target, norm, 0.0))
    return scaled
