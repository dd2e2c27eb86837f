"""Following jobs: events, results, cancellation, retry, and what a plan reports."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import registry
from support.adapters import save_adapter

from finch_hub import Hub, JobHandle, errors
from finch_hub.registry import adapter_versions, attempts, values
from finch_hub.registry.database import Database
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import JobState
from finch_hub.specs.reports import EvaluationReport


@pytest.fixture
def handle(hub: Hub, database: Database, tiny_folder: Path) -> JobHandle:
    return hub.evaluate([("a", "b")], base=tiny_folder)


@pytest.fixture
def worker(database: Database) -> Iterator[threading.Thread]:
    """Somebody who does the queued job a moment later, event by event."""

    def work() -> None:
        job = registry.claimed(database)
        for number in range(3):
            time.sleep(0.2)
            event = NewEvent(type="message", message=f"part {number}")
            with database.write() as session:
                attempts.append_events(session, job.id, job.fence, [event])
        report = EvaluationReport(evaluator="held_out_loss", dataset="0" * 64, results={"base": {"loss": 1.5}})
        registry.succeed(database, job, evaluation=report.model_dump(mode="json"))

    thread = threading.Thread(target=work)
    yield thread
    thread.join()


def test_events_are_followed_to_the_end_in_order_and_once(handle: JobHandle, worker: threading.Thread) -> None:
    worker.start()
    events = list(handle.events(follow=True))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.message for event in events if event.type == "message"] == ["part 0", "part 1", "part 2"]
    assert events[-1].data["state"] == "succeeded"
    assert [event.seq for event in handle.events(after=3)] == [event.seq for event in events[3:]]


def test_a_result_is_waited_for(handle: JobHandle, worker: threading.Thread) -> None:
    worker.start()
    result = handle.result()
    assert isinstance(result, EvaluationReport)
    assert result.results == {"base": {"loss": 1.5}}


def test_waiting_ends_when_its_time_is_up(handle: JobHandle) -> None:
    with pytest.raises(TimeoutError, match="queued"):
        handle.wait(timeout=0.1)


def test_a_failure_is_raised_with_its_reason(handle: JobHandle, database: Database) -> None:
    registry.fail(database, registry.claimed(database), "the disk is full")
    with pytest.raises(errors.JobFailed, match="the disk is full"):
        handle.result()


def test_a_cancelled_job_ends_and_can_be_submitted_again(hub: Hub, handle: JobHandle) -> None:
    assert handle.cancel().state is JobState.CANCELLED
    with pytest.raises(errors.JobCancelled):
        handle.result()
    again = handle.retry()
    assert again.id != handle.id
    assert again.spec == handle.spec
    with pytest.raises(errors.IllegalTransition):
        again.retry()
    assert hub.jobs.counts()[JobState.QUEUED] == 1


def test_an_unknown_job_is_not_found(hub: Hub) -> None:
    with pytest.raises(errors.NotFound):
        hub.jobs.get("nosuchjob")


def test_obstacles_say_why_no_worker_fits(hub: Hub, database: Database, tiny_folder: Path) -> None:
    from finch_hub.registry import workers
    from finch_hub.specs.jobs import Requirements

    handle = hub.train([("a", "b")], adapter="x", base=tiny_folder, requirements=Requirements(labels=("large",)))
    assert handle.obstacles() == {}  # nobody is known, so somebody may come
    device = values.Device(kind="cpu", name="cpu", memory_bytes=2**33, free_bytes=2**33)
    with database.write() as session:
        workers.register(
            session, "box", hostname="box", pid=1, version="0", schema_revision="0001", devices=[device], labels=()
        )
    assert handle.obstacles() == {"box": ["lacks the label large"]}


def test_a_plan_compares_every_pair_without_a_job(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    hub.bases.add(tiny_folder, name="tiny")
    for seed, name in enumerate(("first", "second", "third")):
        made = save_adapter(tiny_folder, tmp_path / name, seed=seed, r=4, lora_alpha=8, target_modules=["q_proj"])
        hub.import_adapter(made, name=name, base="tiny")
    report = hub.plan(["first", "second", "third"])
    assert {(pair.first, pair.second) for pair in report.pairs} == {
        ("first/1", "second/1"),
        ("first/1", "third/1"),
        ("second/1", "third/1"),
    }
    assert len(report.modules) == 3 * 2
    assert hub.jobs.find() == []


def test_a_plan_names_what_cannot_go_together(hub: Hub, database: Database, tiny_folder: Path, tmp_path: Path) -> None:
    hub.bases.add(tiny_folder, name="tiny")
    made = save_adapter(tiny_folder, tmp_path / "made", r=4, lora_alpha=8, target_modules=["q_proj"])
    ours = hub.import_adapter(made, name="ours", base="tiny")
    registry.add_version(database, "theirs", base="other", digest=ours.digest)
    report = hub.plan(["ours", "theirs"])
    assert len(report.structural) == 2
    assert report.pairs == ()
    assert "apart" in report.advice
    with pytest.raises(errors.NotFound, match="did you mean 'ours'"):
        hub.plan(["ours", "our"])


def test_a_probing_plan_measures_interference_on_what_was_held_out(
    hub: Hub, database: Database, tiny_folder: Path, tmp_path: Path
) -> None:
    base = hub.bases.add(tiny_folder, name="tiny")
    for seed, name in enumerate(("first", "second")):
        made = save_adapter(tiny_folder, tmp_path / name, seed=seed, r=4, lora_alpha=8, target_modules=["q_proj"])
        digest = hub.import_adapter(made, name=f"{name}-files", base="tiny").digest
        held_out = hub.datasets.add([(f"Who sings {n}?", f"The {name} finch.") for n in range(4)]).digest
        with database.write() as session:
            adapter_versions.create(
                session,
                name=name,
                digest=digest,
                identity=registry.digest(name),
                base_id=base.id,
                kind="train",
                lineage=values.Lineage(validation_digest=held_out),
            )
    (light,) = hub.plan(["first", "second"]).pairs
    (probed,) = hub.plan(["first", "second"], probe=True).pairs
    assert light.interference is None
    assert probed.interference is not None
    assert probed.sign_conflict == pytest.approx(light.sign_conflict)
