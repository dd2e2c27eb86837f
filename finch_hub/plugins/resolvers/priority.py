"""Let later parents yield to earlier ones: each keeps only what the ones before it leave free."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.engine.numerics import linalg
from finch_hub.plugins.resolvers.parameters import PriorityParameters


def resolve(core: CoreSpace, parameters: PriorityParameters) -> CoreSpace:
    """Project each parent onto the orthogonal complement of those before it: ``(I - P_<t) M_t (I - Q_<t)``.

    P_<t projects onto the column spaces of the earlier parents' updates (side left), Q_<t onto their row spaces
    (side right). The first parent stays as it is.

    Raises:
        Incompatible: the order names a parent that there is not, or one twice.

    """
    first = _places(core.parents, parameters.order)
    order = first + [t for t in range(len(core.parents)) if t not in first]

    def of_block(block: Block) -> Tensor:
        cores = block.cores.clone()
        earlier: list[Tensor] = []
        for t in (t for t in order if t in block.present):
            if earlier and parameters.sides != "right":
                cores[t] -= linalg.projector(torch.cat(earlier, dim=-1)) @ cores[t]
            if earlier and parameters.sides != "left":
                cores[t] -= cores[t] @ linalg.projector(torch.cat([M.mT for M in earlier], dim=-1))
            earlier.append(block.cores[t])
        return cores

    return core.map(of_block, modules=parameters.modules)


def _places(parents: Sequence[str], order: Sequence[str]) -> list[int]:
    """Return where the named parents stand; a name without a version will do where it means one of them."""
    found: list[int] = []
    problems: list[errors.Problem] = []
    for name in order:
        places = [t for t, parent in enumerate(parents) if name in (parent, parent.partition("/")[0])]
        if len(places) != 1:
            what = f"{name!r} is {'more than one' if places else 'no'} parent"
            problems.append(errors.Problem(what=what, where="order", fix=f"the parents are {', '.join(parents)}"))
        elif places[0] in found:
            problems.append(errors.Problem(what=f"{name!r} is named twice", where="order", fix="name each once"))
        found += places
    if problems:
        raise errors.Incompatible(problems, subject="priority")
    return found
