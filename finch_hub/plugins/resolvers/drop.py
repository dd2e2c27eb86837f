"""Removal of core entries whose signs differ between parents."""

from __future__ import annotations

from torch import Tensor

from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.engine.numerics import linalg
from finch_hub.plugins.resolvers.parameters import DropParameters


def resolve(core: CoreSpace, parameters: DropParameters) -> CoreSpace:
    """Set values with the minority sign to zero, or all values of an entry whose signs differ."""

    def resolve_block(block: Block) -> Tensor:
        values = linalg.zero_rounding_errors(block.cores, block.norms)
        if parameters.losers:
            kept = values.sign() * linalg.elect_sign(values) >= 0
        else:
            kept = ~((values > 0).any(0) & (values < 0).any(0)).expand_as(values)
        return block.cores * kept

    return core.map(resolve_block, modules=parameters.modules, rank_grows=True)
