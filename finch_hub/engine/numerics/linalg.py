"""Batched linear algebra of small matrices; every function takes and returns stacks ``[..., rows, columns]``.

Tall factors are only ever seen through their Gram matrices in float64, which is many times faster than a QR or SVD
of them and, followed by one step of re-orthonormalisation where the spectrum is wide, as accurate as float32 can use.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Directions weaker than this, relative to the strongest, are rounding: adapters are stored as float32 or less.
TOLERANCE = 1e-6


def spectrum(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return the singular values and right singular vectors of X from ``XᵀX [..., r, r]``, largest first.

    Values below TOLERANCE of the largest are exactly zero, and so is everything of a zero matrix.
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
    """Return the nearest matrix with orthonormal columns, ``X (XᵀX)^{-1/2}``; a null direction of X stays null.

    Where the columns are more than they span, the result has orthonormal rows within that span instead.
    """
    values, vectors = spectrum(matrix.mT @ matrix)
    return (matrix @ vectors) * inverse(values).unsqueeze(-2) @ vectors.mT


def projector(matrix: Tensor) -> Tensor:
    """Return the orthogonal projector [..., p, p] onto the column space of a matrix [..., p, k]."""
    values, vectors = spectrum(matrix @ matrix.mT)
    # The Gram matrix here is of the transpose, so `vectors` are the matrix's own left singular vectors.
    basis = vectors * (values > 0).unsqueeze(-2)
    return basis @ basis.mT


def elected_sign(cores: Tensor) -> Tensor:
    """Return the sign (-1, 0, 1) of the summed mass over the parents, [n, p, q] of cores [T, n, p, q].

    Sides whose masses are equal but for rounding elect nobody.
    """
    total = cores.sum(0)
    return total.sign() * (total.abs() > TOLERANCE * cores.abs().sum(0))
