"""Processes and threads that use one database at once."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import registry

from finch_hub import errors
from finch_hub.registry import adapter_deletion, adapter_names, adapter_versions, adapters, attempts, jobs, values
from finch_hub.registry.database import Database, Session
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import Job, JobState
from finch_hub.specs.references import AdapterReference

CLAIMER = Path(__file__).with_name("claimer.py")


@pytest.mark.slow
def test_concurrent_processes_claim_each_job_once(database: Database, database_url: str) -> None:
    with database.write() as session:
        made = jobs.submit_many(session, [values.NewJob.of_spec(registry.train_spec())] * 60)
    processes = [
        subprocess.Popen(
            [sys.executable, CLAIMER, database_url, f"worker-{number}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    claimed: list[str] = []
    for process in processes:
        output, error = process.communicate()
        assert (process.returncode, error) == (0, "")
        claimed += json.loads(output)
    assert Counter(claimed) == Counter(job.id for job in made)
    with database.read() as session:
        assert jobs.count(session)[JobState.SUCCEEDED] == 60


def test_concurrent_claims_of_one_job_have_one_winner(database: Database) -> None:
    for _ in range(10):
        job = registry.submit(database)
        with ThreadPoolExecutor(5) as threads:
            claimed = list(threads.map(lambda _: registry.claim(database), range(5)))
        assert [found.id for found in claimed if found] == [job.id]


def test_concurrent_claims_take_different_jobs(database: Database) -> None:
    made = {registry.submit(database).id for _ in range(8)}
    with ThreadPoolExecutor(8) as threads:
        claimed = list(threads.map(lambda _: registry.claim(database), range(8)))
    assert {job.id for job in claimed if job} == made


def test_concurrent_ends_of_two_parents_queue_the_child(database: Database) -> None:
    for _ in range(15):
        parents = [registry.submit(database, priority=1) for _ in range(2)]
        child = registry.submit(database, depends_on=[parent.id for parent in parents])
        running = [registry.claimed(database) for _ in parents]
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda job: registry.succeed(database, job), running))
        assert registry.claimed(database, job_id=child.id).state is JobState.RUNNING


def test_child_submitted_while_its_parent_ends_is_queued(database: Database) -> None:
    for _ in range(15):
        registry.submit(database, priority=1)
        parent = registry.claimed(database)
        with ThreadPoolExecutor(2) as threads:
            ended = threads.submit(registry.succeed, database, parent)
            child = threads.submit(registry.submit, database, depends_on=[parent.id])
        ended.result()
        assert registry.get(database, child.result()).state is JobState.QUEUED


def test_concurrent_cancel_and_end_have_one_winner(database: Database) -> None:
    def finish(job: Job) -> str:
        try:
            return registry.succeed(database, job).state
        except errors.CancelRequested:
            with database.write() as session:
                return attempts.cancel(session, job).state

    def cancel(job: Job) -> bool:
        try:
            return registry.cancel(database, job).cancel_requested
        except errors.IllegalTransition:
            return False

    for _ in range(15):
        registry.submit(database)
        job = registry.claimed(database)
        with ThreadPoolExecutor(2) as threads:
            requested, ended = threads.submit(cancel, job), threads.submit(finish, job)
        assert ended.result() == (JobState.CANCELLED if requested.result() else JobState.SUCCEEDED)
        assert registry.get(database, job).state == ended.result()


def test_concurrent_cancel_and_claim_keep_the_request(database: Database) -> None:
    for _ in range(15):
        job = registry.submit(database)
        with ThreadPoolExecutor(2) as threads:
            claimed = threads.submit(registry.claim, database)
            threads.submit(registry.cancel, database, job).result()
        after = registry.get(database, job)
        assert after.cancel_requested
        assert after.state is (JobState.RUNNING if claimed.result() else JobState.CANCELLED)


def test_concurrent_sweeps_end_each_lost_attempt_once(database: Database) -> None:
    for _ in range(20):
        registry.submit(database)
        registry.claimed(database, lease=-1)
    with ThreadPoolExecutor(4) as threads:
        swept = [job.id for found in threads.map(lambda _: registry.expire(database), range(4)) for job in found]
    assert len(swept) == len(set(swept)) == 20


def test_concurrent_use_of_an_idempotency_key_makes_one_job(database: Database) -> None:
    for number in range(10):
        with ThreadPoolExecutor(4) as threads:
            made = threads.map(lambda _: registry.submit(database, idempotency_key=f"key {number}"), range(4))  # noqa: B023
        assert len({job.id for job in made}) == 1


def test_concurrently_created_versions_have_different_numbers(database: Database) -> None:
    registry.add_base(database)
    with ThreadPoolExecutor(4) as threads:
        made = threads.map(lambda _: registry.add_version(database, "medical").number, range(12))
    assert sorted(made) == list(range(1, 13))


def test_concurrent_moves_of_an_alias_have_one_winner(database: Database) -> None:
    for _ in range(5):
        registry.add_version(database, "medical")
    start = threading.Barrier(4)

    def move(version: int) -> bool:
        start.wait()
        try:
            with database.write() as session:
                adapters.set_alias(session, "medical", "stable", version, expected=1)
        except errors.AliasMoved:
            return False
        return True

    for _ in range(8):
        with database.write() as session:
            adapters.set_alias(session, "medical", "stable", 1)
        with ThreadPoolExecutor(4) as threads:
            assert sum(threads.map(move, [2, 3, 4, 5])) == 1


def test_concurrent_events_have_no_gaps(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database)

    def append(number: int) -> None:
        with database.write() as session:
            new = [NewEvent(type="progress", data={"step": number})] * 3
            attempts.append_events(session, job, new)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(append, range(10)))
        threads.submit(registry.cancel, database, job).result()
    with database.read() as session:
        assert [event.seq for event in jobs.list_events(session, job.id)] == list(range(1, 33))


def test_changes_of_one_adapter_never_wait_for_each_other_in_a_circle(database: Database) -> None:
    """PostgreSQL would end one of them with "deadlock detected"."""
    for _ in range(3):
        registry.add_version(database, "bee")
    changes: list[Callable[[Session, int], object]] = [
        lambda session, turn: adapter_names.rename(session, "bee", "wasp" if turn % 2 else "bee"),
        lambda session, turn: adapter_versions.edit_notes(session, "bee/1", str(turn)),
        lambda session, turn: adapter_versions.edit_card(session, "bee/1", str(turn)),
        lambda session, turn: adapter_versions.add_tags(session, "bee/1", f"t{turn}"),
        lambda session, turn: adapters.set_alias(session, "bee", "best", 1 + turn % 2),
        lambda session, turn: adapter_names.describe(session, "bee", str(turn)),
        lambda session, turn: (
            adapter_deletion.delete(session, AdapterReference("bee", version=3))
            if turn % 2
            else adapter_deletion.restore(session, AdapterReference("bee", version=3), list_damage=lambda digest: ())
        ),
    ]

    def repeat(change: Callable[[Session, int], object]) -> None:
        for turn in range(15):
            with contextlib.suppress(errors.Conflict), database.write() as session:
                change(session, turn)

    with ThreadPoolExecutor(len(changes)) as threads:
        list(threads.map(repeat, changes))
    assert len(registry.resolve(database, "bee/1").tags) == 15
