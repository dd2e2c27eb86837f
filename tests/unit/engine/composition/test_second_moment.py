"""Second moments, compared with dense matrices."""

from __future__ import annotations

import pytest
import torch

from finch_hub.engine.composition.second_moment import SecondMoment


@pytest.mark.parametrize("size", [1, 7, 64, 100])
def test_moment_equals_the_dense_sum(size: int) -> None:
    inputs = torch.randn(30, size, generator=torch.Generator().manual_seed(size))
    moment = SecondMoment(size)
    moment.add(inputs[:10])
    moment.add(inputs[10:])
    dense = inputs.double().mT @ inputs.double()
    found = moment.normalized()
    torch.testing.assert_close(found, dense / dense.trace(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found, found.mT)


@pytest.mark.parametrize("size", [64, 100, 576])
def test_less_than_the_matrix_is_stored(size: int) -> None:
    stored = sum(block.numel() for block in SecondMoment(size)._blocks)
    assert size * (size + 1) / 2 <= stored < 0.6 * size**2


def test_moment_without_inputs_is_the_identity() -> None:
    assert torch.equal(SecondMoment(5).normalized(), torch.eye(5, dtype=torch.float64) / 5)


def test_inputs_that_are_not_finite_are_not_taken_for_none() -> None:
    moment = SecondMoment(5)
    moment.add(torch.full((2, 5), torch.nan))
    assert moment.normalized().isnan().all()
