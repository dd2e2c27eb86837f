"""An adapter's directions by what they weigh, and how many of them held-out loss shows to be needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.adapters.weights import AdapterWeights

_EVALUATIONS = 8  # of the search for the threshold: it halves what is undecided each time


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectrum:
    """An adapter's updates by singular values: ``ΔW = U diag(S) Vᵀ`` of each module, thin.

    Attributes:
        modules: path to (U [out, r], S [r], V [in, r]), float32.

    """

    modules: Mapping[str, tuple[Tensor, Tensor, Tensor]]

    @classmethod
    def of(cls, weights: AdapterWeights) -> Spectrum:
        """Decompose the updates from their factors, without ever making one of them dense."""
        found = {}
        for path, module in weights.modules.items():
            Q_left, R_left = torch.linalg.qr(module.B.float() * module.scale)
            Q_right, R_right = torch.linalg.qr(module.A.float().T)
            U, S, Vh = torch.linalg.svd(R_left @ R_right.T)
            found[path] = (Q_left @ U, S, Q_right @ Vh.T)
        return cls(modules=found)

    def costs(self) -> dict[str, int]:
        """Return the parameters that one direction of each module takes."""
        return {path: len(U) + len(V) for path, (U, _, V) in self.modules.items()}

    def ranks(self, threshold: float) -> dict[str, int]:
        """Return how many singular values of each module are at least the threshold."""
        return {path: int(torch.count_nonzero(S.ge(threshold))) for path, (_, S, _) in self.modules.items()}

    def parameters(self, threshold: float) -> int:
        """Return the parameters of an adapter cut at the threshold."""
        costs = self.costs()
        return sum(costs[path] * rank for path, rank in self.ranks(threshold).items())

    def thresholds(self) -> list[float]:
        """Return all singular values above zero, the largest first: each is where one more direction stays."""
        values = torch.cat([S for _, S, _ in self.modules.values()])
        return sorted({float(value) for value in values if value > 0}, reverse=True)

    def factors(self, ranks: Mapping[str, int]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return evenly scaled A [r, in] and B [out, r] of each module cut to its rank; none where that is 0."""
        found = {}
        for path, (U, S, V) in self.modules.items():
            if rank := ranks.get(path, 0):
                root = S[:rank].sqrt()
                found[path] = ((V[:, :rank] * root).T.contiguous(), U[:, :rank] * root)
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """What one threshold costs: the adapter's parameters and held-out loss."""

    threshold: float
    parameters: int
    loss: float


def choose(
    spectrum: Spectrum,
    loss_at: Callable[[float], float],
    *,
    full_loss: float,
    tolerance: float,
    budget: int | None,
) -> tuple[float, list[Choice]]:
    """Find the highest threshold whose held-out loss is at most `tolerance` above the uncut adapter's.

    Fewer directions rarely do better, so the thresholds are halved by what is measured.

    Args:
        spectrum: of the trained adapter.
        loss_at: measures the adapter cut at a threshold.
        full_loss: of the uncut adapter.
        tolerance: relative, such as 0.005.
        budget: upper bound of parameters; where it asks for a higher threshold than the tolerance allows, it wins.

    Returns:
        The threshold, and everything that was measured on the way.

    """
    thresholds = spectrum.thresholds()
    if not thresholds:
        raise errors.TrainingFailed("the trained adapter is zero: there is no rank to choose")
    most = len(thresholds) - 1
    if budget is not None:
        affordable = [place for place, value in enumerate(thresholds) if spectrum.parameters(value) <= budget]
        if not affordable:
            least = spectrum.parameters(thresholds[0])
            what = f"{budget:,} parameters are fewer than the strongest direction takes ({least:,})"
            raise errors.InvalidSpec(errors.Problem(where="rank_budget", what=what, fix="raise it"))
        most = affordable[-1]
    measured: dict[int, Choice] = {}

    def good(place: int) -> bool:
        if place not in measured:
            value = thresholds[place]
            measured[place] = Choice(threshold=value, parameters=spectrum.parameters(value), loss=loss_at(value))
        return measured[place].loss <= full_loss * (1 + tolerance)

    low, high = 0, most
    # The last one is good without measuring where nothing is cut; within a budget it is the best there is.
    while low < high and len(measured) < _EVALUATIONS:
        middle = (low + high) // 2
        if good(middle):
            high = middle
        else:
            low = middle + 1
    good(high)
    return thresholds[high], sorted(measured.values(), key=lambda choice: choice.parameters)
