"""Weights fitted to the parents' validation examples by gradient descent (arXiv 2410.13025, 2307.13269)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.parent_data import Objective
from finch_hub.plugins.strategies import tsv
from finch_hub.plugins.strategies.parameters import LearnedParameters, TsvParameters


def merge(
    core: CoreSpace,
    weights: tuple[float, ...],
    parameters: LearnedParameters,
    *,
    seed: int,
    objective: Objective,
) -> dict[str, Tensor]:
    """Return the sum of the parents' updates (orthogonalised as `tsv` does where asked) at the weights found.

    Begins at the given weights and takes `steps` steps of Adam on the objective's mini-batches. One weight for each
    parent, or for each parent and module; a module that one parent alone adapts keeps that parent's first weight.
    """
    parts = [_Part(block, weights, parameters) for block in core.blocks]
    learnt = [part for part in parts if len(part.block.present) > 1]
    shared = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    if learnt and not objective.parents:
        what = "no parent gains more than two standard errors on its own rows, so there is nothing to fit weights to"
        raise errors.Incompatible(errors.Problem(what=what, fix="choose another strategy"), subject="learned")
    variables = [part.weights.requires_grad_() for part in learnt] if parameters.per_module else [shared]
    optimizer = torch.optim.Adam(variables, lr=parameters.learning_rate)
    for step in range(parameters.steps if learnt else 0):
        optimizer.zero_grad()
        if not parameters.per_module:
            for part in learnt:
                part.weights = shared[list(part.block.present)].expand(len(part.block.modules), -1)
        _, gradients = objective.gradient(_factors(parts), step=step, seed=seed)
        # The chain rule from the factors' gradients, which the engine computed, to the weights.
        torch.stack([part.pulled_back(gradients) for part in learnt]).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    if learnt and not parameters.per_module:
        for part in learnt:
            part.weights = shared[list(part.block.present)].expand(len(part.block.modules), -1)
    return {module: M for part in parts for module, M in zip(part.block.modules, part.merged(), strict=True)}


class _Part:
    """One block's components ``left [n, p, K], right [n, K, q]``, who owns each of the K, and the weights [n, T']."""

    def __init__(self, block: Block, weights: Sequence[float], parameters: LearnedParameters) -> None:
        self.block = block
        here = torch.tensor([weights[t] for t in block.present], dtype=torch.float64)
        self.weights = here.repeat(len(block.modules), 1)
        U, S, V, self.owners = tsv.triplets(block, TsvParameters(sides=parameters.orthogonalize))
        root = S.sqrt().unsqueeze(-2)
        self.left, self.right = U * root, (V * root).mT
        self._B = block.outputs @ self.left
        self._A = (block.inputs @ self.right.mT).mT

    def factors(self) -> list[Factors]:
        """Return every module's update at the present weights."""
        B = self._B * self.weights.detach().float()[:, self.owners].unsqueeze(-2)
        return [Factors(B=b, A=a) for b, a in zip(B, self._A, strict=True)]

    def pulled_back(self, gradients: Mapping[str, Factors]) -> Tensor:
        """Return a scalar whose derivative by the weights is the objective's: ``Σ w_k ⟨∂/∂B_k, B_k⟩``."""
        by_column = torch.stack([gradients[module].B for module in self.block.modules]).mul(self._B).sum(-2).double()
        return (self.weights[:, self.owners] * by_column).sum()

    def merged(self) -> Tensor:
        """Return M [n, p, q] at the present weights."""
        return (self.left * self.weights.detach()[:, self.owners].unsqueeze(-2)) @ self.right


def _factors(parts: Sequence[_Part]) -> dict[str, Factors]:
    return {module: update for part in parts for module, update in zip(part.block.modules, part.factors(), strict=True)}
