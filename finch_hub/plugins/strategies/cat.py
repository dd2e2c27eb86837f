"""The exact combination: the parents' factors side by side, each keeping its own directions (arXiv 2410.13025)."""

from __future__ import annotations

import torch

from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.plugins.strategies.parameters import CatParameters


def merge(core: CoreSpace, weights: tuple[float, ...], parameters: CatParameters, *, seed: int) -> dict[str, Factors]:
    """Return ``B = [w_1 B_1 … w_T B_T], A = [A_1; …; A_T]`` with balanced parents; the rank is the sum of theirs."""
    found: dict[str, Factors] = {}
    for block in core.blocks:
        B, A = [], []
        for t, (U, S, Vh) in zip(block.present, block.svds(), strict=True):
            root = S.sqrt()
            B.append(block.left @ (weights[t] * U * root.unsqueeze(-2)).float())
            A.append((root.unsqueeze(-1) * Vh).float() @ block.right.mT)
        for module, b, a in zip(block.modules, torch.cat(B, dim=-1), torch.cat(A, dim=-2), strict=True):
            found[module] = Factors(B=b, A=a)
    return found
