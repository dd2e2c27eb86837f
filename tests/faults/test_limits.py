"""What may not go on for ever: jobs over their time limit, stores that hang."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.fleet import Fleet, wait_until

from finch_hub.registry import jobs
from finch_hub.specs.jobs import BaseModelSource, JobState, Requirements, TrainSpec


def test_a_job_over_its_time_limit_fails_and_is_not_tried_again(workers: Fleet) -> None:
    workers.start()
    job = workers.probe("sleep", seconds=60, requirements=Requirements(time_limit=0.5))
    failed = workers.wait(job)
    assert (failed.state, failed.attempts) == (JobState.FAILED, 1)
    assert failed.reason == (
        "it was not done within its time limit of 0.5 s: submit it again with a longer one, or with less to do"
    )
    good = workers.probe(requirements=Requirements(time_limit=60))
    assert workers.wait(good).state is JobState.SUCCEEDED
    workers.check(job, good)


def stuck(workers: Fleet, base: Path) -> TrainSpec:
    """A training whose examples lie behind a pipe that nobody writes to: reading them never ends."""
    digest = workers.artifacts.put(b"{}\n")
    (blob,) = [path for path in (workers.folder / "artifacts").rglob(f"*{digest[4:]}*") if path.is_file()]
    blob.unlink()
    os.mkfifo(blob)
    return TrainSpec(adapter="stuck", base=BaseModelSource(source=str(base)), train=digest)


def test_a_store_that_hangs_is_given_up(workers: Fleet, tmp_path: Path) -> None:
    workers.environment |= {"FINCH_STALL_SECONDS": "1", "FINCH_MAX_ATTEMPTS": "2"}
    workers.start()
    job = workers.submit(stuck(workers, tmp_path))
    failed = workers.wait(job)
    assert (failed.state, failed.attempts) == (JobState.FAILED, 2)
    assert failed.reason == "preparing the job took more than 1 s"
    workers.check(job)


@pytest.mark.slow
def test_a_job_whose_store_hangs_can_be_cancelled(workers: Fleet, tmp_path: Path) -> None:
    workers.start()
    job = workers.submit(stuck(workers, tmp_path))
    workers.wait(job, JobState.RUNNING)
    workers.cancel(job)
    assert workers.wait(job, timeout=30.0).state is JobState.CANCELLED
    workers.check(job)


def test_history_beyond_the_policy_is_deleted_by_the_workers(workers: Fleet) -> None:
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
