"""Ranking of the points of a sweep by held-out loss, with what the differences mean."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from finch_hub.specs.reports import TrainingReport
from finch_hub.specs.sweeps import SweepPoint, SweepReport
from finch_hub.texts.counts import format_count

LEAST_EXAMPLES = 8
"""Held-out examples below which the spread of their losses says little."""
_CONFIDENCE = 0.95


class Trained(NamedTuple):
    """A point, and the report of its training if it has succeeded."""

    point: SweepPoint
    report: TrainingReport | None


def rank_points(sweep_id: str, adapter: str, trained: Sequence[Trained]) -> SweepReport:
    """Return the points, the lowest held-out loss first, each with its difference to the best one.

    Two points are compared example by example, since the same examples are hard for both. The intervals are Student's,
    at a level that holds for all pairs of points at once (Bonferroni), since the best one is known by the same losses.
    They say how far the held-out examples are like others. They do not cover how another seed would train an adapter.
    """
    measured = {each.point.number: each.report for each in trained if each.report is not None and each.report.after}
    order = sorted(trained, key=lambda each: (_loss_of(each.report), each.point.number))
    if not measured:
        points = tuple(each.point for each in order)
        return SweepReport(id=sweep_id, adapter=adapter, points=points, advice=tuple(_advise_before(points)))
    best = order[0]
    points = tuple(_measure(each, best.report, comparisons=len(measured) * (len(measured) - 1) // 2) for each in order)
    examples = len(_example_losses(best.report))
    equal = [point for point in points if point.number == best.point.number or point.is_close]
    smallest = min(equal, key=lambda point: (point.parameters or 0, point.loss or 0.0, point.number))
    report = SweepReport(
        id=sweep_id, adapter=adapter, points=points, examples=examples, best=best.point.number, smallest=smallest.number
    )
    return report.evolve(advice=tuple(_advise(report)))


def _measure(each: Trained, best: TrainingReport | None, *, comparisons: int) -> SweepPoint:
    """Return the point with the figures of its training."""
    report = each.report
    if report is None or report.after is None:
        return each.point
    point = each.point.evolve(loss=report.after.loss, parameters=report.trainable_parameters, seconds=report.seconds)
    if report is best:
        return point
    pairs = list(zip(_example_losses(report), _example_losses(best), strict=False))
    if len(pairs) < 2 or len(_example_losses(report)) != len(_example_losses(best)):
        return point
    differences = [own - other for own, other in pairs]
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    reach = _student(1 - (1 - _CONFIDENCE) / (2 * comparisons), len(differences) - 1) * error
    return point.evolve(difference=mean, low=mean - reach, high=mean + reach)


def _student(probability: float, freedom: int) -> float:
    """Return the quantile of Student's distribution, 0.5 to 1, by bisection of its integral."""
    low, high = 0.0, 1.0
    while _student_share(high, freedom) < probability:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_share(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def _student_share(value: float, freedom: int) -> float:
    """Return the probability of less than a value that is not negative (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(value / math.sqrt(freedom))
    squared = math.cos(angle) ** 2
    total = term = 1.0 if freedom % 2 == 0 else math.cos(angle)
    for count in range(2 if freedom % 2 == 0 else 3, freedom - 1, 2):
        term *= squared * (count - 1) / count
        total += term
    if freedom % 2 == 0:
        share = math.sin(angle) * total
    else:
        share = 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))
    return 0.5 + share / 2


def _advise_before(points: Sequence[SweepPoint]) -> Iterator[str]:
    if all(point.state in ("failed", "cancelled") for point in points):
        yield "No training has succeeded. Start the same sweep again to try those that failed once more."


def _advise(report: SweepReport) -> Iterator[str]:
    points = {point.number: point for point in report.points}
    best, smallest = points[report.best or 0], points[report.smallest or 0]
    measured = [point for point in report.points if point.loss is not None]
    others = "all others" if len(measured) == len(report.points) else f"the other {len(measured) - 1} that have a loss"
    on_examples = f"on {format_count(report.examples, 'held-out example')}"
    close = [point for point in measured if point.is_close]
    if len(measured) < 2:
        so_far = "" if report.is_finished else " so far"
        yield f"Only {best.adapter} has a held-out loss{so_far}."
    elif report.examples < LEAST_EXAMPLES:
        yield f"The differences mean little: they are {on_examples}. Hold out more."
    elif close:
        names = format_count(len(close) + 1, "point")
        yield f"The differences between the best {names} mean nothing {on_examples}."
        if smallest.number != best.number:
            yield f"{smallest.adapter} is the smallest of them: choose it unless you can measure on more examples."
    else:
        yield f"{best.adapter} is better than {others} {on_examples}."
    yield from _advise_edges(best, measured)


def _advise_edges(best: SweepPoint, measured: Sequence[SweepPoint]) -> Iterator[str]:
    """Yield an advice for each setting whose best value is at the end of those that were tried."""
    for name, value in best.settings.items():
        tried = [number for point in measured if (number := _to_number(point.settings.get(name))) is not None]
        number = _to_number(value)
        others = [point for point in measured if point.settings.get(name) != value]
        if number is None or not others or not all(point.low is not None and point.low > 0 for point in others):
            continue
        if number == max(tried):
            yield f"The best {name} is the largest that was tried: try larger ones."
        elif number == min(tried):
            yield f"The best {name} is the smallest that was tried: try smaller ones."


def _to_number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _loss_of(report: TrainingReport | None) -> float:
    return report.after.loss if report is not None and report.after is not None else math.inf


def _example_losses(report: TrainingReport | None) -> tuple[float, ...]:
    return report.after.example_losses if report is not None and report.after is not None else ()
