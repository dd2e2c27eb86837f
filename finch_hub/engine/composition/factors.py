"""Low-rank update of one module."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Factors:
    """The update ``B @ A`` of one module: B [out, rank], A [rank, in]."""

    B: Tensor
    A: Tensor

    @property
    def rank(self) -> int:
        """Inner dimension, which is an upper bound of the update's rank."""
        return self.A.shape[0]

    @property
    def is_finite(self) -> bool:
        """Whether neither factor holds NaN or infinity."""
        return bool(self.A.isfinite().all() and self.B.isfinite().all())

    def scaled(self, weight: float) -> Factors:
        """Return the update times a weight."""
        return Factors(B=self.B * weight, A=self.A)

    def leading(self, rank: int | None) -> Factors:
        """Return the first `rank` columns of B and rows of A; None returns all."""
        return Factors(B=self.B[:, :rank], A=self.A[:rank])
