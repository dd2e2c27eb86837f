"""Orthonormal bases of stacked factors, computed from their Gram matrices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from finch_hub.engine.numerics import linalg


@dataclass(frozen=True, kw_only=True, slots=True)
class Basis:
    """Left singular bases ``Q = stacked @ transform`` of n stacks of balanced factors.

    Most users need only the product of Q and a thin matrix. The product of the two parts is cheaper and needs no
    memory for Q.

    Attributes:
        stacked: factors of the parents side by side [n, rows, R], float32, as they are stored.
        transform: transform [n, R, p], float64, that makes the columns of `stacked` orthonormal.
        values: singular values [n, p] of the balanced factors, largest first, float64.
    """

    stacked: Tensor
    transform: Tensor
    values: Tensor

    def __matmul__(self, other: Tensor) -> Tensor:
        """Return ``Q @ other [n, rows, k]`` in float32, for float64 coordinates [n, p, k]."""
        return self.stacked @ (self.transform @ other).float()

    def form(self) -> Tensor:
        """Return Q [n, rows, p] in float32."""
        return (self.stacked.double() @ self.transform).float()

    def select(self, mask: Tensor, width: int) -> Basis:
        """Return the bases that a mask [n] selects, with their first `width` columns only."""
        return Basis(
            stacked=self.stacked if bool(mask.all()) else self.stacked[mask],
            transform=self.transform[mask][..., :width],
            values=self.values[mask][..., :width],
        )


def orthonormalize(stacked: Tensor, gram: Tensor, balance: Tensor) -> tuple[Basis, Tensor]:
    """Return the basis Q of ``stacked @ balance``, and the coordinates ``Qᵀ stacked balance [n, R, R]``.

    Args:
        stacked: factors [n, rows, R].
        gram: ``stackedᵀ stacked [n, R, R]``, float64.
        balance: transform [n, R, R] that balances each parent, float64.
    """
    values, E = linalg.spectrum(balance.mT @ gram @ balance)
    transform = balance @ (E * linalg.inverse(values).unsqueeze(-2))
    coordinates = values.unsqueeze(-1) * E.mT
    smallest = values.masked_fill(values == 0, torch.inf).amin(-1)
    if bool((smallest < 1e-4 * values[..., 0]).any()):
        # The Gram matrix squares the condition number. With a wide spectrum Q is orthonormal to a few digits only.
        # A second pass (CholeskyQR2, arXiv 1401.5334) gives full precision.
        Q = stacked.double() @ transform
        C = torch.linalg.cholesky(Q.mT @ Q + torch.diag_embed((values == 0).double()))
        transform = torch.linalg.solve_triangular(C.mT, transform, upper=True, left=False)
        coordinates = C.mT @ coordinates
    return Basis(stacked=stacked, transform=transform, values=values), coordinates
