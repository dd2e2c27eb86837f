"""State machine of claims and attempts on the real tables, compared with a plain model.

Workers claim, renew, write, end, crash and resume in any order. Messages arrive twice, leases expire, and users cancel.
To expire a lease, a step moves its end into the past.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from support import fuzzing, registry
from support.services import Databases

from finch_hub import errors
from finch_hub.registry import attempts, jobs, outbox, settlements, tables, types, values
from finch_hub.registry.database import Database
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import FINAL, TRANSITIONS, Job, JobState

MAX_ATTEMPTS = 3
POLICY = values.RetryPolicy(max_attempts=MAX_ATTEMPTS, base_delay=0)


@dataclass
class Model:
    """The expected state of a job."""

    parents: tuple[str, ...]
    state: JobState
    fence: int = 0
    attempts: int = 0
    cancel: bool = False
    expired: bool = False
    is_due: bool = False  # for a message that a worker sends
    written: list[tuple[int, int]] = field(default_factory=list)  # (fence, serial) of the events that were accepted
    seen: list[JobState] = field(default_factory=list)


class Protocol(RuleBasedStateMachine):
    """Workers, sweeps and users on one database."""

    database: Database
    submitted = Bundle("submitted")
    claims = Bundle("claims")  # all claims, most of which become stale

    @initialize()
    def empty(self) -> None:
        with self.database.write() as session:
            session.execute(sa.delete(tables.jobs))
        self.models: dict[str, Model] = {}
        self.serial = 0
        self.results: dict[str, int] = {}

    # Steps of users

    @rule(target=submitted, parents=st.lists(submitted, max_size=2), priority=st.integers(-1, 1))
    def submit(self, parents: list[str], priority: int) -> Any:
        lost = {JobState.FAILED, JobState.CANCELLED}
        if any(self.models[parent].state in lost for parent in parents):
            with pytest.raises(errors.Conflict):
                registry.submit(self.database, depends_on=parents, priority=priority)
            return multiple()
        job = registry.submit(self.database, depends_on=parents, priority=priority)
        ready = all(self.models[parent].state is JobState.SUCCEEDED for parent in parents)
        self.models[job.id] = Model(
            parents=tuple(dict.fromkeys(parents)), state=JobState.QUEUED if ready else JobState.WAITING
        )
        return job.id

    @rule(job_id=submitted)
    def cancel(self, job_id: str) -> None:
        model = self.models[job_id]
        if model.state in (JobState.SUCCEEDED, JobState.FAILED):
            with pytest.raises(errors.IllegalTransition), self.database.write() as session:
                jobs.request_cancel(session, job_id)
            return
        with self.database.write() as session:
            jobs.request_cancel(session, job_id)
        if model.state is JobState.RUNNING:
            model.cancel = True
        elif model.state is not JobState.CANCELLED:
            model.cancel = True
            self.end(job_id, JobState.CANCELLED)

    @rule(job=claims)
    def cancel_what_was_claimed(self, job: Job) -> None:
        self.cancel(job.id)

    # Steps of workers

    @rule(target=claims, wanted=st.none() | submitted)
    def claim(self, wanted: str | None) -> Any:
        """Claim after a wake-up message. A message for a certain job may come late or twice."""
        job = registry.claim(self.database, job_id=wanted)
        queued = [job_id for job_id, model in self.models.items() if model.state is JobState.QUEUED]
        if job is None:
            assert wanted not in queued if wanted else not queued
            return multiple()
        assert job.id in ([wanted] if wanted else queued)
        model = self.models[job.id]
        assert model.state is JobState.QUEUED
        model.state, model.fence, model.attempts = JobState.RUNNING, model.fence + 1, model.attempts + 1
        assert (job.fence, job.attempts) == (model.fence, model.attempts)
        return job

    @rule(job=claims)
    def renew(self, job: Job) -> None:
        if self.write(job, lambda session: attempts.renew(session, job, 60)):
            self.models[job.id].expired = False

    @rule(job=claims, number=st.integers(0, 3))
    def append(self, job: Job, number: int) -> None:
        serials, events = self.events(job, number)
        if self.write(job, lambda session: attempts.append_events(session, job, events)):
            self.models[job.id].written += serials

    @rule(job=claims, number=st.integers(0, 2))
    def succeed(self, job: Job, number: int) -> None:
        serials, events = self.events(job, number)
        model = self.models[job.id]
        if self.owns(job) and model.cancel:
            with pytest.raises(errors.CancelRequested):
                registry.succeed(self.database, job, fence=job.fence)
            return
        result = {"fence": job.fence}
        if self.write(job, lambda session: attempts.succeed(session, job, result, events=events)):
            self.results[job.id] = job.fence
            model.written += serials
            self.end(job.id, JobState.SUCCEEDED)

    @rule(job=claims, again=st.booleans(), number=st.integers(0, 2))
    def fail(self, job: Job, again: bool, number: int) -> None:
        serials, events = self.events(job, number)
        retry = POLICY if again else None
        if self.write(job, lambda session: attempts.fail(session, job, "no", retry=retry, events=events)):
            model = self.models[job.id]
            model.written += serials
            if again and model.cancel:
                self.end(job.id, JobState.CANCELLED)
            elif again and model.attempts < MAX_ATTEMPTS:
                self.requeue(job.id)
            else:
                self.end(job.id, JobState.FAILED)

    @rule(job=claims, number=st.integers(0, 2))
    def hand_back(self, job: Job, number: int) -> None:
        serials, events = self.events(job, number)
        if self.write(job, lambda session: attempts.hand_back(session, job, events=events)):
            self.models[job.id].written += serials
            if self.models[job.id].cancel:
                self.end(job.id, JobState.CANCELLED)
            else:
                self.models[job.id].attempts -= 1
                self.requeue(job.id)

    @rule(job=claims)
    def stop(self, job: Job) -> None:
        """Cancel the job, as the worker does after a request."""
        if self.owns(job) and not self.models[job.id].cancel:
            with pytest.raises(errors.Conflict), self.database.write() as session:
                attempts.cancel(session, job)
            return
        if self.write(job, lambda session: attempts.cancel(session, job)):
            self.end(job.id, JobState.CANCELLED)

    @rule(job=claims)
    def crash_before_commit(self, job: Job) -> None:
        """Lose the transaction that ends the job, and its worker."""
        with pytest.raises(ConnectionResetError), self.database.write() as session:
            self.end_and_crash(session, job)

    def end_and_crash(self, session: Any, job: Job) -> None:
        if self.owns(job) and not self.models[job.id].cancel:
            attempts.succeed(session, job, {"lost": True})
        raise ConnectionResetError

    @rule(job=consumes(claims))
    def die(self, job: Job) -> None:
        """Lose the worker and its claim."""

    @rule(job=claims)
    def sleep_past_the_lease(self, job: Job) -> None:
        """Expire the lease, as during a pause of the worker."""
        if self.owns(job):
            with self.database.write() as session:
                past = types.later(-1)
                session.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job.id).values(lease_until=past))
            self.models[job.id].expired = True

    @rule(target=claims, job=claims)
    def be_taken_over(self, job: Job) -> Any:
        """Expire the lease, and let another worker claim the job."""
        self.sleep_past_the_lease(job)
        self.sweep()
        return self.claim(job.id)

    # Steps of the sweep

    @rule()
    def sweep(self) -> None:
        swept = {job.id: job.state for job in registry.expire(self.database, POLICY)}
        expected = {job_id for job_id, model in self.models.items() if model.expired}
        assert set(swept) == expected
        for job_id, state in swept.items():
            model = self.models[job_id]
            if model.cancel:
                assert state is JobState.CANCELLED
                self.end(job_id, JobState.CANCELLED)
            elif model.attempts >= MAX_ATTEMPTS:
                assert state is JobState.FAILED
                self.end(job_id, JobState.FAILED)
            else:
                assert state is JobState.QUEUED
                self.requeue(job_id)
        while settlements.settle_due(self.database):  # a sweep ends many jobs, and settles their dependents apart
            pass

    @rule(limit=st.integers(1, 3))
    def ring(self, limit: int) -> None:
        with self.database.write() as session:
            session.execute(
                sa.update(tables.jobs).values(ring_at=types.later(-1)).where(tables.jobs.c.ring_at.is_not(None))
            )
            due = [job.id for job in outbox.take_due(session, limit=limit)]
        queued = [job_id for job_id, model in self.models.items() if model.state is JobState.QUEUED and model.is_due]
        assert set(due) <= set(queued)
        assert len(due) == min(limit, len(queued))
        for job_id in due:
            self.models[job_id].is_due = False

    # Invariants

    @invariant()
    def tables_equal_the_model(self) -> None:
        if not hasattr(self, "models"):
            return
        with self.database.read() as session:
            stored = {job.id: job for job in jobs.find(session, limit=1000)}
            events = by_job(session.execute(sa.select(tables.job_events).order_by(tables.job_events.c.seq)))
            claims = by_job(session.execute(sa.select(tables.attempts).order_by(tables.attempts.c.fence)))
        assert set(stored) == set(self.models)
        for job_id, model in self.models.items():
            job = stored[job_id]
            assert (job.state, job.fence, job.attempts) == (model.state, model.fence, model.attempts)
            assert (job.finished_at is not None) == (job.state in FINAL)
            assert (job.lease_until is not None) == (job.state is JobState.RUNNING)
            assert job.result == ({"fence": self.results[job_id]} if job_id in self.results else None)
            assert [event.seq for event in events[job_id]] == list(range(1, len(events[job_id]) + 1))
            marks = [tuple(event.data["mark"]) for event in events[job_id] if event.type == "progress"]
            assert marks == model.written
            states = [JobState(event.data["state"]) for event in events[job_id] if event.type == "state"]
            assert all(new in TRANSITIONS[old] for old, new in itertools.pairwise(states))
            assert states[-1] is model.state
            assert states[: len(model.seen)] == model.seen  # earlier events never change
            model.seen = states
            assert [claim.fence for claim in claims[job_id]] == list(range(1, model.fence + 1))
            running = [claim.fence for claim in claims[job_id] if claim.outcome is None]
            assert running == ([model.fence] if model.state is JobState.RUNNING else [])

    # Updates of the model

    def owns(self, job: Job) -> bool:
        model = self.models[job.id]
        return model.state is JobState.RUNNING and model.fence == job.fence

    def events(self, job: Job, number: int) -> tuple[list[tuple[int, int]], list[NewEvent]]:
        """Return new serial numbers, and an event with each."""
        serials = [(job.fence, self.serial + step) for step in range(number)]
        self.serial += number
        return serials, [NewEvent(type="progress", data={"mark": list(mark)}) for mark in serials]

    def write(self, job: Job, write: Any) -> bool:
        """Write with the fence of a claim; return whether the claim owns the job, and expect a refusal otherwise."""
        if self.owns(job):
            with self.database.write() as session:
                write(session)
            return True
        with pytest.raises(errors.StaleFence), self.database.write() as session:
            write(session)
        return False

    def requeue(self, job_id: str) -> None:
        self.models[job_id].state = JobState.QUEUED
        self.models[job_id].expired = False
        self.models[job_id].is_due = True

    def end(self, job_id: str, state: JobState) -> None:
        self.models[job_id].state = state
        self.models[job_id].expired = False
        for child_id, child in self.models.items():
            if child.state is not JobState.WAITING or job_id not in child.parents:
                continue
            states = {self.models[parent].state for parent in child.parents}
            if states & {JobState.FAILED, JobState.CANCELLED}:
                self.end(child_id, JobState.FAILED)
            elif states == {JobState.SUCCEEDED}:
                self.requeue(child_id)


def by_job(rows: Iterable[sa.Row[Any]]) -> defaultdict[str, list[sa.Row[Any]]]:
    found = defaultdict(list)
    for row in rows:
        found[row.job_id].append(row)
    return found


@pytest.fixture
def machine(databases: Databases) -> Iterator[type[Protocol]]:
    url = databases.new()
    made = Database(url, allow_insecure=True)

    class OnThisDatabase(Protocol):
        database = made

    yield OnThisDatabase
    made.close()
    databases.drop(url)


@pytest.mark.slow
def test_each_job_has_one_owner_and_one_end_in_any_order_of_steps(machine: type[Protocol]) -> None:
    run_machine(
        machine,
        settings=settings(
            max_examples=fuzzing.examples(20),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
