"""Progress of long jobs: a bounded number of events, evenly over its length, and everything else whole."""

from __future__ import annotations

import itertools

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub.registry import attempts, jobs
from finch_hub.registry.database import Database
from finch_hub.registry.progress_thinning import EVERY, KEPT
from finch_hub.registry.tables import job_events
from finch_hub.registry.tables import jobs as jobs_table
from finch_hub.specs.events import Event, NewEvent
from finch_hub.specs.jobs import Job


def report(database: Database, job: Job, steps: range, *, batch: int = 40) -> None:
    """Report steps in batches, as a worker writes them."""
    for begin in steps[::batch]:
        told = range(begin, min(begin + batch, steps.stop))
        with database.write() as session:
            events = [NewEvent(type="progress", data={"step": step, "loss": 1 / step}) for step in told]
            attempts.append_events(session, job, events)


def read(database: Database, job: Job, type_: str = "progress") -> list[Event]:
    with database.read() as session:
        return [event for event in jobs.list_events(session, job.id, limit=100_000) if event.type == type_]


def test_progress_of_any_length_is_some_hundred_events_evenly_over_its_length(database: Database) -> None:
    job = registry.claimed(database, job_id=registry.submit(database).id)
    length = 10_000
    report(database, job, range(1, length + 1))
    steps = [event.data["step"] for event in read(database, job)]
    assert KEPT // 2 <= len(steps) <= KEPT + EVERY + 40
    assert (steps[0], steps[-1]) == (1, length)
    assert steps == sorted(steps)
    gaps = [later - earlier for earlier, later in itertools.pairwise(steps)]
    assert max(gaps) <= 2.1 * length / KEPT
    assert all(event.data["loss"] == 1 / event.data["step"] for event in read(database, job))


def test_events_of_other_types_stay_whole(database: Database) -> None:
    job = registry.claimed(database, job_id=registry.submit(database).id)
    kinds = [
        NewEvent(type="metrics", data={"valid_loss": 1.0}),
        NewEvent(type="message", level="warn", message="short rows"),
        NewEvent(type="phase", message="train"),
        NewEvent(type="report", data={"name": "data", "report": {}}),
    ]
    for _ in range(EVERY):
        with database.write() as session:
            attempts.append_events(session, job, [*kinds, NewEvent(type="progress", data={"step": 1})])
    for event in kinds:
        assert len(read(database, job, event.type)) == EVERY
    assert len(read(database, job, "state")) == 2
    assert len(read(database, job)) <= KEPT + EVERY


def test_other_work_does_not_take_the_place_of_the_steps(database: Database) -> None:
    """Reading of rows reports much more often than the few steps that follow."""
    job = registry.claimed(database, job_id=registry.submit(database).id)
    rows = [NewEvent(type="progress", data={"unit": "reading rows", "step": step}) for step in range(4000)]
    steps = [NewEvent(type="progress", data={"step": step, "loss": 1.0}) for step in range(50)]
    for begin in range(0, len(rows), 100):
        with database.write() as session:
            attempts.append_events(session, job, rows[begin : begin + 100])
    for _ in range(2):  # the second pass ends a round again
        with database.write() as session:
            attempts.append_events(session, job, [*steps, *rows[:EVERY]])
    told = read(database, job)
    assert sum("unit" not in event.data for event in told) == 100
    assert sum("unit" in event.data for event in told) <= KEPT + 1


@pytest.mark.slow
def test_progress_that_was_never_thinned_is_thinned_at_once(database: Database) -> None:
    """Earlier versions kept all events. PostgreSQL refuses a statement with so many parameters."""
    job = registry.claimed(database, job_id=registry.submit(database).id)
    length = 70_000
    with database.write() as session:
        steps = [{"step": step, "loss": 1.0} for step in range(length)]
        row = {"job_id": job.id, "type": "progress", "level": "info", "message": ""}
        session.execute(sa.insert(job_events), [{**row, "seq": 3 + step["step"], "data": step} for step in steps])
        session.execute(sa.update(jobs_table).where(jobs_table.c.id == job.id).values(last_seq=3 + length))
    report(database, job, range(length + 1, length + EVERY + 1))
    steps_kept = [event.data["step"] for event in read(database, job)]
    assert KEPT // 2 <= len(steps_kept) <= KEPT + EVERY
    assert (steps_kept[0], steps_kept[-1]) == (0, length + EVERY)


def test_follower_sees_each_event_once(database: Database) -> None:
    """A follower asks for what comes after the last number that it saw, and thinning deletes what lies before."""
    job = registry.claimed(database, job_id=registry.submit(database).id)
    seen: list[int] = []
    for begin in range(1, 1001, 20):
        report(database, job, range(begin, begin + 20))
        with database.read() as session:
            seen += [event.seq for event in jobs.list_events(session, job.id, after=seen[-1] if seen else 0)]
    assert len(seen) == len(set(seen))
    assert seen == sorted(seen)
    assert len(seen) > 900
