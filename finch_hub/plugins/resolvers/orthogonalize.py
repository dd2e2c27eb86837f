"""Orthogonalization of all parents' singular vectors, without an order of parents."""

from __future__ import annotations

import torch
from torch import Tensor

from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.plugins.resolvers.parameters import OrthogonalizeParameters
from finch_hub.plugins.strategies import tsv
from finch_hub.plugins.strategies.parameters import TsvParameters


def resolve(core: CoreSpace, parameters: OrthogonalizeParameters) -> CoreSpace:
    """Replace the singular vectors of all parents by the nearest orthonormal vectors; keep the singular values.

    If the parents have more directions than the space, their vectors are as far apart as possible. The strategy `tsv`
    with all triplets equals this resolver followed by the sum.
    """

    def resolve_block(block: Block) -> Tensor:
        U, S, V, owners = tsv.orthogonalize_triplets(block, TsvParameters(sides=parameters.sides))
        cores = torch.zeros_like(block.cores)
        counts = owners.bincount().tolist()
        for t, u, s, v in zip(block.present, *(torch.split(X, counts, dim=-1) for X in (U, S, V)), strict=True):
            cores[t] = (u * s.unsqueeze(-2)) @ v.mT
        return cores

    return core.map(resolve_block, modules=parameters.modules)
