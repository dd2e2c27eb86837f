"""Norms and overlaps of low-rank updates, held against those of full matrices."""

from __future__ import annotations

import numpy as np
import pytest

from finch_hub.formats.float_conversion import Float32
from finch_hub.formats.update_geometry import UpdateSpectrum


def make_factors(seed: int, rank: int, shape: tuple[int, int] = (12, 9)) -> tuple[Float32, Float32]:
    rng = np.random.default_rng(seed)
    outputs, inputs = shape
    A, B = rng.normal(size=(rank, inputs)), rng.normal(size=(outputs, rank))
    return A.astype(np.float32), B.astype(np.float32)


def dense_overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return the overlap of two column spaces by the projections on them."""
    projections = [matrix @ np.linalg.pinv(matrix, rcond=1e-5) for matrix in (first, second)]
    least = min(np.linalg.matrix_rank(matrix, rtol=1e-5) for matrix in (first, second))
    return float(np.trace(projections[0] @ projections[1]) / least)


@pytest.mark.parametrize(("rank", "other_rank"), [(1, 1), (2, 4), (8, 3)])
def test_measures_equal_those_of_full_matrices(rank: int, other_rank: int) -> None:
    (A, B), (other_a, other_b) = make_factors(0, rank), make_factors(1, other_rank)
    first, second = UpdateSpectrum.of(A, B, 2.0), UpdateSpectrum.of(other_a, other_b, 0.5)
    full, other = 2.0 * B.astype(float) @ A, 0.5 * other_b.astype(float) @ other_a
    assert first.shape == full.shape
    assert first.norm == pytest.approx(np.linalg.norm(full))
    assert first.inner(second) == pytest.approx((full * other).sum())
    assert first.output_overlap(second) == pytest.approx(dense_overlap(full, other))
    assert first.input_overlap(second) == pytest.approx(dense_overlap(full.T, other.T))


def test_update_equals_itself_however_its_factors_are_balanced() -> None:
    A, B = make_factors(0, 4)
    first, second = UpdateSpectrum.of(A, B, 1.0), UpdateSpectrum.of(A * 8, -B, -0.125)
    assert second.norm == pytest.approx(first.norm)
    assert first.inner(second) == pytest.approx(first.norm**2)
    assert first.output_overlap(second) == pytest.approx(1.0)


def test_zero_update_has_no_norm_and_no_overlap() -> None:
    A, B = make_factors(0, 4)
    zero, other = UpdateSpectrum.of(A, np.zeros_like(B), 1.0), UpdateSpectrum.of(A, B, 1.0)
    assert (zero.norm, zero.inner(other), zero.output_overlap(other), zero.input_overlap(zero)) == (0, 0, 0, 0)
    assert zero.shape == other.shape


def test_rank_that_factors_do_not_use_counts_for_nothing() -> None:
    A, B = make_factors(0, 2)
    doubled = UpdateSpectrum.of(np.concatenate([A, A]), np.concatenate([B, B], axis=1), 0.5)
    assert len(doubled.values) == 2
    assert doubled.output_overlap(UpdateSpectrum.of(A, B, 1.0)) == pytest.approx(1.0)
