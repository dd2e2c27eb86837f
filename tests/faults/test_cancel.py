"""A cancellation has one winner, whatever the job is doing, and takes effect within ten seconds."""

from __future__ import annotations

import psutil
import pytest
from support.fleet import Fleet, wait_until

from finch_hub import errors
from finch_hub.settings import Settings
from finch_hub.specs.jobs import JobState
from finch_hub.workers.supervision import attempt

SOON = 30.0  # seconds; ten are promised, and a busy machine may take more


def test_the_parts_of_a_cancellation_take_less_than_ten_seconds() -> None:
    assert Settings.model_fields["heartbeat_seconds"].default + attempt._CANCEL_GRACE < 10


@pytest.mark.slow
def test_while_queued(workers: Fleet) -> None:
    job = workers.probe()
    assert workers.cancel(job).state is JobState.CANCELLED
    workers.start()
    other = workers.probe()
    workers.wait(other)
    assert workers.runs_of(job) == []
    workers.check(job, other)


def test_while_running(workers: Fleet) -> None:
    workers.start()
    job = workers.probe("hang")
    child = workers.wait_begun(job)
    assert workers.cancel(job).state is JobState.RUNNING
    assert workers.wait(job, timeout=SOON).state is JobState.CANCELLED
    wait_until(lambda: not psutil.pid_exists(child), "the child to be ended")
    other = workers.probe()
    assert workers.wait(other).state is JobState.SUCCEEDED
    workers.check(job, other)


def test_while_finalising(workers: Fleet) -> None:
    held = workers.folder / "held"
    workers.start(finch_fault=f"supervisor.stored:hold:{held}")
    job = workers.probe()
    wait_until(held.exists, "the result to be stored")
    workers.cancel(job)
    held.unlink()
    assert workers.wait(job, timeout=SOON).state is JobState.CANCELLED
    workers.check(job)


@pytest.mark.slow
def test_when_done(workers: Fleet) -> None:
    workers.start()
    job = workers.probe()
    assert workers.wait(job).state is JobState.SUCCEEDED
    with pytest.raises(errors.IllegalTransition):
        workers.cancel(job)
    assert workers.job(job).state is JobState.SUCCEEDED
    workers.check(job)
