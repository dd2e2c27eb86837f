from __future__ import annotations

from finch_hub.engine.training.loss_curve import CurveRecorder
from finch_hub.specs.evidence import MAX_POINTS, LossCurve

STEPS = 5000


def record(recorder: CurveRecorder, first: int, last: int) -> None:
    for step in range(first, last + 1):
        recorder.add(step, 10 / step, 1e-4)
        recorder.add_evaluation(step, 5 / step, 0.5)


def test_recorder_keeps_a_bounded_number_of_points() -> None:
    recorder = CurveRecorder()
    record(recorder, 1, STEPS)
    assert len(recorder.curve().steps) <= 2 * MAX_POINTS
    assert len(recorder.curve().evaluated_steps) <= 4 * MAX_POINTS


def test_curve_that_went_through_checkpoints_equals_an_uninterrupted_one() -> None:
    whole, resumed = CurveRecorder(), CurveRecorder()
    record(whole, 1, STEPS)
    done = 0
    for stop in (3, 481, 700, 2500, STEPS):
        record(resumed, done + 1, stop)
        stored = resumed.curve().model_dump_json()
        resumed = CurveRecorder()
        resumed.restore(LossCurve.of(stored))
        done = stop
    assert resumed.curve() == whole.curve()
    assert resumed.curve().thinned() == whole.curve().thinned()
