"""Ends of an attempt whose lease is lost. The rest is tested with real processes in `tests/faults`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import registry
from support.children import FakeChild

from finch_hub import errors, settings
from finch_hub.registry import attempts
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import Job, JobResult, JobSpec, JobState
from finch_hub.specs.value import Value
from finch_hub.workers.runs import kinds
from finch_hub.workers.runs.job_kind import Outcome
from finch_hub.workers.supervision import clock
from finch_hub.workers.supervision.attempt import Attempt
from finch_hub.workers.supervision.attempt_context import AttemptContext
from finch_hub.workers.supervision.blocking_calls import BlockingCalls
from finch_hub.workers.supervision.lease import ClaimedJob, Leases
from finch_hub.workers.supervision.work_folders import WorkFolders


class Text(Value):
    text: str


Echo = Outcome[Text]
SEEDS = {"report": {"text": "seeds"}}


class Kind:
    """Kind of job whose steps do what a test says."""

    name, order, outcome = "echo", Echo, Echo
    prepare = staticmethod(lambda *arguments: Echo(report=Text(text="seeds")))
    finish = staticmethod(lambda *arguments: lambda session: JobResult(report={}))

    def spec_of(self, stored: Any) -> JobSpec:
        return JobSpec(kind="echo")


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Kind()
    monkeypatch.setattr(kinds, "kind_of", lambda name: made)
    return made


@pytest.fixture
def context(database: Database, tmp_path: Path) -> Iterator[Any]:
    loaded, stopping = settings.load(home=tmp_path), threading.Event()
    leases, calls = Leases(database, loaded, stopping=stopping), BlockingCalls()
    yield AttemptContext(
        stores=SimpleNamespace(settings=loaded, database=database),  # type: ignore[arg-type]
        leases=leases,
        folders=WorkFolders(tmp_path / "work"),
        blocking_calls=calls,
        redactor=SimpleNamespace(clean=str),  # type: ignore[arg-type]
    )
    leases.close()
    calls.close()


def attempt_at(job: Job, context: AttemptContext, child: FakeChild) -> Attempt:
    claimed = ClaimedJob(job=job, requested_at=clock.elapsed())
    return Attempt(
        claimed, context, take_child=lambda: child, claim_next=lambda session, child: None, memory_limit=2**40
    )


def test_done_child_is_kept_and_the_job_succeeds(kind: Any, database: Database, context: AttemptContext) -> None:
    registry.submit(database)
    child = FakeChild()
    child.say(type="done", outcome=SEEDS, warm_base="tiny")
    attempt = attempt_at(registry.claimed(database), context, child)
    attempt.run()
    assert [job.state for job in attempt.ended_jobs] == [JobState.SUCCEEDED]
    assert (attempt.child, child.warm_base, child.calls) == (child, "tiny", [])
    assert child.sent[0]["order"] == SEEDS


@pytest.mark.parametrize("step", ["prepare", "finish"])
def test_lease_that_is_lost_in_a_blocking_call_fails_no_job(
    step: str, kind: Any, database: Database, context: AttemptContext
) -> None:
    """The worker is to end and the database does not answer, so the job waits for the end of its lease."""

    def lose_lease(*arguments: Any) -> Any:
        raise errors.StaleFence("job", 1)

    setattr(kind, step, lose_lease)
    registry.submit(database)
    job = registry.claimed(database)
    child = FakeChild()
    child.say(type="done", outcome=SEEDS, warm_base=None)
    attempt = attempt_at(job, context, child)
    attempt.run()
    assert attempt.ended_jobs == []
    assert registry.get(database, job).state is JobState.RUNNING
    assert attempt.child is None


@pytest.mark.parametrize(("kept", "is_used"), [(SEEDS, True), ({"txt": "of another version"}, False)])
def test_outcome_of_an_earlier_attempt_is_used_unless_another_version_wrote_it(
    kept: dict[str, Any], is_used: bool, kind: Any, database: Database, context: AttemptContext
) -> None:
    registry.submit(database)
    first = registry.claimed(database)
    context.folders.begin(first.id, first.fence)
    context.folders.keep_outcome(first.id, kept)
    with database.write() as session:
        attempts.hand_back(session, first.id, first.fence)
    child = FakeChild()
    child.say(type="done", outcome=SEEDS, warm_base=None)
    attempt = attempt_at(registry.claimed(database), context, child)
    attempt.run()
    assert [job.state for job in attempt.ended_jobs] == [JobState.SUCCEEDED]
    assert (child.sent == []) is is_used
