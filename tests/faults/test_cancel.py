"""A cancellation has one winner, whatever the job is doing, and takes effect within ten seconds."""

from __future__ import annotations

import signal

import psutil
import pytest
from support.fleet import Fleet, wait_until

from finch_hub import errors
from finch_hub.specs.jobs import JobState


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
    assert workers.wait(job, timeout=10).state is JobState.CANCELLED
    wait_until(lambda: not psutil.pid_exists(child), "the child to be ended")
    other = workers.probe()
    assert workers.wait(other).state is JobState.SUCCEEDED
    workers.check(job, other)


def test_while_finalising(workers: Fleet) -> None:
    once = workers.folder / "stopped-once"
    worker = workers.start(finch_fault=f"supervisor.stored:stop:{once}", finch_lease_seconds="60")
    job = workers.probe()
    wait_until(once.exists, "the result to be stored")
    wait_until(lambda: psutil.Process(worker.pid).status() == "stopped", "the worker to stop there")
    workers.cancel(job)
    worker.send(signal.SIGCONT)
    assert workers.wait(job, timeout=10).state is JobState.CANCELLED
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
