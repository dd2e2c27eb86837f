"""Projection of each parent onto directions that earlier parents do not use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.engine.numerics import linalg
from finch_hub.plugins.resolvers.parameters import PriorityParameters


def resolve(core: CoreSpace, parameters: PriorityParameters) -> CoreSpace:
    """Project each parent onto the orthogonal complement of earlier parents: ``(I - P_<t) M_t (I - Q_<t)``.

    P_<t projects onto the column spaces of the earlier parents' updates (side left), Q_<t onto their row spaces
    (side right). The first parent does not change.

    Raises:
        Incompatible: the order names an unknown parent, or a parent twice.
    """
    first = _find_positions(core.parents, parameters.order)
    order = first + [t for t in range(len(core.parents)) if t not in first]

    def resolve_block(block: Block) -> Tensor:
        cores = block.cores.clone()
        earlier: list[Tensor] = []
        for t in (t for t in order if t in block.present):
            if earlier and parameters.sides != "right":
                cores[t] -= linalg.projector(torch.cat(earlier, dim=-1)) @ cores[t]
            if earlier and parameters.sides != "left":
                cores[t] -= cores[t] @ linalg.projector(torch.cat([M.mT for M in earlier], dim=-1))
            earlier.append(block.cores[t])
        return cores

    return core.map(resolve_block, modules=parameters.modules)


def _find_positions(parents: Sequence[str], order: Sequence[str]) -> list[int]:
    """Return the positions of the named parents; a name without a version must match exactly one parent."""
    positions: list[int] = []
    problems: list[errors.Problem] = []
    for name in order:
        matches = [t for t, parent in enumerate(parents) if name in (parent, parent.rpartition("/")[0])]
        if len(matches) != 1:
            what = f"{name!r} matches {'several parents' if matches else 'no parent'}"
            problems.append(errors.Problem(what=what, where="order", fix=f"the parents are {', '.join(parents)}"))
        elif matches[0] in positions:
            problems.append(errors.Problem(what=f"{name!r} is named twice", where="order", fix="name each parent once"))
        positions += matches
    if problems:
        raise errors.Incompatible(problems, subject="priority")
    return positions
