"""Batched linear algebra compared with NumPy, at full and deficient rank."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from finch_hub.engine.numerics import linalg


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_polar_is_the_nearest_orthonormal_matrix() -> None:
    X = random(2, 7, 4)
    for mine, matrix in zip(linalg.polar(X), X, strict=True):
        U, _, Vh = np.linalg.svd(matrix.numpy(), full_matrices=False)
        assert np.allclose(mine.numpy(), U @ Vh, atol=1e-9)


def test_polar_of_more_columns_than_rows_has_orthonormal_rows() -> None:
    made = linalg.polar(random(1, 3, 5))[0]
    assert torch.allclose(made @ made.T, torch.eye(3, dtype=torch.float64), atol=1e-9)


def test_polar_leaves_null_columns_null() -> None:
    X = random(1, 6, 3)
    X[..., 1] = 0
    made = linalg.polar(X)[0]
    assert not made[:, 1].any()
    assert torch.allclose(made[:, [0, 2]].T @ made[:, [0, 2]], torch.eye(2, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_projector_projects_onto_the_column_space(rank: int) -> None:
    X = random(1, 5, rank) @ random(1, rank, 4, seed=1)
    P = linalg.projector(X)[0]
    assert torch.allclose(P @ P, P, atol=1e-9)
    assert torch.allclose(P @ X[0], X[0], atol=1e-9)
    assert float(P.trace()) == pytest.approx(rank, abs=1e-9)


def test_spectrum_cuts_rounding_to_zero() -> None:
    X = random(4, 3) @ torch.diag(torch.tensor([1.0, 1e-3, 1e-9], dtype=torch.float64))
    values, vectors = linalg.spectrum(X.mT @ X)
    assert np.allclose(values[:2].numpy(), np.linalg.svd(X.numpy(), compute_uv=False)[:2], rtol=1e-6)
    assert values[2] == 0
    assert torch.allclose(vectors.mT @ vectors, torch.eye(3, dtype=torch.float64), atol=1e-12)
    zeros, _ = linalg.spectrum(torch.zeros(2, 3, 3, dtype=torch.float64))
    assert not zeros.any()


def test_inverse_of_zero_is_zero() -> None:
    assert linalg.inverse(torch.tensor([2.0, 0.0])).tolist() == [0.5, 0.0]


def test_sign_of_sums_that_cancel_is_zero() -> None:
    cores = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64).view(1, 1, 1, 3)
    other = torch.tensor([-1.0 + 1e-9, 1.0, -1.0], dtype=torch.float64).view(1, 1, 1, 3)
    assert linalg.elect_sign(torch.cat([cores, other])).flatten().tolist() == [0.0, 1.0, -1.0]
