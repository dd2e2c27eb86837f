"""Spectrum of an adapter's updates, and the choice of a threshold."""

from __future__ import annotations

import pytest
import torch
from support.training import adapted, dense_updates

from finch_hub import errors
from finch_hub.engine.bases.base import Base
from finch_hub.engine.rank.spectrum import Spectrum, choose_threshold


def test_spectrum_equals_that_of_the_dense_update(tiny_base: Base) -> None:
    weights = adapted(tiny_base).weights()
    spectrum = Spectrum.of(weights)
    for path, update in dense_updates(weights).items():
        U, S, V = spectrum.modules[path]
        assert torch.allclose(S, torch.linalg.svdvals(update)[: len(S)], atol=1e-5)
        assert torch.allclose(U * S @ V.T, update, atol=1e-5)


def spectrum_of(*values: float) -> Spectrum:
    """Return a spectrum with one module, of three inputs and outputs, for each two values."""
    pairs = [torch.tensor(values[place : place + 2]) for place in range(0, len(values), 2)]
    return Spectrum(
        modules={f"m{number}": (torch.eye(3)[:, :2], pair, torch.eye(3)[:, :2]) for number, pair in enumerate(pairs)}
    )


def test_choose_threshold_finds_the_highest_within_the_tolerance() -> None:
    spectrum = spectrum_of(8.0, 1.0, 6.0, 4.0, 3.0, 2.0)

    def loss_at(threshold: float) -> float:
        return 1.0 if threshold <= 3.5 else 2.0

    threshold, choices = choose_threshold(spectrum, loss_at, full_loss=1.0, tolerance=0.01, budget=None)
    assert threshold == 3.0
    assert spectrum.ranks(threshold) == {"m0": 1, "m1": 2, "m2": 1}
    chosen = next(choice for choice in choices if choice.threshold == threshold)
    assert (chosen.parameters, chosen.loss) == (4 * 6, 1.0)
    assert all(choice.loss == loss_at(choice.threshold) for choice in choices)


@pytest.mark.parametrize(("budget", "kept"), [(36, 6), (30, 5), (13, 2), (6, 1)])
def test_choose_threshold_keeps_the_budget_whatever_the_loss(budget: int, kept: int) -> None:
    spectrum = spectrum_of(8.0, 1.0, 6.0, 4.0, 3.0, 2.0)
    threshold, _ = choose_threshold(spectrum, lambda _: 2.0, full_loss=1.0, tolerance=0.0, budget=budget)
    assert sum(spectrum.ranks(threshold).values()) == kept


def test_a_budget_below_one_direction_is_refused() -> None:
    with pytest.raises(errors.InvalidSpec, match="rank_budget"):
        choose_threshold(spectrum_of(1.0, 0.5), lambda _: 1.0, full_loss=1.0, tolerance=0.0, budget=5)
