"""Regression on the inputs (RegMean, arXiv 2212.09849): each module answers every parent's inputs as it does."""

from __future__ import annotations

import torch
from torch import Tensor

from finch_hub.engine.composition import linalg
from finch_hub.engine.composition.core_space import CoreSpace, ModuleCore
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.objective import Objective
from finch_hub.plugins.strategies.parameters import RegmeanParameters


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
    decide, and `ridge` times their mean eigenvalue is added to the diagonal. Weights say how much a parent's error
    counts beside the others'; their common factor is one of the result.

    Its columns lie in the parents' common output basis, so that its rank is no higher than the sum of theirs; its rows
    do not lie in their input basis, for what tells the parents' inputs apart may lie anywhere. The factors' columns are
    ordered by what they carry on these inputs: a rank that is cut off costs least (reduced-rank regression, Izenman
    1975).
    """
    w = torch.tensor(weights, dtype=torch.float64)
    made: dict[str, Factors] = {}
    for moments in objective.inputs(core, rows=parameters.rows):
        parts = list(moments.items())
        fitted = linalg.in_threads(lambda part: _fit(core.modules[part[0]], w, part[1], parameters.ridge), parts)
        made |= {module: update for (module, _), update in zip(parts, fitted, strict=True)}
    return made


def _fit(space: ModuleCore, w: Tensor, moments: Tensor, ridge: float) -> Factors:
    present = [t for t, here in enumerate(space.present) if here]
    if len(present) == 1:
        (t,) = present
        return Factors(B=space.left @ (w[t] * space.cores[t]).float(), A=space.right.mT.clone())
    V = space.right.double()
    size = len(V)
    total = torch.zeros(size, size, dtype=torch.float64)
    wanted = torch.zeros(len(space.cores[0]), size, dtype=torch.float64)
    for t in present:
        G = moments[t].double()
        G.diagonal().add_(ridge / size)
        total.add_(G, alpha=float(w[t].abs()))
        wanted.addmm_(w[t] * space.cores[t], V.mT @ G)
    # With all weights zero nothing is left to invert, and nothing is wanted.
    total.diagonal().clamp_(min=torch.finfo(torch.float64).tiny)
    K = torch.cholesky_solve(wanted.mT, torch.linalg.cholesky(total)).mT
    order = torch.linalg.eigh(wanted @ K.mT).eigenvectors.flip(-1)
    K = w[present].abs().mean() * (order.mT @ K)
    return Factors(B=space.left @ order.float(), A=K.float())
