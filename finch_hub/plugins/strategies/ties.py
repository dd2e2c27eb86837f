"""Trimming, sign election and disjoint mean of core entries (TIES, arXiv 2306.01708)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.engine.numerics import linalg
from finch_hub.plugins.strategies.parameters import TiesParameters


def merge(core: CoreSpace, weights: tuple[float, ...], parameters: TiesParameters, *, seed: int) -> dict[str, Tensor]:
    """Return, for each entry, the mean of the weighted values of the trimmed parents with the elected sign.

    The weights do not count in the election, as in PEFT. The paper has no weights.
    """

    def merge_block(block: Block, w: Tensor) -> Tensor:
        present = list(block.present)
        trimmed = trim(linalg.zero_rounding_errors(block.cores[present], block.norms[present]), parameters.density)
        return average_agreeing(trimmed, w)

    return core.merge(weights, merge_block)


def trim(cores: Tensor, density: float) -> Tensor:
    """Keep the entries of each parent with the largest magnitudes, and set the others to zero.

    Args:
        cores: cores [T, n, p, q].
        density: share of entries to keep, in (0, 1]; their number is rounded up.
    """
    if density == 1:
        return cores
    flat = cores.flatten(-2)
    kept = flat.abs().topk(math.ceil(density * flat.shape[-1]), dim=-1).indices
    mask = torch.zeros_like(flat, dtype=torch.bool).scatter_(-1, kept, True)
    return (flat * mask).view_as(cores)


def average_agreeing(cores: Tensor, weights: Tensor) -> Tensor:
    """Average the weighted values of each entry that have the elected sign; zero if no value has it."""
    is_agreeing = (cores.sign() == linalg.elect_sign(cores)) & (cores != 0)
    agreeing = torch.einsum("t,tnpq->npq", weights, cores * is_agreeing)
    return agreeing / is_agreeing.sum(0).clamp(min=1)
