from __future__ import annotations

import math

import pytest

from finch_hub.engine.composition import retention
from finch_hub.specs.jobs import ComposeSpec, Parent
from finch_hub.specs.reports import TokenMetrics


def metrics(*losses: float) -> TokenMetrics:
    """Metrics of examples of one token each."""
    loss = sum(losses) / len(losses)
    return TokenMetrics(loss=loss, accuracy=0.0, tokens=len(losses), examples=len(losses), example_losses=tuple(losses))


BASE = metrics(2.0, 2.0, 2.0, 2.0)


def test_retention_is_the_kept_share_of_the_gain() -> None:
    own = metrics(1.0, 1.1, 0.9, 1.0)
    assert retention.compute(BASE, own, metrics(1.25, 1.25, 1.25, 1.25)) == pytest.approx(0.75)
    assert retention.compute(BASE, own, own) == pytest.approx(1.0)
    assert retention.compute(BASE, own, metrics(3.0, 3.0, 3.0, 3.0)) == pytest.approx(-1.0)
    assert retention.compute(BASE, None, own) is None


def test_gain_is_more_than_two_paired_standard_errors() -> None:
    """Four differences with mean 1 and a standard deviation of s have a standard error of s / 2."""
    for spread, expected in ((0.98, True), (1.02, False)):
        step = spread * math.sqrt(3) / 2
        differences = (1 - step, 1 - step, 1 + step, 1 + step)
        own = metrics(*(2.0 - difference for difference in differences))
        assert retention.has_gained(BASE, own) is expected, spread
    assert not retention.has_gained(BASE, BASE)
    assert not retention.has_gained(BASE, metrics(2.5, 2.5, 2.5, 2.5))


def test_single_example_gains_by_its_loss_alone() -> None:
    assert retention.has_gained(metrics(2.0), metrics(1.9))
    assert not retention.has_gained(metrics(2.0), metrics(2.0))


def test_worst_is_the_smallest_over_the_parents_that_gained() -> None:
    own = metrics(1.0, 1.0, 1.0, 1.0)
    base, owns = [BASE, BASE, BASE, None], [own, own, BASE, None]
    composed = [metrics(1.5, 1.5, 1.5, 1.5), own, metrics(9.0, 9.0, 9.0, 9.0), None]
    assert retention.compute_worst(base, owns, composed) == pytest.approx(0.5)
    assert retention.compute_worst([BASE], [BASE], [own]) is None


@pytest.mark.parametrize(
    ("own", "composed", "is_below"),
    [
        (1.0, 1.05, False),  # keeps 0.95
        (1.0, 1.2, True),  # keeps 0.8
        (2.0, 1.9, False),  # gained nothing, and is better than the base
        (2.0, 2.0, False),
        (2.0, 2.1, True),  # gained nothing, and is worse than the base
    ],
)
def test_parents_below_the_minimum_are_named(own: float, composed: float, is_below: bool) -> None:
    line = retention.make_line(
        "birds", base=BASE, own=metrics(*[own] * 4), composed=metrics(*[composed] * 4), linear=BASE
    )
    assert line.status == ("undefined" if own == 2.0 else "measured")
    assert retention.find_below([line], 0.9) == (("birds",) if is_below else ())
    assert retention.find_below([line], None) == ()


def test_parent_without_rows_is_below_any_minimum() -> None:
    line = retention.make_line("birds", base=None, own=None, composed=None)
    assert (line.status, line.retention) == ("unmeasured", None)
    below = retention.find_below([line], 0.0)
    assert below == ("birds",)
    (advice,) = retention.advise([line], below, is_divided=True)
    assert "add validation rows" in advice


def test_advice_fits_what_became_of_the_parent() -> None:
    worse, kept_little, gained_nothing = (
        retention.make_line(name, base=BASE, own=metrics(*[own] * 4), composed=metrics(*[composed] * 4))
        for name, own, composed in (("worse", 2.0, 2.5), ("little", 1.0, 1.5), ("nothing", 2.0, 1.0))
    )
    lines = (worse, kept_little, gained_nothing)
    advice = retention.advise(lines, retention.find_below(lines, 0.9), is_divided=False)
    assert [line.split(" (")[0] for line in advice[:3]] == [
        "worse is worse than the base",
        "little keeps 0.50 of its gain",
        "nothing gains less than two standard errors over the base on its rows",
    ]
    assert "too few validation rows" in advice[3]


def test_advice_names_only_what_can_be_done() -> None:
    lines = [
        retention.make_line(name, base=BASE, own=metrics(*[1.0] * 4), composed=metrics(*[composed] * 4))
        for name, composed in (("a/1", 1.5), ("b/1", 1.0))
    ]
    parents = (Parent(adapter="a/1"), Parent(adapter="b/1"))
    spec = ComposeSpec(adapter="both", parents=parents, rank=16, min_retention=0.9)
    (cut,) = retention.advise_next(lines, spec, rank=16, max_rank=32)
    command = "finch-hub compose a/1 b/1 --adapter both --weights 1.5,1 --rank 32 --min-retention 0.9"
    assert f"`{command}`" in cut
    (whole,) = retention.advise_next(lines, spec, rank=32, max_rank=32)
    assert "--rank" not in whole
    (both,) = retention.advise_next([lines[0], lines[0]], spec, rank=32, max_rank=32)
    assert "no weights and no rank" in both
    assert retention.advise_next([lines[1], lines[1]], spec, rank=32, max_rank=32) == ()
