"""Ranking of the points of a sweep."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

import pytest

from finch_hub.hub.sweep_ranking import Trained, _student, rank_points
from finch_hub.specs.jobs import JobState
from finch_hub.specs.reports import DataReport, TokenMetrics, TrainingReport
from finch_hub.specs.sweeps import SweepPoint, SweepReport


def make_trained(number: int, losses: Sequence[float], *, parameters: int = 100, **settings: object) -> Trained:
    point = SweepPoint(
        number=number, settings=dict(settings), job=f"j{number}", state=JobState.SUCCEEDED, adapter=f"a/{number}"
    )
    after = TokenMetrics(
        loss=statistics.fmean(losses), accuracy=0.5, tokens=90, examples=len(losses), example_losses=tuple(losses)
    )
    data = DataReport(examples=9, tokens=90, label_tokens=40, length_mean=9.0, length_p95=12, length_max=12)
    report = TrainingReport(
        steps=3,
        epochs=1.0,
        tokens=90,
        seconds=2.0,
        train_loss=2.0,
        after=after,
        trainable_parameters=parameters,
        total_parameters=1000,
        data=data,
    )
    return Trained(point, report)


def rank(*trained: Trained) -> SweepReport:
    return rank_points("s", "a", trained)


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.3027), (0.975, 9, 2.2622), (0.995, 10, 3.1693), (0.95, 200, 1.6525)],
)
def test_quantiles_are_those_of_the_tables(probability: float, freedom: int, quantile: float) -> None:
    assert _student(probability, freedom) == pytest.approx(quantile, abs=1e-4)


def test_points_are_ranked_by_loss_with_their_differences() -> None:
    chosen = random.Random(0)
    best = [chosen.uniform(1, 3) for _ in range(40)]
    worse = [loss + 0.5 + chosen.uniform(-0.1, 0.1) for loss in best]
    report = rank(make_trained(1, worse, rank=8), make_trained(2, best, rank=16))
    assert [point.number for point in report.points] == [2, 1]
    assert (report.best, report.smallest, report.examples) == (2, 2, 40)
    low, difference, high = (report.points[1].low, report.points[1].difference, report.points[1].high)
    assert difference is not None
    assert low is not None
    assert high is not None
    assert 0.4 < low < difference < high < 0.6
    assert report.points[0].difference is None
    assert report.advice == (
        "a/2 is better than all others on 40 held-out examples.",
        "The best rank is the largest that was tried: try larger ones.",
    )


def test_of_points_that_the_examples_do_not_tell_apart_the_smallest_is_named() -> None:
    chosen = random.Random(1)
    best = [chosen.uniform(1, 3) for _ in range(20)]
    equal = [loss + (0.35 if number % 2 else -0.25) for number, loss in enumerate(best)]
    report = rank(
        make_trained(1, equal, parameters=50, rank=8),
        make_trained(2, best, parameters=100, rank=16),
        make_trained(3, [loss + 1 for loss in best], parameters=10, rank=2),
    )
    assert report.best is not None
    assert report.smallest == 1
    by_number = {point.number: point for point in report.points}
    assert by_number[3].difference == pytest.approx(1.0)
    assert not by_number[3].is_close
    assert report.advice[0] == "The differences between the best 2 points mean nothing on 20 held-out examples."
    assert report.advice[1].startswith("a/1 is the smallest of them")


@pytest.mark.parametrize("count", [2, 5, 10])
def test_intervals_hold_for_all_comparisons_at_once(count: int) -> None:
    """Of sweeps whose points are equally good, few call one of them better, though the best one was chosen."""
    wrong = 0
    for seed in range(300):
        chosen = random.Random(seed)
        hardness = [chosen.uniform(1, 3) for _ in range(12)]
        points = [
            make_trained(number, [loss + chosen.gauss(0, 0.2) for loss in hardness], rank=number)
            for number in range(1, count + 1)
        ]
        wrong += not all(point.is_close for point in rank(*points).points[1:])
    assert wrong / 300 <= 0.06


def test_few_examples_say_little() -> None:
    report = rank(make_trained(1, [1.0, 2.0], rank=8), make_trained(2, [1.1, 2.3], rank=16))
    assert report.advice == ("The differences mean little: they are on 2 held-out examples. Hold out more.",)


def test_points_without_a_loss_come_last() -> None:
    failed = Trained(
        SweepPoint(number=1, settings={"rank": 4}, job="j1", state=JobState.FAILED, reason="no memory"), None
    )
    report = rank(failed, make_trained(2, [1.0, 2.0], rank=8))
    assert [point.number for point in report.points] == [2, 1]
    assert report.best == 2
    assert report.is_finished
    assert rank(failed).advice[0].startswith("No training has succeeded.")
    waiting = Trained(failed.point.evolve(state=JobState.QUEUED, reason=None), None)
    assert rank(failed, waiting).advice == ()
    assert not rank(failed, waiting).is_finished
