"""Cancellation in every phase of a job, which takes effect within ten seconds."""

from __future__ import annotations

import psutil
import pytest
from support.fleet import Fleet, wait_until

from finch_hub import errors
from finch_hub.settings import Settings
from finch_hub.specs.jobs import JobState
from finch_hub.workers.supervision import child_watch

SOON = 30.0  # seconds; a busy machine may take more than the promised ten


def test_heartbeat_and_grace_of_a_cancellation_take_less_than_ten_seconds() -> None:
    assert Settings.model_fields["heartbeat_seconds"].default + child_watch._CANCEL_GRACE < 10


@pytest.mark.slow
def test_cancel_while_queued_prevents_the_run(workers: Fleet) -> None:
    job = workers.probe()
    assert workers.cancel(job).state is JobState.CANCELLED
    workers.start()
    other = workers.probe()
    workers.wait(other)
    assert workers.runs_of(job) == []
    workers.check(job, other)


def test_cancel_while_running_ends_the_child(workers: Fleet) -> None:
    workers.start()
    job = workers.probe("hang")
    child = workers.wait_begun(job)
    assert workers.cancel(job).state is JobState.RUNNING
    assert workers.wait(job, timeout=SOON).state is JobState.CANCELLED
    wait_until(lambda: not psutil.pid_exists(child), "the child to be ended")
    other = workers.probe()
    assert workers.wait(other).state is JobState.SUCCEEDED
    workers.check(job, other)


def test_cancel_while_storing_discards_the_result(workers: Fleet) -> None:
    held = workers.folder / "held"
    workers.start(finch_fault=f"supervisor.stored:hold:{held}")
    job = workers.probe()
    wait_until(held.exists, "the result to be stored")
    workers.cancel(job)
    held.unlink()
    assert workers.wait(job, timeout=SOON).state is JobState.CANCELLED
    workers.check(job)


@pytest.mark.slow
def test_cancel_of_a_finished_job_is_refused(workers: Fleet) -> None:
    workers.start()
    job = workers.probe()
    assert workers.wait(job).state is JobState.SUCCEEDED
    with pytest.raises(errors.IllegalTransition):
        workers.cancel(job)
    assert workers.job(job).state is JobState.SUCCEEDED
    workers.check(job)
