"""Singular values of an adapter's updates, and the threshold below which they are cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.adapters.weights import AdapterWeights

_MAX_EVALUATIONS = 8  # of the search: each halves the number of possible thresholds


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectrum:
    """Thin singular value decomposition of an adapter's updates: ``ΔW = U diag(S) Vᵀ`` of each module.

    Attributes:
        modules: path to (U [out, r], S [r], V [in, r]), float32.
    """

    modules: Mapping[str, tuple[Tensor, Tensor, Tensor]]

    @classmethod
    def of(cls, weights: AdapterWeights) -> Spectrum:
        """Decompose the updates by their factors, without dense updates."""
        modules = {}
        for path, module in weights.modules.items():
            Q_left, R_left = torch.linalg.qr(module.B.float() * module.scale)
            Q_right, R_right = torch.linalg.qr(module.A.float().T)
            U, S, Vh = torch.linalg.svd(R_left @ R_right.T)
            modules[path] = (Q_left @ U, S, Q_right @ Vh.T)
        return cls(modules=modules)

    def costs(self) -> dict[str, int]:
        """Return the parameters of one direction of each module."""
        return {path: len(U) + len(V) for path, (U, _, V) in self.modules.items()}

    def ranks(self, threshold: float) -> dict[str, int]:
        """Return the number of each module's singular values at or above the threshold."""
        return {path: int(torch.count_nonzero(S.ge(threshold))) for path, (_, S, _) in self.modules.items()}

    def parameters(self, threshold: float) -> int:
        """Return the number of parameters of an adapter that is cut at the threshold."""
        costs = self.costs()
        return sum(costs[path] * rank for path, rank in self.ranks(threshold).items())

    def thresholds(self) -> list[float]:
        """Return all singular values above zero, in descending order: each keeps one more direction."""
        values = torch.cat([S for _, S, _ in self.modules.values()])
        return sorted({float(value) for value in values if value > 0}, reverse=True)

    def factors(self, ranks: Mapping[str, int]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return A [r, in] and B [out, r] of equal scale for each module, cut to its rank; rank 0 has none."""
        factors = {}
        for path, (U, S, V) in self.modules.items():
            if rank := ranks.get(path, 0):
                root = S[:rank].sqrt()
                factors[path] = ((V[:, :rank] * root).T.contiguous(), U[:, :rank] * root)
        return factors


@dataclass(frozen=True, kw_only=True, eq=False)
class ThresholdChoice:
    """A threshold, with the parameters and held-out loss of the adapter cut at it."""

    threshold: float
    parameters: int
    loss: float


def choose_threshold(
    spectrum: Spectrum, loss_at: Callable[[float], float], *, full_loss: float, tolerance: float, budget: int | None
) -> tuple[float, list[ThresholdChoice]]:
    """Find the highest threshold whose held-out loss is at most `tolerance` above the full adapter's.

    The search is binary, because fewer directions rarely give a lower loss.

    Args:
        spectrum: decomposition of the trained adapter.
        loss_at: function that returns the held-out loss of the adapter cut at a threshold.
        full_loss: held-out loss of the full adapter.
        tolerance: relative increase of the loss that is allowed, such as 0.005.
        budget: upper bound of parameters, which precedes the tolerance; None for none.

    Returns:
        The threshold, and all measured choices.
    """
    thresholds = spectrum.thresholds()
    if not thresholds:
        raise errors.TrainingFailed("cannot choose a rank: the trained adapter is zero (raise learning_rate or epochs)")
    last = len(thresholds) - 1
    if budget is not None:
        affordable = [place for place, value in enumerate(thresholds) if spectrum.parameters(value) <= budget]
        if not affordable:
            least = spectrum.parameters(thresholds[0])
            what = f"{budget:,} parameters are fewer than the strongest direction takes ({least:,})"
            raise errors.InvalidSpec(what, where="rank_budget", fix="raise it")
        last = affordable[-1]
    measured: dict[int, ThresholdChoice] = {}

    def is_good(place: int) -> bool:
        if place not in measured:
            value = thresholds[place]
            parameters = spectrum.parameters(value)
            measured[place] = ThresholdChoice(threshold=value, parameters=parameters, loss=loss_at(value))
        return measured[place].loss <= full_loss * (1 + tolerance)

    low, high = 0, last
    # The last threshold needs no measurement: it cuts nothing, or it is the best within the budget.
    while low < high and len(measured) < _MAX_EVALUATIONS:
        middle = (low + high) // 2
        if is_good(middle):
            high = middle
        else:
            low = middle + 1
    is_good(high)
    return thresholds[high], sorted(measured.values(), key=lambda choice: choice.parameters)
