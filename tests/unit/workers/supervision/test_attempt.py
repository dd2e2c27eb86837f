"""Steps and ends of an attempt, with a fake child. The rest is tested with real processes in `tests/faults`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import registry
from support.children import FakeChild

from finch_hub import errors, progress, settings
from finch_hub.artifacts.store import ArtifactStore
from finch_hub.registry import attempts, jobs
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import Job, JobResult, JobSpec, JobState
from finch_hub.specs.value import Value
from finch_hub.workers.runs import kinds
from finch_hub.workers.runs.job_kind import Outcome
from finch_hub.workers.supervision import attempt as attempt_module
from finch_hub.workers.supervision import clock
from finch_hub.workers.supervision.attempt import Attempt
from finch_hub.workers.supervision.attempt_context import AttemptContext
from finch_hub.workers.supervision.blocking_calls import BlockingCalls
from finch_hub.workers.supervision.child_watch import ChildWatch
from finch_hub.workers.supervision.event_buffer import EventBuffer
from finch_hub.workers.supervision.lease import ClaimedJob, Lease, Leases
from finch_hub.workers.supervision.readiness import SUSPECT_AFTER, Readiness
from finch_hub.workers.supervision.shared_checkpoint import SharedCheckpoint
from finch_hub.workers.supervision.work_folders import WorkFolders

from .conftest import WordRedactor


class Text(Value):
    text: str


Echo = Outcome[Text]
SEEDS = {"report": {"text": "seeds"}}


class Kind:
    """Kind of job whose steps do what a test says."""

    name, order, outcome = "echo", Echo, Echo
    prepare = staticmethod(lambda *arguments: Echo(report=Text(text="seeds")))
    finish = staticmethod(lambda *arguments: lambda session: JobResult(report={}))

    unknown: tuple[str, ...] = ()

    def spec_of(self, stored: Any) -> JobSpec:
        return JobSpec(kind="echo")

    def list_unknown(self, stored: Any) -> list[str]:
        return list(self.unknown)


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Kind()
    monkeypatch.setattr(kinds, "kind_of", lambda name: made)
    return made


@pytest.fixture
def context(database: Database, tmp_path: Path) -> Iterator[Any]:
    loaded, stopping = settings.load(home=tmp_path, retry_seconds=0), threading.Event()
    leases, calls = Leases(database, loaded, stopping=stopping), BlockingCalls()
    artifacts = ArtifactStore(str(tmp_path / "artifacts"), cache=tmp_path / "cache")
    stores: Any = SimpleNamespace(settings=loaded, database=database, artifacts=artifacts)
    yield AttemptContext(
        stores=stores,
        readiness=Readiness(stores, calls, stopping=stopping),
        leases=leases,
        events=EventBuffer(database),
        folders=WorkFolders(tmp_path / "work"),
        blocking_calls=calls,
        redactor=WordRedactor(),
    )
    leases.close()
    calls.close()


def attempt_at(job: Job, context: AttemptContext, child: FakeChild) -> Attempt:
    claimed = ClaimedJob(job=job, requested_at=clock.elapsed())
    return Attempt(
        claimed, context, take_child=lambda: child, claim_next=lambda session, child, token: None, memory_limit=2**40
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


@pytest.mark.parametrize(
    "end", [{"type": "done", "outcome": SEEDS, "warm_base": "tiny"}, {"type": "stopped", "why": "hand_back"}]
)
def test_child_in_which_a_plugin_ran_beside_torch_gets_no_other_job(
    end: dict[str, Any], kind: Any, database: Database, context: AttemptContext
) -> None:
    registry.submit(database)
    child = FakeChild()
    child.say(**end, spent=True)
    attempt = attempt_at(registry.claimed(database), context, child)
    attempt.run()
    state = JobState.SUCCEEDED if end["type"] == "done" else JobState.QUEUED
    assert [job.state for job in attempt.ended_jobs] == [state]
    assert (attempt.child, child.calls) == (None, ["kill"])


def test_result_that_is_stored_for_longer_than_a_stall_is_no_hang(
    kind: Any, database: Database, context: AttemptContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_LEAST_SECONDS", "_MOST_SECONDS"):
        monkeypatch.setattr(progress, name, 0.0)
    limit = context.stores.settings.model_copy(update={"stall_seconds": 2.0})
    monkeypatch.setattr(context.stores, "settings", limit)

    def store(*arguments: Any) -> Any:
        for _ in progress.track(range(12), "storing files"):
            time.sleep(0.2)
        return lambda session: JobResult(report={})

    kind.finish = store
    registry.submit(database)
    child = FakeChild()
    child.say(type="done", outcome=SEEDS, warm_base=None)
    attempt = attempt_at(registry.claimed(database), context, child)
    attempt.run()
    assert [job.state for job in attempt.ended_jobs] == [JobState.SUCCEEDED]


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
    child.say(type="event", event={"type": "progress", "data": {"step": 1}})
    child.say(type="done", outcome=SEEDS, warm_base=None)
    attempt = attempt_at(job, context, child)
    attempt.run()
    assert attempt.ended_jobs == []
    assert registry.get(database, job).state is JobState.RUNNING
    assert attempt.child is None
    assert not context.events._batches, "nothing of the attempt stays in memory"


@pytest.mark.parametrize(("kept", "is_used"), [(SEEDS, True), ({"txt": "of another version"}, False)])
def test_outcome_of_an_earlier_attempt_is_used_unless_another_version_wrote_it(
    kept: dict[str, Any], is_used: bool, kind: Any, database: Database, context: AttemptContext
) -> None:
    registry.submit(database)
    first = registry.claimed(database)
    context.folders.begin(first.id, first.fence)
    context.folders.keep_outcome(first.id, kept)
    with database.write() as session:
        attempts.hand_back(session, first)
    child = FakeChild()
    child.say(type="done", outcome=SEEDS, warm_base=None)
    attempt = attempt_at(registry.claimed(database), context, child)
    attempt.run()
    assert [job.state for job in attempt.ended_jobs] == [JobState.SUCCEEDED]
    assert (child.sent == []) is is_used


def run(
    context: AttemptContext, database: Database, child: FakeChild, *messages: dict[str, Any], **requirements: Any
) -> tuple[Attempt, Job]:
    """Run an attempt at a new job with a child that says these messages. Return it, and the job afterwards."""
    registry.submit(database, **requirements)
    job = registry.claimed(database)
    for message in messages:
        child.say(**message)
    attempt = attempt_at(job, context, child)
    attempt.run()
    return attempt, registry.get(database, job)


def texts(database: Database, job: Job) -> list[str]:
    with database.read() as session:
        return [event.message for event in jobs.list_events(session, job.id) if event.type == "message"]


FAILED = {
    "type": "failed",
    "reason": "it broke",
    "traceback": "",
    "retry": False,
    "of_worker": False,
    "of_any_job": False,
    "unusable": None,
}


@pytest.mark.parametrize(
    ("changes", "state", "told"),
    [
        ({}, JobState.FAILED, []),  # an error of the package, which describes itself
        ({"retry": True}, JobState.QUEUED, []),
        ({"traceback": "in secret.py, line 1"}, JobState.FAILED, ["in ***.py, line 1"]),
        ({"traceback": "in secret.py, line 1", "retry": True}, JobState.QUEUED, ["in ***.py, line 1"]),
    ],
)
def test_failed_child_is_killed_and_the_job_tried_again_if_that_can_help(
    changes: dict[str, Any], state: JobState, told: list[str], kind: Any, database: Database, context: AttemptContext
) -> None:
    child = FakeChild()
    attempt, job = run(context, database, child, FAILED | changes)
    assert (job.state, job.reason) == (state, "it broke")
    assert (attempt.child, child.calls) == (None, ["kill"])
    assert texts(database, job) == told


def test_version_with_which_the_base_computes_no_numbers_is_quarantined(
    kind: Any, database: Database, context: AttemptContext
) -> None:
    registry.add_version(database)
    _, job = run(context, database, FakeChild(), FAILED | {"unusable": "medical/1"})
    assert job.state is JobState.FAILED
    assert registry.resolve(database, "medical/1").state == "quarantined"


@pytest.mark.parametrize("name", ["gone/1", "no reference"])
def test_failure_counts_although_it_names_no_version(
    name: str, kind: Any, database: Database, context: AttemptContext
) -> None:
    _, job = run(context, database, FakeChild(), FAILED | {"unusable": name})
    assert (job.state, job.reason) == (JobState.FAILED, "it broke")


def test_child_that_died_is_described_with_its_last_output(
    kind: Any, database: Database, context: AttemptContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = FakeChild()
    monkeypatch.setattr(child, "last_output", lambda: "my secret words")
    child.die()
    attempt, job = run(context, database, child)
    assert (job.state, job.reason) == (JobState.QUEUED, "the child process exited unexpectedly (exit status 3)")
    assert texts(database, job) == ["last output of the child process:\nmy *** words"]
    assert (attempt.child, child.calls) == (None, ["kill"])


def test_child_that_died_while_its_worker_stops_costs_no_attempt(
    kind: Any, database: Database, context: AttemptContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service manager may signal the child first."""
    child = FakeChild()
    monkeypatch.setattr(child, "describe_end", lambda: "SIGTERM")
    child.die()
    asked = iter([None, None, None])
    monkeypatch.setattr(Lease, "stop_reason", lambda lease: next(asked, "hand_back"))
    attempt, job = run(context, database, child)
    assert (job.state, job.attempts) == (JobState.QUEUED, 0)
    assert (attempt.child, child.calls) == (None, ["kill"])


def test_child_that_hangs_is_killed_and_described(
    kind: Any, database: Database, context: AttemptContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChildWatch, "run", lambda watch: {"type": "hung", "reason": "reported nothing for 9 s"})
    child = FakeChild()
    attempt, job = run(context, database, child)
    reason = "the child process reported nothing for 9 s and was killed"
    assert (job.state, job.reason) == (JobState.QUEUED, reason)
    assert texts(database, job) == ["last output of the child process:\nlast words"]
    assert (attempt.child, child.calls) == (None, ["kill"])


@pytest.mark.parametrize("is_killed", [False, True])
def test_child_that_stopped_is_kept_unless_it_had_to_be_killed(
    is_killed: bool, kind: Any, database: Database, context: AttemptContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = {"type": "stopped", "why": "hand_back"} | ({"killed": True} if is_killed else {})
    monkeypatch.setattr(ChildWatch, "run", lambda watch: stopped)
    child = FakeChild()
    attempt, job = run(context, database, child)
    assert job.state is JobState.QUEUED
    assert job.attempts == 0, "a job that is handed back loses no attempt"
    assert (attempt.child, child.calls) == ((None, ["kill"]) if is_killed else (child, []))


def test_job_beyond_its_time_limit_fails_with_the_limit(
    kind: Any, database: Database, context: AttemptContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChildWatch, "run", lambda watch: {"type": "stopped", "why": "time_limit"})
    _, job = run(context, database, FakeChild(), time_limit=90.0)
    assert job.state is JobState.FAILED
    assert "within its time limit of 90 s (" in str(job.reason)


def test_job_whose_stop_was_requested_before_it_began_gets_no_child(
    kind: Any, database: Database, context: AttemptContext
) -> None:
    context.leases._stopping.set()
    child = FakeChild()
    _, job = run(context, database, child)
    assert (job.state, child.sent) == (JobState.QUEUED, [])


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (errors.Unavailable("the store does not answer"), JobState.QUEUED, "the store does not answer"),
        (errors.NotFound("base", "birds"), JobState.FAILED, "there is no base 'birds'"),
        (OSError("no space"), JobState.QUEUED, "no space"),
    ],
)
@pytest.mark.parametrize("step", ["prepare", "finish"])
def test_error_of_a_step_is_tried_again_if_that_can_help(
    step: str, error: Exception, state: JobState, reason: str, kind: Any, database: Database, context: AttemptContext
) -> None:
    def fail(*arguments: Any) -> Any:
        raise error

    setattr(kind, step, fail)
    _, job = run(context, database, FakeChild(), {"type": "done", "outcome": SEEDS, "warm_base": None})
    assert job.state is state
    assert reason in str(job.reason)


@pytest.mark.parametrize(
    "error", [errors.InvalidSpec("is too small", where="rank"), errors.NotFound("job kind", "distill")]
)
def test_job_that_this_version_cannot_read_is_set_aside(
    error: errors.FinchError, kind: Any, database: Database, context: AttemptContext
) -> None:
    def refuse(stored: Any) -> JobSpec:
        raise error

    kind.spec_of = refuse
    child = FakeChild()
    _, job = run(context, database, child)
    assert (job.state, job.attempts, job.set_aside) == (JobState.QUEUED, 0, (kinds.VERSION,))
    assert str(error) in (job.reason or "")
    assert child.sent == []
    assert registry.claim(database, capabilities=registry.ANY_SLOT.evolve(version=kinds.VERSION)) is None


def test_fields_that_this_version_does_not_know_are_passed_over_and_named(
    kind: Any, database: Database, context: AttemptContext
) -> None:
    kind.unknown = ("rank_schedule", "training.warmth")
    child = FakeChild()
    child.say(type="done", outcome=SEEDS, warm_base=None)
    _, job = run(context, database, child)
    assert job.state is JobState.SUCCEEDED
    (text,) = texts(database, job)
    assert text.endswith("that it does not know: rank_schedule, training.warmth")


@pytest.mark.parametrize("error", [ZeroDivisionError("1 / 0"), SystemExit("the plugin ended")])
def test_defect_while_a_job_is_prepared_fails_that_job_only(
    error: BaseException, kind: Any, database: Database, context: AttemptContext
) -> None:
    def fail(*arguments: Any) -> Any:
        raise error

    kind.prepare = fail
    child = FakeChild()
    _, job = run(context, database, child)
    assert (job.state, job.reason) == (JobState.FAILED, f"{type(error).__name__}: {error}")
    assert child.sent == []


@pytest.mark.parametrize("ending", ["stop", "stall"])
@pytest.mark.parametrize("step", ["begin", "read_outcome", "prepare", "finish"])
def test_blocking_call_is_left_behind_if_the_attempt_must_stop_or_the_call_hangs(
    step: str,
    ending: str,
    kind: Any,
    database: Database,
    context: AttemptContext,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """A store or a disk that does not answer must keep no worker from ending."""
    begun, is_over = threading.Event(), threading.Event()
    request.addfinalizer(is_over.set)

    def hang(*arguments: Any) -> Any:
        begun.set()
        if ending == "stop":
            context.leases._stopping.set()
        is_over.wait(60)

    if step in ("begin", "read_outcome"):
        monkeypatch.setattr(context.folders, step, hang)
    else:
        setattr(kind, step, hang)
    if step == "read_outcome":
        registry.submit(database)
        registry.fail(database, registry.claimed(database), retry=registry.AT_ONCE)
    monkeypatch.setattr(attempt_module, "POLL_SECONDS", 0.01)
    if ending == "stall":
        monkeypatch.setattr(Lease, "elapsed", lambda lease: 1e9 if begun.is_set() else 0.0)
    _, job = run(context, database, FakeChild(), {"type": "done", "outcome": SEEDS, "warm_base": None})
    assert job.state is JobState.QUEUED
    if ending == "stall":
        doing = {"finish": "storing the result", "read_outcome": "looking for the result of an earlier attempt"}.get(
            step, "preparing the job"
        )
        assert job.reason == f"{doing} took more than {settings.load().stall_seconds:g} s"


def test_outcome_of_a_child_is_kept_until_it_is_stored(kind: Any, database: Database, context: AttemptContext) -> None:
    kept: list[Any] = []

    def finish(spec: Any, job: Job, outcome: Any, stores: Any) -> Any:
        kept.append(context.folders.read_outcome(job.id, Echo))
        raise errors.Unavailable("the store does not answer")

    kind.finish = finish
    run(context, database, FakeChild(), {"type": "done", "outcome": SEEDS, "warm_base": None})
    child = FakeChild()
    child.say(**FAILED)
    attempt_at(registry.claimed(database), context, child).run()
    assert kept == [Echo(report=Text(text="seeds")), None], "an outcome that cannot be stored is not used for ever"


def test_child_at_work_is_not_idle(kind: Any, database: Database, context: AttemptContext) -> None:
    child = FakeChild()
    child.idle_since = 5.0
    run(context, database, child, {"type": "done", "outcome": SEEDS, "warm_base": None})
    assert child.idle_since is None


def test_killed_child_is_guarded_no_longer(
    kind: Any, database: Database, context: AttemptContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may get its process id."""
    guarded: list[Any] = []
    monkeypatch.setattr(Lease, "guard", lambda lease, child: guarded.append(child))
    child = FakeChild()
    run(context, database, child, FAILED)
    assert guarded == [child, None]


def test_member_of_a_group_is_tried_again_alone_and_loses_no_attempt(
    kind: Any, database: Database, context: AttemptContext
) -> None:
    registry.submit(database, together=True)
    job = registry.claimed(database)
    child = FakeChild()
    child.say(**FAILED | {"retry": True})
    claimed = ClaimedJob(job=job, requested_at=clock.elapsed())
    Attempt(claimed, context, take_child=lambda: child, claim_next=None, memory_limit=2**40).run()
    job = registry.get(database, job)
    assert (job.state, job.attempts) == (JobState.QUEUED, 0)
    assert not job.requirements.together
    assert texts(database, job)[0] == "will be trained alone, since the training of the group failed: it broke"


@pytest.mark.parametrize("step", ["prepare", "finish"])
def test_job_that_the_store_fails_is_queued_again_and_no_attempt_counts(
    step: str, kind: Any, database: Database, context: AttemptContext
) -> None:
    def fail(*arguments: Any) -> Any:
        raise errors.StoreUnavailable("artifact store /secret: OSError: stale")

    setattr(kind, step, fail)
    context.readiness.check_store()
    _, job = run(context, database, FakeChild(), {"type": "done", "outcome": SEEDS, "warm_base": None})
    assert (job.state, job.attempts) == (JobState.QUEUED, 0)
    assert job.reason == "worker w: artifact store /***: OSError: stale"
    assert texts(database, job) == ["worker w cannot run this job now, so it is queued again and no attempt is counted"]
    assert not context.readiness.is_ready, "the store is checked before the next claim"


REFUSALS = [
    errors.RefusedArtifact("is damaged"),
    errors.MissingArtifact("file", "checkpoints/job-1"),
    errors.StoreUnavailable("access denied"),
    OSError("no space left"),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_job_begins_anew_if_the_checkpoint_of_another_machine_cannot_be_fetched(
    error: Exception, kind: Any, database: Database, context: AttemptContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(shared: SharedCheckpoint) -> None:
        raise error

    monkeypatch.setattr(SharedCheckpoint, "is_expected", True)
    monkeypatch.setattr(SharedCheckpoint, "fetch", refuse)
    _, job = run(context, database, FakeChild(), {"type": "done", "outcome": SEEDS, "warm_base": None})
    assert job.state is JobState.SUCCEEDED
    assert texts(database, job) == [f"could not fetch the checkpoint of another machine: {error}"]


def test_job_waits_for_a_store_that_is_unwell_rather_than_begin_anew(
    kind: Any, database: Database, context: AttemptContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(shared: SharedCheckpoint) -> None:
        raise errors.StoreUnavailable("gone")

    monkeypatch.setattr(SharedCheckpoint, "is_expected", True)
    monkeypatch.setattr(SharedCheckpoint, "fetch", refuse)
    monkeypatch.setattr(context.readiness, "check_store", lambda: False)
    _, job = run(context, database, child := FakeChild())
    assert (job.state, job.attempts, child.sent) == (JobState.QUEUED, 0, [])


@pytest.mark.parametrize(
    ("end", "state"), [({"type": "stopped", "why": "hand_back"}, JobState.QUEUED), (FAILED, JobState.FAILED)]
)
def test_last_checkpoint_is_copied_before_the_job_is_queued_again(
    end: dict[str, Any],
    state: JobState,
    kind: Any,
    database: Database,
    context: AttemptContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[float] = []

    def finish(shared: SharedCheckpoint, seconds: float) -> None:
        given.append(seconds)
        assert registry.get(database, shared._job).state is JobState.RUNNING

    monkeypatch.setattr(SharedCheckpoint, "finish", finish)
    _, job = run(context, database, FakeChild(), end)
    assert job.state is state
    assert len(given) == (state is JobState.QUEUED)
    assert all(0 < seconds <= context.stores.settings.grace_seconds for seconds in given)


def test_result_that_the_store_refused_is_stored_by_the_next_attempt_here(
    kind: Any, database: Database, context: AttemptContext
) -> None:
    def fail(*arguments: Any) -> Any:
        raise errors.StoreUnavailable("artifact store: gone")

    kind.finish = fail
    _, job = run(context, database, FakeChild(), {"type": "done", "outcome": SEEDS, "warm_base": None})
    again = registry.claimed(database, job_id=job.id)
    attempt_at(again, context, FakeChild()).run()
    kind.finish = Kind.finish
    attempt_at(registry.claimed(database, job_id=job.id), context, child := FakeChild()).run()
    assert registry.get(database, job).state is JobState.SUCCEEDED
    assert child.sent == [], "no child runs again"


def test_job_whose_artifact_no_worker_has_fails(kind: Any, database: Database, context: AttemptContext) -> None:
    def fail(*arguments: Any) -> Any:
        raise errors.MissingArtifact("artifact", "0" * 64)

    kind.prepare = fail
    _, job = run(context, database, FakeChild())
    assert job.state is JobState.FAILED
    assert "no worker that can run this job finds it in the store" in str(job.reason)


def test_hanging_store_that_is_unwell_costs_no_attempt(
    kind: Any, database: Database, context: AttemptContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = threading.Event()
    kind.prepare = lambda *arguments: hangs.wait()
    monkeypatch.setattr(context.readiness, "check_store", lambda: False)
    monkeypatch.setattr(Lease, "elapsed", iter(range(0, 10**6, 1000)).__next__)
    _, job = run(context, database, FakeChild())
    hangs.set()
    assert (job.state, job.attempts) == (JobState.QUEUED, 0)


def test_worker_whose_children_cannot_start_becomes_suspect_and_keeps_the_jobs(
    kind: Any, database: Database, context: AttemptContext
) -> None:
    for number in range(1, SUSPECT_AFTER + 1):
        child = FakeChild()
        child.is_ready = False
        child.die()
        _, job = run(context, database, child)
        is_suspect = number == SUSPECT_AFTER
        assert (job.state, job.attempts) == (JobState.QUEUED, 0 if is_suspect else 1)
        assert (context.readiness.remark is not None) is is_suspect
        registry.cancel(database, job)
    run(context, database, FakeChild(), {"type": "done", "outcome": SEEDS, "warm_base": None})
    assert context.readiness.remark is None, "a success ends the suspicion"


def test_jobs_that_kill_their_children_are_no_fault_of_the_worker(
    kind: Any, database: Database, context: AttemptContext
) -> None:
    for _ in range(SUSPECT_AFTER):
        child = FakeChild()
        child.die()
        run(context, database, child)
    assert context.readiness.remark is None


@pytest.mark.parametrize("is_of_any_job", [True, False])
def test_jobs_that_need_a_library_that_no_worker_has_make_no_worker_suspect(
    is_of_any_job: bool, kind: Any, database: Database, context: AttemptContext
) -> None:
    """Otherwise one sweep of such jobs stops the jobs of all others."""
    fault = FAILED | {"retry": True, "of_worker": True, "of_any_job": is_of_any_job}
    for number in range(1, SUSPECT_AFTER + 2):
        _, job = run(context, database, FakeChild(), fault)
        is_suspect = is_of_any_job and number >= SUSPECT_AFTER
        assert (job.state, job.attempts) == (JobState.QUEUED, 0 if is_suspect else 1), "there is no other worker"
        assert (context.readiness.remark is not None) is is_suspect
        registry.cancel(database, job)


def test_child_that_cannot_be_made_is_a_fault_of_the_worker(
    kind: Any, database: Database, context: AttemptContext
) -> None:
    def refuse() -> FakeChild:
        raise OSError("too many processes")

    registry.submit(database)
    job = registry.claimed(database)
    claimed = ClaimedJob(job=job, requested_at=clock.elapsed())
    Attempt(claimed, context, take_child=refuse, claim_next=lambda *arguments: None, memory_limit=2**40).run()
    job = registry.get(database, job)
    assert (job.state, job.reason) == (JobState.QUEUED, "could not start a child process: too many processes")


def test_full_disk_of_the_work_folder_does_not_lose_what_a_child_made(
    kind: Any, database: Database, context: AttemptContext
) -> None:
    """The kept outcome only saves a second run after a crash."""
    (context.stores.settings.home / "work").write_text("no folder can be made here")
    registry.submit(database)
    job = registry.claimed(database)
    attempt = attempt_at(job, context, child := FakeChild())
    kind.prepare = lambda *arguments: Echo(report=Text(text="seeds"))
    context.folders.begin = lambda *arguments: Path("unused")  # type: ignore[method-assign]
    child.say(type="done", outcome=SEEDS, warm_base=None)
    attempt.run()
    assert registry.get(database, job).state is JobState.SUCCEEDED


@pytest.mark.parametrize("step", ["finish", "record"])
def test_defect_while_a_result_is_stored_fails_that_job_only(
    step: str, kind: Any, database: Database, context: AttemptContext
) -> None:
    def fail(*arguments: Any) -> Any:
        raise ValueError("broken")

    kind.finish = fail if step == "finish" else lambda *arguments: fail
    attempt, job = run(context, database, FakeChild(), {"type": "done", "outcome": SEEDS, "warm_base": None})
    assert (job.state, job.reason) == (JobState.FAILED, "ValueError: broken")
    assert [ended.id for ended in attempt.ended_jobs] == [job.id]


def test_worker_that_cannot_store_results_becomes_suspect(
    kind: Any, database: Database, context: AttemptContext
) -> None:
    def fail(*arguments: Any) -> Any:
        raise OSError("read-only file system")

    kind.finish = fail
    for number in range(1, SUSPECT_AFTER + 1):
        _, job = run(context, database, FakeChild(), {"type": "done", "outcome": SEEDS, "warm_base": None})
        assert (context.readiness.remark is not None) is (number == SUSPECT_AFTER)
        registry.cancel(database, job)
