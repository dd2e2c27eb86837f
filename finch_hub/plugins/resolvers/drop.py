"""Zero the core entries whose signs the parents dispute."""

from __future__ import annotations

from torch import Tensor

from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.engine.numerics import linalg
from finch_hub.plugins.resolvers.parameters import DropParameters


def resolve(core: CoreSpace, parameters: DropParameters) -> CoreSpace:
    """Zero entries against the sign that holds more mass, or every disputed entry; agreement stays untouched."""

    def of_block(block: Block) -> Tensor:
        if parameters.losers:
            kept = block.cores.sign() * linalg.elected_sign(block.cores) >= 0
        else:
            kept = ~((block.cores > 0).any(0) & (block.cores < 0).any(0)).expand_as(block.cores)
        return block.cores * kept

    return core.map(of_block, modules=parameters.modules, rank_grows=True)
