"""Batched linear algebra of small matrices in stacks ``[..., rows, columns]``.

Callers reduce tall factors to Gram matrices in float64. That is many times faster than a QR or SVD of the factors. With
one step of re-orthonormalization for a wide spectrum it is accurate to float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = 1e-6
"""Relative strength below which a direction is rounding error, because adapters are stored in float32 or less."""


def spectrum(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return the singular values and right singular vectors of X from ``XᵀX [..., r, r]``, largest first.

    Values below TOLERANCE of the largest become exactly zero.
    """
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp(min=0).sqrt().flip(-1)
    values = torch.where(values > TOLERANCE * values[..., :1], values, 0.0)
    return values, vectors.flip(-1)


def inverse(values: Tensor) -> Tensor:
    """Return 1 / x, and 0 where x is 0."""
    return torch.where(values > 0, 1 / values.where(values > 0, 1.0), 0.0)


def thin_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return U [..., p, rank], S [..., rank], Vᵀ [..., rank, q] of the leading singular triplets."""
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return U[..., :rank], S[..., :rank], Vh[..., :rank, :]


def polar(matrix: Tensor) -> Tensor:
    """Return the nearest matrix with orthonormal columns, ``X (XᵀX)^{-1/2}``. A null direction of X stays null.

    If X has more columns than its rank, the result has orthonormal rows within the span instead.
    """
    values, vectors = spectrum(matrix.mT @ matrix)
    return (matrix @ vectors) * inverse(values).unsqueeze(-2) @ vectors.mT


def projector(matrix: Tensor) -> Tensor:
    """Return the orthogonal projector [..., p, p] onto the column space of a matrix [..., p, k]."""
    values, vectors = spectrum(matrix @ matrix.mT)
    # This is the Gram matrix of the transpose, so `vectors` are the left singular vectors of the matrix.
    basis = vectors * (values > 0).unsqueeze(-2)
    return basis @ basis.mT


def zero_rounding_errors(cores: Tensor, norms: Tensor) -> Tensor:
    """Return cores [T, n, p, q] whose rounding errors are 0, relative to the parents' norms [T, n].

    A vote counts signs, so a rounding error would count as much as a real value.
    """
    return cores.masked_fill(cores.abs() <= TOLERANCE * norms[..., None, None], 0.0)


def elect_sign(cores: Tensor) -> Tensor:
    """Return the sign of the sum over the parents, [n, p, q] from cores [T, n, p, q].

    The sign is 0 if the positive and negative sums cancel except for rounding.
    """
    total = cores.sum(0)
    return total.sign() * (total.abs() > TOLERANCE * cores.abs().sum(0))
