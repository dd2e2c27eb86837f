"""Task singular vectors made orthogonal over the parents (TSV-M, arXiv 2412.00081)."""

from __future__ import annotations

import torch
from torch import Tensor

from finch_hub.engine.composition import linalg
from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.plugins.strategies.parameters import TsvParameters


def merge(core: CoreSpace, weights: tuple[float, ...], parameters: TsvParameters, *, seed: int) -> dict[str, Tensor]:
    """Return ``U_⊥ diag(w_t S_t) V_⊥ᵀ``, where the parents' leading singular vectors side by side are replaced by
    the nearest orthonormal ones (their polar factor), on one side or both.
    """  # fmt: skip

    def of_block(block: Block, w: Tensor) -> Tensor:
        svds = block.svds(parameters.keep)
        U = torch.cat([U for U, _, _ in svds], dim=-1)
        V = torch.cat([Vh.mT for _, _, Vh in svds], dim=-1)
        S = torch.cat([weight * S for weight, (_, S, _) in zip(w, svds, strict=True)], dim=-1)
        # Triplets whose singular value is rounding have arbitrary vectors, which must not push real ones aside.
        real = (S.abs() > linalg.TOLERANCE * S.abs().amax(-1, keepdim=True)).unsqueeze(-2)
        if parameters.sides != "right":
            U = linalg.polar(U * real)
        if parameters.sides != "left":
            V = linalg.polar(V * real)
        return (U * S.unsqueeze(-2)) @ V.mT

    return core.merge(weights, of_block)
