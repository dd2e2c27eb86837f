"""Limits: jobs over their time limit, stores that hang, and history."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fleet import Fleet, wait_until

from finch_hub.registry import jobs
from finch_hub.specs.jobs import BaseModelSource, JobState, Requirements, TrainSpec


def test_job_over_its_time_limit_fails_without_a_retry(workers: Fleet) -> None:
    workers.start()
    job = workers.probe("sleep", seconds=60, requirements=Requirements(time_limit=0.5))
    failed = workers.wait(job)
    assert (failed.state, failed.attempts) == (JobState.FAILED, 1)
    assert failed.reason == (
        "the job did not finish within its time limit of 0.5 s (submit it again with a longer limit or less work)"
    )
    good = workers.probe(requirements=Requirements(time_limit=60))
    assert workers.wait(good).state is JobState.SUCCEEDED
    workers.check(job, good)


def stuck(workers: Fleet, base: Path) -> TrainSpec:
    """Return a training whose examples no worker that starts from now on can read to an end."""
    digest = workers.artifacts.put(b"{}\n")
    workers.environment["FINCH_TEST_OPEN"] = f"hang::{digest[4:]}"
    return TrainSpec(adapter="stuck", base=BaseModelSource(source=str(base)), train=digest)


def test_store_that_hangs_fails_the_attempt(workers: Fleet, tmp_path: Path) -> None:
    workers.environment |= {"FINCH_STALL_SECONDS": "1", "FINCH_MAX_ATTEMPTS": "2"}
    training = stuck(workers, tmp_path)
    workers.start()
    job = workers.submit(training)
    failed = workers.wait(job)
    assert (failed.state, failed.attempts) == (JobState.FAILED, 2)
    assert failed.reason == "preparing the job took more than 1 s"
    workers.check(job)


@pytest.mark.slow
def test_cancel_while_the_store_hangs_cancels_the_job(workers: Fleet, tmp_path: Path) -> None:
    training = stuck(workers, tmp_path)
    workers.start()
    job = workers.submit(training)
    workers.wait(job, JobState.RUNNING)
    workers.cancel(job)
    assert workers.wait(job, timeout=30.0).state is JobState.CANCELLED
    workers.check(job)


def test_workers_delete_history_beyond_the_policy(workers: Fleet) -> None:
    workers.environment |= {"FINCH_HISTORY_JOBS": "1"}
    workers.start()
    made = [workers.probe() for _ in range(3)]

    def kept() -> list[str]:
        with workers.database.read() as session:
            return [job.id for job in jobs.find(session)]

    wait_until(lambda: len(kept()) == 1, "all but one job to be deleted")
    assert set(kept()) < set(made)
    with workers.database.read() as session:
        assert [event.job_id for made_id in made for event in jobs.list_events(session, made_id, limit=1)] == kept()
