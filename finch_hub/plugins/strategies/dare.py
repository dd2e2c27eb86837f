"""Random drop and rescale of core entries (DARE, arXiv 2311.03099), followed by linear or ties.

PEFT and mergekit call the second one `dare_ties`.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.engine.numerics import linalg
from finch_hub.plugins.strategies import linear, ties
from finch_hub.plugins.strategies.parameters import DareParameters


def merge(core: CoreSpace, weights: tuple[float, ...], parameters: DareParameters, *, seed: int) -> dict[str, Tensor]:
    """Drop each parent's entries with probability `drop`, divide the rest by ``1 - drop``, then merge.

    A mask depends only on the seed, the parent's content and the module path. It does not depend on the order of the
    parents, other parents or other modules.
    """

    def merge_block(block: Block, w: Tensor) -> Tensor:
        present = list(block.present)
        kept = block.cores[present]
        if parameters.elect:
            kept = linalg.zero_rounding_errors(kept, block.norms[present])
        if parameters.drop:
            p, q = kept.shape[-2:]
            masks = [
                torch.stack([draw_mask(p, q, parameters.drop, f"{seed}:{core.digests[t]}:{m}") for m in block.modules])
                for t in block.present
            ]
            kept = kept * torch.stack(masks) / (1 - parameters.drop)
        if parameters.elect:
            return ties.average_agreeing(ties.trim(kept, parameters.density), w)
        return linear.sum_weighted(kept, w)

    return core.merge(weights, merge_block)


def draw_mask(p: int, q: int, drop: float, key: str) -> Tensor:
    """Return a mask [p, q] that is False with probability `drop`; the key decides it."""
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    return torch.rand(p, q, generator=generator, dtype=torch.float64) >= drop
