"""Orthogonalization of all parents' singular vectors (TSV-M, arXiv 2412.00081)."""

from __future__ import annotations

import torch
from torch import Tensor

from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.engine.numerics import linalg
from finch_hub.plugins.strategies.parameters import TsvParameters


def merge(core: CoreSpace, weights: tuple[float, ...], parameters: TsvParameters, *, seed: int) -> dict[str, Tensor]:
    """Return ``U_⊥ diag(w_t S_t) V_⊥ᵀ`` of the parents' leading singular triplets, orthogonalized on `sides`."""

    def merge_block(block: Block, w: Tensor) -> Tensor:
        U, S, V, owners = orthogonalize_triplets(block, parameters)
        return (U * (S * w[owners]).unsqueeze(-2)) @ V.mT

    return core.merge(weights, merge_block)


def orthogonalize_triplets(block: Block, parameters: TsvParameters) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return U [n, p, K], S [n, K] and V [n, q, K] of all present parents side by side, and the owner of each triplet.

    On the requested sides, the singular vectors of all parents are replaced by the nearest orthonormal vectors, their
    polar factor. Owners [K] count the present parents from 0.
    """
    svds = block.svds(parameters.keep)
    U = torch.cat([U for U, _, _ in svds], dim=-1)
    V = torch.cat([Vh.mT for _, _, Vh in svds], dim=-1)
    S = torch.cat([S for _, S, _ in svds], dim=-1)
    owners = torch.cat([torch.full((S.shape[-1],), t) for t, (_, S, _) in enumerate(svds)])
    # If a singular value is a rounding error, its vectors are arbitrary. They must not displace the real ones. The
    # limit follows the parent's own norm, because a resolver can leave nothing of a parent but rounding errors.
    limits = linalg.TOLERANCE * block.norms[list(block.present)].unsqueeze(-1)
    is_real = torch.cat([limit < S for limit, (_, S, _) in zip(limits, svds, strict=True)], dim=-1).unsqueeze(-2)
    if parameters.sides in ("left", "both"):
        U = linalg.polar(U * is_real)
    if parameters.sides in ("right", "both"):
        V = linalg.polar(V * is_real)
    return U, S, V, owners
