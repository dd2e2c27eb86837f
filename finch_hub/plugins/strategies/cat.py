"""Concatenation: the exact weighted sum, as stacked factors of the parents (arXiv 2410.13025)."""

from __future__ import annotations

import torch

from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.numerics import concurrency
from finch_hub.plugins.descriptors import NoParameters


def merge(core: CoreSpace, weights: tuple[float, ...], parameters: NoParameters, *, seed: int) -> dict[str, Factors]:
    """Return ``B = [w_1 B_1 … w_T B_T], A = [A_1; …; A_T]`` of balanced parents; its rank is the sum of the ranks."""

    def stack_block(block: Block) -> dict[str, Factors]:
        B, A = [], []
        for t, (U, S, Vh) in zip(block.present, block.svds(), strict=True):
            root = S.sqrt().unsqueeze(-2)
            B.append(block.outputs @ (weights[t] * U * root))
            A.append((block.inputs @ (Vh.mT * root)).mT)
        stacks = zip(block.modules, torch.cat(B, dim=-1), torch.cat(A, dim=-2), strict=True)
        return {module: Factors(B=b, A=a) for module, b, a in stacks}

    return {
        module: update
        for stacked in concurrency.map_in_threads(stack_block, core.blocks)
        for module, update in stacked.items()
    }
