"""Workers whose clocks are an hour off, which has no effect since all times are the database's."""

from __future__ import annotations

import signal

import pytest
from support.fleet import Fleet, wait_until

from finch_hub.specs.jobs import JobState


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [3600, -3600])
def test_worker_with_a_wrong_clock_keeps_its_job_and_loses_it_in_time(workers: Fleet, ahead: int) -> None:
    wrong = workers.start("wrong", finch_test_clock=str(ahead))
    workers.start("right")
    long = workers.probe("sleep", seconds=5)  # for more than two leases
    workers.wait_begun(long)
    assert workers.wait(long).state is JobState.SUCCEEDED
    assert len(workers.attempts(long)) == 1, "no worker took the job from the other"
    hanging = [workers.probe("hang", once=True) for _ in range(2)]  # one for each
    for job in hanging:
        workers.wait_begun(job)
    (held,) = (job for job in hanging if workers.job(job).worker == "wrong")
    (other,) = (job for job in hanging if job != held)
    wrong.send(signal.SIGKILL)
    wait_until(lambda: workers.attempts(held)[0].outcome == "lost", "the lease to run out")
    workers.cancel(other)  # which frees the right one
    assert workers.wait(held).state is JobState.SUCCEEDED
    assert [(attempt.worker, attempt.outcome) for attempt in workers.attempts(held)] == [
        ("wrong", "lost"),
        ("right", "succeeded"),
    ]
    for job in (long, held):
        done = workers.job(job)
        assert done.started_at is not None
        assert done.finished_at is not None
        assert done.created_at <= done.started_at <= done.finished_at
        assert (done.finished_at - done.created_at).total_seconds() < 600
    workers.wait(other)
    workers.check(long, held, other)
