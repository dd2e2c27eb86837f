"""Regression on the inputs (RegMean, arXiv 2212.09849): each module answers every parent's inputs as it does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.parent_data import Objective
from finch_hub.engine.numerics import concurrency
from finch_hub.plugins.strategies import linear, tsv
from finch_hub.plugins.strategies.parameters import LinearParameters, RegmeanParameters, TsvParameters


def merge(
    core: CoreSpace,
    weights: tuple[float, ...],
    parameters: RegmeanParameters,
    *,
    seed: int,
    objective: Objective,
) -> dict[str, Factors]:
    """Return the ΔW that minimises ``Σ_t |w_t| ‖(ΔW - sign(w_t) ΔW_t) X_t‖²``, times the mean of the ``|w_t|``.

    X_t are the inputs that a module is given on parent t's rows under parent t, so ``ΔW = (Σ w_t ΔW_t G_t) (Σ |w_t|
    G_t)⁻¹`` with their second moments ``G_t = X_t X_tᵀ``. These have trace 1, or the parent with the longest rows would
    decide. What the rows leave open the prior decides: ``λ Σ |w_t| ‖ΔW - P‖²`` is added to the squares, with `ridge`
    times the moments' mean eigenvalue as λ and P either the parents' weighted mean or what `tsv` makes of them.

    Its columns lie in the parents' common output basis, so that its rank is no higher than the sum of theirs; its rows
    do not lie in their input basis, for what tells the parents' inputs apart may lie anywhere. The factors' columns are
    ordered by what they carry on these inputs: a rank that is cut off costs least (reduced-rank regression, Izenman
    1975).
    """
    w = torch.tensor(weights, dtype=torch.float64)
    priors = _priors(core, weights, parameters)
    made: dict[str, Factors] = {}
    for moments in objective.inputs(core, rows=parameters.rows):
        parts = [(alike, G) for modules, G in moments.items() for alike in _of_same_parents(core, modules)]
        fits = concurrency.in_threads(lambda part: _fit(core, part[0], w, part[1], parameters.ridge, priors), parts)
        made |= {module: update for fitted in fits for module, update in fitted.items()}
    return made


def _priors(core: CoreSpace, weights: tuple[float, ...], parameters: RegmeanParameters) -> dict[str, Tensor]:
    """Return ``Σ_t |w_t| P [p, q]`` of every module between its bases."""
    made = linear.merge(core, weights, LinearParameters(), seed=0)
    if parameters.prior == "tsv":
        orthogonal = tsv.merge(core, weights, TsvParameters(), seed=0)
        made = {module: sum(core.modules[module].present) * M for module, M in orthogonal.items()}
    return made


def _of_same_parents(core: CoreSpace, modules: Iterable[str]) -> list[list[str]]:
    """Part modules by who adapts them: only then one system of equations is that of all."""
    parts: dict[tuple[bool, ...], list[str]] = defaultdict(list)
    for module in modules:
        parts[core.modules[module].present].append(module)
    return list(parts.values())


def _fit(
    core: CoreSpace,
    modules: Sequence[str],
    w: Tensor,
    moments: Tensor,
    ridge: float,
    priors: Mapping[str, Tensor],
) -> dict[str, Factors]:
    """Solve for modules that the same parents adapt and that are given the same inputs, of moments [T, in, in]."""
    spaces = [core.modules[module] for module in modules]
    present = [t for t, here in enumerate(spaces[0].present) if here]
    if len(present) == 1:
        (t,) = present
        alone = [Factors(B=space.left @ (w[t] * space.cores[t]).float(), A=space.right.mT.clone()) for space in spaces]
        return dict(zip(modules, alone, strict=True))
    size = moments.shape[-1]
    total = torch.zeros(size, size, dtype=torch.float64)
    total.diagonal().add_(ridge / size * float(w[present].abs().sum()))
    wanted = [ridge / size * priors[m] @ space.right.double().mT for m, space in zip(modules, spaces, strict=True)]
    for t in present:
        G = moments[t].double()
        total.add_(G, alpha=float(w[t].abs()))
        for space, sum_ in zip(spaces, wanted, strict=True):
            sum_.addmm_(w[t] * space.cores[t], space.right.double().mT @ G)
    # With all weights zero nothing is left to invert, and nothing is wanted.
    total.diagonal().clamp_(min=torch.finfo(torch.float64).tiny)
    root = torch.linalg.cholesky(total)
    level = w[present].abs().mean()
    made: dict[str, Factors] = {}
    for module, space, sum_ in zip(modules, spaces, wanted, strict=True):
        K = torch.cholesky_solve(sum_.mT, root).mT
        order = torch.linalg.eigh(sum_ @ K.mT).eigenvectors.flip(-1)
        made[module] = Factors(B=space.left @ order.float(), A=(level * (order.mT @ K)).float())
    return made
