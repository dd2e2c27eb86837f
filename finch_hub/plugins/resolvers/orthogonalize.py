"""Make the parents' singular vectors orthogonal to each other, none before the others."""

from __future__ import annotations

import torch
from torch import Tensor

from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.engine.numerics import linalg
from finch_hub.plugins.resolvers.parameters import OrthogonalizeParameters


def resolve(core: CoreSpace, parameters: OrthogonalizeParameters) -> CoreSpace:
    """Replace the singular vectors of all parents, side by side, by the nearest orthonormal ones.

    Where the parents have more directions than the space between them, they end up as far apart as it allows. Their
    singular values stay. (`tsv` with all triplets is this, followed by the sum.)
    """

    def of_block(block: Block) -> Tensor:
        svds = block.svds()
        left = [U for U, _, _ in svds]
        right = [Vh.mT for _, _, Vh in svds]
        real = [(S[..., :1] * linalg.TOLERANCE < S).unsqueeze(-2) for _, S, _ in svds]
        if parameters.sides != "right":
            left = _apart(left, real)
        if parameters.sides != "left":
            right = _apart(right, real)
        cores = torch.zeros_like(block.cores)
        for t, U, (_, S, _), V in zip(block.present, left, svds, right, strict=True):
            cores[t] = (U * S.unsqueeze(-2)) @ V.mT
        return cores

    return core.map(of_block, modules=parameters.modules)


def _apart(vectors: list[Tensor], real: list[Tensor]) -> list[Tensor]:
    joined = linalg.polar(torch.cat([X * keep for X, keep in zip(vectors, real, strict=True)], dim=-1))
    return list(torch.split(joined, [X.shape[-1] for X in vectors], dim=-1))
