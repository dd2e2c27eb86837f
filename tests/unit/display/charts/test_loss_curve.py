"""The loss curve, for short, long, level, huge and broken trainings."""

from __future__ import annotations

import math

import pytest
from support.evidence import make_curve
from support.pictures import check_picture, list_texts

from finch_hub.display.charts.loss_curve import chart_losses, smooth
from finch_hub.specs.evidence import LossCurve


def level(loss: float, count: int = 5) -> LossCurve:
    return LossCurve.of_points([(n, loss, 1e-4) for n in range(count)], [])


@pytest.mark.parametrize(
    "curve",
    [
        make_curve(30, 6),
        make_curve(1000, 25),
        make_curve(0, 3),
        make_curve(1, 0),
        make_curve(0, 1),
        level(0.0),
        level(-1.5),
        level(1e299),
        LossCurve.of_points([(0, 1e-9, 1.0), (10**9, 1e9, 1.0)], [(5, 0.0, 0.0)]),
    ],
)
def test_curve_is_drawn_within_its_frame(curve: LossCurve) -> None:
    chart = chart_losses(curve)
    assert chart is not None
    texts = list_texts(check_picture(chart.draw_svg()))
    assert {"Loss by step", "step"} <= set(texts)
    assert ("training" in texts) == bool(curve.steps)
    assert ("held out" in texts) == bool(curve.evaluated_steps)
    assert 0 < len(chart.rows) <= 20
    assert {len(row) for row in chart.rows} == {len(chart.columns)}


def test_losses_that_are_not_finite_are_left_out() -> None:
    curve = LossCurve.model_construct(
        steps=(1, 2, 3), train_loss=(math.nan, 2.0, math.inf), learning_rate=(0, 0, 0),
        evaluated_steps=(3,), held_out_loss=(math.nan,), held_out_accuracy=(math.nan,),
    )  # fmt: skip
    chart = chart_losses(curve)
    assert chart is not None
    assert "held out" not in list_texts(check_picture(chart.draw_svg()))
    assert [row[1] for row in chart.rows] == ["not finite", "2.000", "not finite"]
    assert chart_losses(LossCurve.model_construct(**curve.model_dump() | {"train_loss": (math.nan,) * 3})) is None
    assert chart_losses(LossCurve()) is None


def test_many_points_are_smoothed_and_still_shown() -> None:
    few, many = chart_losses(make_curve(59, 2)), chart_losses(make_curve(60, 2))
    assert few is not None
    assert many is not None
    assert len(few.specification["layer"]) == 2
    thin, bold, _ = many.specification["layer"]
    assert thin["data"]["values"][0]["loss"] == pytest.approx(make_curve(60, 2).train_loss[0], rel=1e-5)
    assert thin["mark"]["strokeWidth"] < bold["mark"]["strokeWidth"]
    assert many.note


def test_moving_average_of_a_line_is_the_line_and_that_of_a_wave_its_mean() -> None:
    line = [(step, 2.0 * step) for step in range(100)]
    assert [loss for _, loss in smooth(line)[10:90]] == pytest.approx([loss for _, loss in line[10:90]])
    wave = [(step, 5.0 + (-1) ** step) for step in range(480)]
    assert all(abs(loss - 5) < 0.06 for _, loss in smooth(wave)[20:460])


def test_large_range_has_a_log_scale() -> None:
    chart = chart_losses(LossCurve.of_points([(0, 20.0, 1.0), (1, 0.1, 1.0)], []))
    assert chart is not None
    assert chart.specification["encoding"]["y"]["scale"] == {"type": "log"}


def test_table_has_the_loss_of_the_training_before_each_evaluation() -> None:
    chart = chart_losses(LossCurve.of_points([(2, 3.0, 1.0), (4, 2.0, 1.0)], [(0, 4.0, 0.1), (3, 2.5, 0.25)]))
    assert chart is not None
    assert chart.rows == (("0", "-", "4.000", "10.0%"), ("3", "3.000", "2.500", "25.0%"))
