"""Geometry of low-rank updates: norms and overlaps from the factors, without making a full matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finch_hub.formats.float_conversion import Float32

_TOLERANCE = 1e-5
"""Singular values below this share of the largest are rounding errors."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class UpdateSpectrum:
    """Thin singular value decomposition ``ΔW = U diag(S) Vᵀ`` of an update ``s B A [out, in]``.

    `left` is U [out, k], `values` is S [k] and `right` is V [in, k], for the k singular values that are no rounding
    errors.
    """

    left: NDArray[Any]
    values: NDArray[Any]
    right: NDArray[Any]

    @classmethod
    def of(cls, A: Float32, B: Float32, scale: float) -> UpdateSpectrum:
        """Decompose the update of A [rank, in] and B [out, rank].

        With ``B = Q_B R_B`` and ``Aᵀ = Q_A R_A``, only ``R_B R_Aᵀ [rank, rank]`` is decomposed.
        """
        left_basis, left_rest = np.linalg.qr(B.astype(np.float64))
        right_basis, right_rest = np.linalg.qr(A.T.astype(np.float64))
        left, values, right = np.linalg.svd(scale * (left_rest @ right_rest.T), full_matrices=False)
        count = int((values > _TOLERANCE * values[:1]).sum())
        return cls(left=left_basis @ left[:, :count], values=values[:count], right=right_basis @ right[:count].T)

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs of the module."""
        return len(self.left), len(self.right)

    @property
    def norm(self) -> float:
        """Frobenius norm of the update."""
        return float(np.linalg.norm(self.values))

    def inner(self, other: UpdateSpectrum) -> float:
        """Return the inner product of two updates as vectors, ``Σ (Uᵀ U') ∘ (Vᵀ V') ∘ (S S'ᵀ)``."""
        products = (self.left.T @ other.left) * (self.right.T @ other.right)
        return float(self.values @ products @ other.values)

    def output_overlap(self, other: UpdateSpectrum) -> float:
        """Return ``‖Uᵀ U'‖²_F / min(k, k')``, 0 to 1."""
        return _overlap(self.left, other.left)

    def input_overlap(self, other: UpdateSpectrum) -> float:
        """Return ``‖Vᵀ V'‖²_F / min(k, k')``, 0 to 1."""
        return _overlap(self.right, other.right)


def _overlap(first: NDArray[Any], second: NDArray[Any]) -> float:
    least = min(first.shape[1], second.shape[1])
    return min(1.0, float(np.square(first.T @ second).sum()) / least) if least else 0.0
