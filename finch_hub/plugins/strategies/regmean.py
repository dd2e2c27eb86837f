"""Regression of each module on the parents' inputs and outputs (RegMean, arXiv 2212.09849)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.parent_data import ParentData
from finch_hub.engine.composition.second_moment import SecondMoment
from finch_hub.engine.numerics import concurrency
from finch_hub.plugins.strategies import linear, tsv
from finch_hub.plugins.strategies.parameters import LinearParameters, RegmeanParameters, TsvParameters


def merge(
    core: CoreSpace, weights: tuple[float, ...], parameters: RegmeanParameters, *, seed: int, parent_data: ParentData
) -> dict[str, Factors]:
    """Return the ΔW that minimizes ``Σ_t |w_t| ‖(ΔW - sign(w_t) ΔW_t) X_t‖²``, times the mean of the ``|w_t|``.

    X_t are the module's inputs on the rows of parent t while parent t is active. With the second moments
    ``G_t = X_t X_tᵀ`` the solution is ``ΔW = (Σ w_t ΔW_t G_t) (Σ |w_t| G_t)⁻¹``. The moments have trace 1, because
    otherwise the parent with the longest rows would dominate.

    A prior P decides in directions without inputs: ``λ Σ |w_t| ‖ΔW - P‖²`` is added to the squares. P is the parents'
    weighted mean or their `tsv` merge. λ is `ridge` times the mean eigenvalue of the moments.

    The columns of ΔW lie in the parents' common output basis, so its rank is at most the sum of theirs. Its rows can
    lie outside their input basis, because the parents' inputs can differ in any direction. The columns of the factors
    are sorted by their output energy on these inputs, so that truncation costs least (reduced-rank regression, Izenman
    1975).
    """
    w = torch.tensor(weights, dtype=torch.float64)
    priors = _compute_priors(core, weights, parameters)
    merged = _allocate(core)
    for moments in parent_data.input_moments(core, rows=parameters.rows):
        parts = [(group, G) for modules, G in moments.items() for group in _group_by_parents(core, modules)]
        concurrency.map_in_threads(
            lambda part: _fit(core, *part, w, parameters.ridge, priors, merged), parts, "solving"
        )
        del moments, parts  # the next part needs their memory
    return merged


def _allocate(core: CoreSpace) -> dict[str, Factors]:
    """Allocate all factors before the fits: between freed matrices, they would leave memory in useless pieces."""
    merged: dict[str, Factors] = {}
    for block in core.blocks:
        n, p = block.cores.shape[1:3]
        B = torch.empty(n, block.outputs.stacked.shape[1], p)
        A = torch.empty(n, p, block.inputs.stacked.shape[1])
        merged |= {module: Factors(B=b, A=a) for module, b, a in zip(block.modules, B, A, strict=True)}
    return merged


def _compute_priors(core: CoreSpace, weights: tuple[float, ...], parameters: RegmeanParameters) -> dict[str, Tensor]:
    """Return ``Σ_t |w_t| P [p, q]`` of every module between its bases."""
    priors = linear.merge(core, weights, LinearParameters(), seed=0)
    if parameters.prior == "tsv":
        orthogonal = tsv.merge(core, weights, TsvParameters(), seed=0)
        priors = {module: len(core.modules[module].present) * M for module, M in orthogonal.items()}
    return priors


def _group_by_parents(core: CoreSpace, modules: Iterable[str]) -> list[list[str]]:
    """Group modules by the parents that adapt them, because each group shares a system of equations."""
    groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for module in modules:
        groups[core.modules[module].present].append(module)
    return list(groups.values())


def _fit(
    core: CoreSpace,
    modules: Sequence[str],
    moments: Sequence[SecondMoment],
    w: Tensor,
    ridge: float,
    priors: Mapping[str, Tensor],
    merged: Mapping[str, Factors],
) -> None:
    """Solve for modules with the same parents and the same inputs, and write to their factors."""
    spaces = {module: core.modules[module] for module in modules}
    present = list(spaces[modules[0]].present)
    if len(present) == 1:
        for module, space in spaces.items():
            merged[module].B.copy_(space.left)
            merged[module].A.copy_(w[present] * space.cores[present[0]] @ space.right.double().mT)
        return
    size = len(spaces[modules[0]].right)
    total = torch.zeros(size, size, dtype=torch.float64)
    total.diagonal().add_(ridge / size * float(w[present].abs().sum()))
    targets = {module: ridge / size * priors[module] @ space.right.double().mT for module, space in spaces.items()}
    for t in present:
        G = moments[t].normalized()
        total.add_(G, alpha=float(w[t].abs()))
        for module, space in spaces.items():
            targets[module].addmm_(w[t] * space.cores[t], space.right.double().mT @ G)
        del G  # the next matrix needs its memory
    # If all weights are zero, the matrix is zero and cannot be inverted.
    total.diagonal().clamp_(min=torch.finfo(torch.float64).tiny)
    total = torch.linalg.cholesky(total)
    level = w[present].abs().mean()
    for module, target in targets.items():
        K = torch.cholesky_solve(target.mT, total).mT
        order = torch.linalg.eigh(target @ K.mT).eigenvectors.flip(-1)
        torch.matmul(spaces[module].left, order.float(), out=merged[module].B)
        merged[module].A.copy_(level * (order.mT @ K))
