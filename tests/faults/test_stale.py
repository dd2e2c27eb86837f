"""An attempt whose lease was lost comes back and ends in every possible way. None of its writes may count.

These tests fail if writes do not check the fence, which `test_the_tests.py` proves.
"""

from __future__ import annotations

import signal

import psutil
import pytest
from support.fleet import Fleet, wait_until

from finch_hub.specs.jobs import JobState


@pytest.mark.parametrize(
    "action", ["nothing", *(pytest.param(action, marks=pytest.mark.slow) for action in ("raise", "print"))]
)
def test_end_of_a_lost_attempt_is_refused(workers: Fleet, action: str) -> None:
    held = workers.folder / "held"
    first = workers.start("first", finch_fault=f"supervisor.ending:hold:{held}")
    job = workers.probe(action, once=True, afterwards=4)
    wait_until(held.exists, "the first attempt to be about to write how it ended")
    workers.pause(first)
    second = workers.start("second")
    workers.wait_begun(job, times=2)
    held.unlink()
    first.send(signal.SIGCONT)
    assert workers.wait(job).state is JobState.SUCCEEDED
    assert [attempt.outcome for attempt in workers.attempts(job)] == ["lost", "succeeded"]
    wait_until(lambda: "action=lost" in first.text, "the first worker to see that it lost the job")
    for worker in (first, second):
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    workers.check(job)
    workers.check_nothing_left()


@pytest.mark.slow
def test_lost_attempt_that_is_told_to_end_hands_nothing_back(workers: Fleet) -> None:
    first = workers.start("first")
    job = workers.probe("hang", once=True, afterwards=4)
    child = psutil.Process(workers.wait_begun(job))
    workers.pause(first)
    workers.start("second")
    workers.wait_begun(job, times=2)
    first.send(signal.SIGTERM)
    first.send(signal.SIGCONT)
    assert first.wait() == 0
    wait_until(lambda: not child.is_running(), "its child to end")
    assert workers.wait(job).state is JobState.SUCCEEDED
    assert [attempt.outcome for attempt in workers.attempts(job)] == ["lost", "succeeded"]
    workers.check(job)
