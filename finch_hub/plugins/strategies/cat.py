"""The exact combination: the parents' factors side by side, each keeping its own directions (arXiv 2410.13025)."""

from __future__ import annotations

import torch

from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.numerics import concurrency
from finch_hub.plugins.strategies.parameters import CatParameters


def merge(core: CoreSpace, weights: tuple[float, ...], parameters: CatParameters, *, seed: int) -> dict[str, Factors]:
    """Return ``B = [w_1 B_1 … w_T B_T], A = [A_1; …; A_T]`` with balanced parents; the rank is the sum of theirs."""

    def of_block(block: Block) -> dict[str, Factors]:
        B, A = [], []
        for t, (U, S, Vh) in zip(block.present, block.svds(), strict=True):
            root = S.sqrt().unsqueeze(-2)
            B.append(block.outputs @ (weights[t] * U * root))
            A.append((block.inputs @ (Vh.mT * root)).mT)
        stacks = zip(block.modules, torch.cat(B, dim=-1), torch.cat(A, dim=-2), strict=True)
        return {module: Factors(B=b, A=a) for module, b, a in stacks}

    return {
        module: update for found in concurrency.in_threads(of_block, core.blocks) for module, update in found.items()
    }
