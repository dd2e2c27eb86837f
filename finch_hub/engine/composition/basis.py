"""Orthonormal bases of tall stacked factors, found through their Gram matrices and formed only where one asks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from finch_hub.engine.numerics import linalg


@dataclass(frozen=True, kw_only=True, slots=True)
class Basis:
    """The left singular basis ``Q = stacked @ transform`` of n stacks of balanced factors.

    Most of what is done with a basis is one product with something thin, which is cheaper with the two parts than with
    Q, and needs no Q in memory.

    Attributes:
        stacked: the parents' factors side by side [n, rows, R], float32, as they are stored.
        transform: [n, R, p], float64; what is summed has orthonormal columns.
        values: singular values [n, p] of the balanced factors, largest first, float64.

    """

    stacked: Tensor
    transform: Tensor
    values: Tensor

    def __matmul__(self, other: Tensor) -> Tensor:
        """Return ``Q @ other [n, rows, k]``, float32, of float64 coordinates [n, p, k]."""
        return self.stacked @ (self.transform @ other).float()

    def form(self) -> Tensor:
        """Return Q [n, rows, p], float32."""
        return (self.stacked.double() @ self.transform).float()

    def take(self, chosen: Tensor, width: int) -> Basis:
        """Return the bases that a mask [n] chooses, with their first `width` columns only."""
        return Basis(
            stacked=self.stacked if bool(chosen.all()) else self.stacked[chosen],
            transform=self.transform[chosen][..., :width],
            values=self.values[chosen][..., :width],
        )


def find(stacked: Tensor, gram: Tensor, balance: Tensor) -> tuple[Basis, Tensor]:
    """Return the basis of ``stacked @ balance``, and the coordinates ``Qᵀ stacked balance [n, R, R]`` in it.

    Args:
        stacked: [n, rows, R].
        gram: ``stackedᵀ stacked [n, R, R]``, float64.
        balance: [n, R, R], float64, what balances each parent.

    """
    values, E = linalg.spectrum(balance.mT @ gram @ balance)
    transform = balance @ (E * linalg.inverse(values).unsqueeze(-2))
    coordinates = values.unsqueeze(-1) * E.mT
    smallest = values.masked_fill(values == 0, torch.inf).amin(-1)
    if bool((smallest < 1e-4 * values[..., 0]).any()):
        # The Gram matrix squares the condition number, so a wide spectrum leaves Q orthonormal to a few digits only;
        # a second pass (CholeskyQR2, arXiv 1401.5334) brings it to full precision.
        Q = stacked.double() @ transform
        C = torch.linalg.cholesky(Q.mT @ Q + torch.diag_embed((values == 0).double()))
        transform = torch.linalg.solve_triangular(C.mT, transform, upper=True, left=False)
        coordinates = C.mT @ coordinates
    return Basis(stacked=stacked, transform=transform, values=values), coordinates
