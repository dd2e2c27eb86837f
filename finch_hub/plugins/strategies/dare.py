"""Drop at random and rescale (DARE, arXiv 2311.03099), elementwise in the core basis, then linear or ties."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.plugins.strategies import linear, ties
from finch_hub.plugins.strategies.parameters import DareParameters


def merge(core: CoreSpace, weights: tuple[float, ...], parameters: DareParameters, *, seed: int) -> dict[str, Tensor]:
    """Drop each parent's entries with probability `drop`, divide the rest by ``1 - drop``, then merge.

    The draws depend on the seed, the parent's content and the module's path alone: neither on the order of the
    parents nor on which other modules and parents there are.
    """

    def of_block(block: Block, w: Tensor) -> Tensor:
        kept = block.cores[list(block.present)]
        if parameters.drop:
            p, q = kept.shape[-2:]
            masks = [
                torch.stack([mask(p, q, parameters.drop, f"{seed}:{core.digests[t]}:{m}") for m in block.modules])
                for t in block.present
            ]
            kept = kept * torch.stack(masks) / (1 - parameters.drop)
        if parameters.elect:
            return ties.disjoint_mean(w.view(-1, 1, 1, 1) * ties.trim(kept, parameters.density))
        return linear.weighted_sum(kept, w)

    return core.merge(weights, of_block)


def mask(p: int, q: int, drop: float, key: str) -> Tensor:
    """Return a [p, q] mask of zeros (with probability `drop`) and ones that the key alone decides."""
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    return torch.rand(p, q, generator=generator, dtype=torch.float64) >= drop
