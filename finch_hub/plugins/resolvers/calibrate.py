"""Reduction of output directions that several parents share (Pico, arXiv 2604.16826)."""

from __future__ import annotations

from torch import Tensor

from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.plugins.resolvers.parameters import ResolverParameters


def resolve(core: CoreSpace, parameters: ResolverParameters) -> CoreSpace:
    """Scale direction k of the output basis by ``α_k = 1 / (1 + (T - 1) c_k)``, where ``c = σ² / Σσ²``.

    σ are the singular values of the balanced ``[B_1 … B_T]``. Its left singular vectors are the core space's left
    basis U. So Pico's ``B_t ← B_t + U (α - 1) Uᵀ B_t`` multiplies the rows of every M_t by α. Pico also rescales the
    merged update to the mean norm of the uncalibrated parents; `linear` does so with ``norm="parents"``.
    """

    def resolve_block(block: Block) -> Tensor:
        energy = block.outputs.values.square()
        total = energy.sum(-1, keepdim=True)
        shared = energy / total.where(total > 0, 1.0)
        alpha = 1 / (1 + (len(block.present) - 1) * shared)
        return alpha.unsqueeze(-1) * block.cores

    return core.map(resolve_block, modules=parameters.modules)
