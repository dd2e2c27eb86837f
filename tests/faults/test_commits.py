"""Crashes around database writes: no job is lost or done twice, and no version is incomplete."""

from __future__ import annotations

import pytest
from support.fleet import Fleet, wait_until

from finch_hub.formats.finch_record import read_record, sign_record
from finch_hub.specs.jobs import JobState

POINTS = ["supervisor.claimed", "child.begin", "child.end", "supervisor.stored", "supervisor.committing"]


@pytest.mark.parametrize(
    "point", ["supervisor.committed", *(pytest.param(point, marks=pytest.mark.slow) for point in POINTS)]
)
def test_crash_at_any_point_leaves_one_result(workers: Fleet, point: str) -> None:
    once = workers.folder / "crashed-once"
    workers.start("first", finch_fault=f"{point}:kill:{once}")
    job = workers.probe()
    wait_until(once.exists, "the crash")
    workers.start("second")
    assert workers.wait(job).state is JobState.SUCCEEDED
    workers.check(job)


@pytest.mark.slow
def test_job_whose_client_crashed_before_its_message_is_started_by_a_sweep(workers: Fleet) -> None:
    workers.start()
    job = workers.probe(send_message=False)
    assert workers.wait(job).state is JobState.SUCCEEDED
    workers.check(job)


@pytest.mark.parametrize("is_replaced", [False, True])
def test_attempt_replaces_the_output_of_its_job_only(workers: Fleet, is_replaced: bool) -> None:
    """The first attempt publishes its folder and crashes. Another job may put its own there before the second one."""
    out = workers.folder / "exported"
    worker = workers.start("first", finch_fault=f"child.end:hold:{workers.folder / 'held'}")
    job = workers.export(out)
    wait_until((workers.folder / "held").exists, "the first attempt to publish")
    assert read_record(out)["job"] == job
    if is_replaced:
        sign_record(out, "another")
    for child in worker.children():
        child.kill()
    ended = workers.wait(job)
    assert len(workers.attempts(job)) == 2
    assert ended.state is (JobState.FAILED if is_replaced else JobState.SUCCEEDED), ended.reason
    if is_replaced:
        assert f"the path {out} holds an earlier" in (ended.reason or "")
    assert read_record(out)["job"] == ("another" if is_replaced else job)
    workers.check(job)


def test_result_that_was_not_committed_is_used_without_another_run(workers: Fleet) -> None:
    once = workers.folder / "crashed-once"
    first = workers.start("first", finch_fault=f"supervisor.stored:kill:{once}")
    job = workers.probe()
    assert first.wait() != 0
    workers.start("second")
    assert workers.wait(job).state is JobState.SUCCEEDED
    assert len(workers.runs_of(job)) == 1
    workers.check(job)


@pytest.mark.slow
def test_full_disk_is_retried_and_then_reported(workers: Fleet) -> None:
    workers.start(finch_fault="child.begin:full")
    job = workers.probe()
    failed = workers.wait(job)
    assert failed.state is JobState.FAILED
    assert failed.attempts == 3
    assert "No space left on device" in (failed.reason or "")
    workers.check(job)
