"""Fit of the weights to the parents' validation examples by gradient descent (arXiv 2410.13025, 2307.13269)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.composition.core_space import Block, CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.parent_data import ParentData
from finch_hub.plugins.strategies import tsv
from finch_hub.plugins.strategies.parameters import LearnedParameters, TsvParameters
from finch_hub.progress import track


def merge(
    core: CoreSpace, weights: tuple[float, ...], parameters: LearnedParameters, *, seed: int, parent_data: ParentData
) -> dict[str, Tensor]:
    """Return the sum of the parents' updates at the fitted weights; `orthogonalize` changes the updates as `tsv` does.

    Adam starts at the given weights and takes `steps` steps on mini-batches of the parents' rows. There is one weight
    for each parent, or for each parent and module. A module that only one parent adapts keeps the given weight.
    """
    shared = torch.tensor(weights, dtype=torch.float64)
    parts = [_WeightedBlock(block, shared, parameters) for block in core.blocks]
    fitted = [part for part in parts if len(part.block.present) > 1]
    if fitted and not parent_data.parents:
        what = "no parent gains more than two standard errors on its own rows"
        raise errors.Incompatible(what, fix="choose another strategy", subject="learned")
    leaves = [part.leaf for part in fitted] if parameters.per_module else [shared]
    optimizer = torch.optim.Adam([leaf.requires_grad_() for leaf in leaves], lr=parameters.learning_rate)
    for step in track(range(parameters.steps if fitted else 0), "learning weights"):
        optimizer.zero_grad()
        _, gradients = parent_data.gradient(_collect_factors(parts), step=step, seed=seed)
        # The chain rule from the gradients of the factors to those of the weights.
        torch.stack([part.pull_back(gradients) for part in fitted]).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {module: M for part in parts for module, M in zip(part.block.modules, part.merge(), strict=True)}


class _WeightedBlock:
    """Block with components ``left [n, p, K], right [n, K, q]`` and the owner of each component.

    Attributes:
        leaf: tensor to fit: weights [T] that all modules share, or weights [n, T'] of this block alone.
    """

    def __init__(self, block: Block, shared: Tensor, parameters: LearnedParameters) -> None:
        self.block = block
        is_shared = len(block.present) > 1 and not parameters.per_module
        self.leaf = shared if is_shared else shared[list(block.present)].repeat(len(block.modules), 1)
        U, S, V, self.owners = tsv.orthogonalize_triplets(block, TsvParameters(sides=parameters.orthogonalize))
        root = S.sqrt().unsqueeze(-2)
        self.left, self.right = U * root, (V * root).mT
        self._B = block.outputs @ self.left
        self._A = (block.inputs @ self.right.mT).mT

    @property
    def weights(self) -> Tensor:
        """Weights [n, T'] of the present parents."""
        if self.leaf.dim() == 2:
            return self.leaf
        return self.leaf[list(self.block.present)].expand(len(self.block.modules), -1)

    def factors(self) -> list[Factors]:
        """Return the update of each module at the current weights."""
        B = self._B * self.weights.detach().float()[:, self.owners].unsqueeze(-2)
        return [Factors(B=b, A=a) for b, a in zip(B, self._A, strict=True)]

    def pull_back(self, gradients: Mapping[str, Factors]) -> Tensor:
        """Return ``Σ w_k ⟨∂/∂B_k, B_k⟩``, whose derivative by the weights is that of the objective."""
        by_column = torch.stack([gradients[module].B for module in self.block.modules]).mul(self._B).sum(-2).double()
        return (self.weights[:, self.owners] * by_column).sum()

    def merge(self) -> Tensor:
        """Return M [n, p, q] at the current weights."""
        return (self.left * self.weights.detach()[:, self.owners].unsqueeze(-2)) @ self.right


def _collect_factors(parts: Sequence[_WeightedBlock]) -> dict[str, Factors]:
    return {module: update for part in parts for module, update in zip(part.block.modules, part.factors(), strict=True)}
