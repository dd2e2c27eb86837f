"""Job handles: events, results, cancellation, retry and obstacles."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import registry

from finch_hub import Hub, JobHandle, JobState, errors
from finch_hub.display import tables
from finch_hub.hub import jobs as hub_jobs
from finch_hub.registry import attempts, jobs, settlements, values
from finch_hub.registry.database import Database
from finch_hub.specs.events import NewEvent
from finch_hub.specs.reports import EvaluationReport


@pytest.fixture
def handle(hub: Hub, database: Database, tiny_folder: Path) -> JobHandle:
    return hub.evaluate([("a", "b")], base=tiny_folder)


@pytest.fixture
def worker(database: Database) -> Iterator[threading.Thread]:
    """A thread that runs the queued job a moment later, event by event."""

    def work() -> None:
        job = registry.claimed(database)
        for number in range(3):
            time.sleep(0.2)
            event = NewEvent(type="message", message=f"part {number}")
            with database.write() as session:
                attempts.append_events(session, job, [event])
        report = EvaluationReport(evaluator="held_out_loss", dataset="0" * 64, results={"base": {"loss": 1.5}})
        registry.succeed(database, job, report=report.model_dump(mode="json"))

    thread = threading.Thread(target=work)
    yield thread
    thread.join()


def test_events_are_followed_to_the_end_in_order(handle: JobHandle, worker: threading.Thread) -> None:
    worker.start()
    events = list(handle.events(follow=True))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.message for event in events if event.type == "message"] == ["part 0", "part 1", "part 2"]
    assert events[-1].data["state"] == "succeeded"
    assert [event.seq for event in handle.events(after=3)] == [event.seq for event in events[3:]]


def test_result_waits_for_the_job(handle: JobHandle, worker: threading.Thread) -> None:
    worker.start()
    result = handle.result()
    assert isinstance(result, EvaluationReport)
    assert result.results == {"base": {"loss": 1.5}}


def test_wait_ends_after_its_timeout(handle: JobHandle) -> None:
    with pytest.raises(TimeoutError, match="queued"):
        handle.wait(timeout=0.1)


def test_result_of_a_failed_job_raises_its_reason(handle: JobHandle, database: Database) -> None:
    registry.fail(database, registry.claimed(database), "the disk is full")
    with pytest.raises(errors.JobFailed, match="the disk is full"):
        handle.result()


def test_cancelled_job_can_be_retried(hub: Hub, handle: JobHandle) -> None:
    assert handle.cancel().state is JobState.CANCELLED
    with pytest.raises(errors.JobCancelled):
        handle.result()
    again = handle.retry()
    assert again.id != handle.id
    assert again.spec == handle.spec
    with pytest.raises(errors.IllegalTransition):
        again.retry()
    assert hub.jobs.counts()[JobState.QUEUED] == 1


def test_cancellation_fails_all_dependents_without_a_worker(hub: Hub, handle: JobHandle, database: Database) -> None:
    new = values.NewJob.of_spec(registry.train_spec(), depends_on=(handle.id,))
    with database.write() as session:
        dependents = jobs.submit_many(session, [new] * 150)
    handle.cancel()
    assert hub.jobs.counts()[JobState.FAILED] == len(dependents)


def test_cancellation_succeeds_although_the_database_does_not_answer_afterwards(
    handle: JobHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(database: Database) -> bool:
        raise errors.Unavailable("the database does not answer")

    monkeypatch.setattr(settlements, "settle_due", fail)
    assert handle.cancel().state is JobState.CANCELLED


def test_unknown_job_is_not_found(hub: Hub) -> None:
    with pytest.raises(errors.NotFound):
        hub.jobs.get("nosuchjob")


def test_obstacles_give_the_reasons_of_each_worker(hub: Hub, database: Database, tiny_folder: Path) -> None:
    from finch_hub.registry import workers
    from finch_hub.specs.jobs import Requirements

    handle = hub.train([("a", "b")], adapter="x", base=tiny_folder, requirements=Requirements(labels=("large",)))
    assert handle.obstacles() == {}  # without any worker there are no reasons
    device = values.Device(kind="cpu", name="cpu", memory_bytes=2**33, free_bytes=2**33)
    with database.write() as session:
        workers.register(
            session,
            values.WorkerDescription(
                id="box", hostname="box", pid=1, version="0", schema_revision="0001", devices=(device,), labels=()
            ),
        )
    assert handle.obstacles() == {"box": ["lacks the label large"]}


def test_follow_and_waiting_with_progress_show_the_events(
    handle: JobHandle, worker: threading.Thread, capsys: pytest.CaptureFixture[str]
) -> None:
    tables.console.cache_clear()
    worker.start()
    assert handle.wait(progress=True).state is JobState.SUCCEEDED
    assert [line.strip() for line in capsys.readouterr().err.splitlines() if "part" in line] == [
        "part 0",
        "part 1",
        "part 2",
    ]
    assert handle.wait(progress=True).state is JobState.SUCCEEDED
    assert capsys.readouterr().err == "", "the job had ended before"
    handle.follow()
    assert "part 1" in capsys.readouterr().err


def test_waiting_shows_nothing_where_nobody_looks(
    handle: JobHandle, worker: threading.Thread, capsys: pytest.CaptureFixture[str]
) -> None:
    worker.start()
    handle.result()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("wait", [JobHandle.wait, JobHandle.result, JobHandle.report, JobHandle.follow])
def test_ctrl_c_says_how_to_go_on_and_cancels_nothing(
    wait: Callable[[JobHandle], object],
    handle: JobHandle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        wait(handle)
    told = capsys.readouterr().err
    assert f'hub.jobs["{handle.id}"].follow()' in told
    assert f'hub.jobs["{handle.id}"].cancel()' in told
    assert not handle.refresh().cancel_requested


def test_history_is_columns_of_equal_length(handle: JobHandle, database: Database) -> None:
    assert set(map(len, handle.history().values())) == {0}
    job = registry.claimed(database)
    figures = [{"step": step, "epoch": 0.5, "loss": 2.0 / step, "learning_rate": 1e-3} for step in (1, 2)]
    events = [NewEvent(type="progress", data=data) for data in figures]
    events.insert(0, NewEvent(type="metrics", data={"step": 0, "valid_loss": 3.0, "valid_accuracy": 0.25}))
    with database.write() as session:
        attempts.append_events(session, job, events)
    assert handle.history() == {
        "step": [0, 1, 2],
        "train_loss": [None, 2.0, 1.0],
        "learning_rate": [None, 1e-3, 1e-3],
        "held_out_loss": [3.0, None, None],
        "held_out_accuracy": [0.25, None, None],
    }
    assert "<svg" in handle._repr_html_()
    registry.fail(database, job, "the disk is full")
    assert "the disk is full" in handle._repr_html_(), "the state is as new as the curve"


def test_jobs_are_looked_up_and_looped_over(hub: Hub, handle: JobHandle, tiny_folder: Path) -> None:
    other = hub.evaluate([("a", "b")], base=tiny_folder)
    assert list(hub.jobs) == [other.id, handle.id]
    assert hub.jobs[handle.id].id == handle.id
    assert handle.id in hub.jobs
    assert "nothing" not in hub.jobs
    for name in handle._list_fields():
        assert getattr(handle, name) is not None, name
    assert repr(handle) == f"JobHandle(id='{handle.id}', kind='evaluate', state='queued')"


def test_a_loop_over_jobs_goes_on_while_jobs_are_deleted(
    hub: Hub, handle: JobHandle, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_jobs, "_PAGE_SIZE", 2)
    ended = [hub.evaluate([("a", "b")], base=tiny_folder) for _ in range(2)]
    newest = hub.evaluate([("a", "b")], base=tiny_folder)
    for job in ended:
        job.cancel()
    seen = hub.jobs.iterate()
    assert [next(seen).id, next(seen).id] == [newest.id, ended[1].id], "the last of a page is deleted next"
    assert hub.jobs.prune(keep=0) == 2
    assert [job.id for job in seen] == [handle.id]
    with pytest.raises(errors.NotFound, match=ended[1].id):
        hub.jobs.find(before=ended[1].id)
