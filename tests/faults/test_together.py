"""Groups of trainings in one step: each stays a job of its own, and a failure of the process uses up no attempt."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest
from support.fleet import Fleet, wait_until

from finch_hub.engine.data.reading import dump_examples
from finch_hub.registry import adapter_versions, jobs, values
from finch_hub.specs.examples import Example
from finch_hub.specs.jobs import BaseModelSource, JobState, Requirements, TrainSpec
from finch_hub.specs.training import TrainingConfig

EXAMPLES = tuple(Example.of_pair(f"What does finch {n} eat?", f"Finch {n} eats {n} seeds.") for n in range(40))
TOGETHER = Requirements(together=True)


def submit(
    workers: Fleet, base: Path, *names: str, epochs: int = 4, requirements: Requirements = TOGETHER
) -> list[str]:
    """Submit one training for each name, all in one transaction, so that a worker finds all of them."""
    digest = workers.artifacts.put(dump_examples(EXAMPLES))
    training = TrainingConfig(epochs=epochs, batch_size=1, learning_rate=2e-3, evaluate_every=100, threads=1)
    source = BaseModelSource(source=str(base))
    specs = [TrainSpec(adapter=name, base=source, train=digest, training=training) for name in names]
    with workers.database.write() as session:
        made = jobs.submit_many(session, [values.NewJob.of_spec(spec, requirements=requirements) for spec in specs])
    return [job.id for job in made]


def version_of(workers: Fleet, job: str) -> values.AdapterVersion:
    with workers.database.read() as session:
        return adapter_versions.resolve(session, workers.job(job).result["adapter"])  # type: ignore[index]


def steps_of(workers: Fleet, job: str) -> int:
    with workers.database.read() as session:
        told = jobs.list_events(session, job, limit=10_000)
    return max((event.data["step"] for event in told if event.type == "progress"), default=0)


@pytest.mark.slow
def test_members_end_separately_and_their_lineage_has_the_size_of_the_group(workers: Fleet, tiny_folder: Path) -> None:
    first, second = submit(workers, tiny_folder, "first", "second")
    (unwanted,) = submit(workers, tiny_folder, "unwanted", epochs=2000)
    workers.start()
    wait_until(lambda: steps_of(workers, unwanted) > 0, "the training to have begun")
    for job in (first, second):
        assert workers.wait(job).state is JobState.SUCCEEDED
        assert version_of(workers, job).lineage.environment["members"] == 3
    assert workers.job(unwanted).state is JobState.RUNNING
    workers.cancel(unwanted)
    assert workers.wait(unwanted).state is JobState.CANCELLED
    after = workers.probe()
    assert workers.wait(after).state is JobState.SUCCEEDED
    assert len({*workers.runs_of(after)}) == 1
    workers.check(first, second, unwanted, after)


@pytest.mark.slow
def test_group_whose_process_dies_is_trained_alone_without_using_up_an_attempt(
    workers: Fleet, tiny_folder: Path
) -> None:
    members = submit(workers, tiny_folder, "first", "second", epochs=6)
    worker = workers.start()
    wait_until(lambda: all(steps_of(workers, job) > 0 for job in members), "the training to have begun")
    (child,) = psutil.Process(worker.pid).children()
    os.kill(child.pid, signal.SIGKILL)
    for job in members:
        ended = workers.wait(job)
        assert (ended.state, ended.attempts) == (JobState.SUCCEEDED, 1)
        assert [attempt.outcome for attempt in workers.attempts(job)] == ["handed_back", "succeeded"]
        assert any("will be trained alone" in line and "SIGKILL" in line for line in workers.event_lines(job))
        assert version_of(workers, job).lineage.environment["members"] == 1
    workers.check(*members)


@pytest.mark.slow
def test_group_that_is_handed_back_resumes_from_its_checkpoints(workers: Fleet, tiny_folder: Path) -> None:
    members = submit(workers, tiny_folder, "first", "second", epochs=40)
    first = workers.start("first")
    wait_until(lambda: all(steps_of(workers, job) > 20 for job in members), "the training to have begun")
    first.send(signal.SIGTERM)
    assert first.wait() == 0
    assert [workers.job(job).state for job in members] == [JobState.QUEUED] * 2
    workers.start("second")
    for job in members:
        assert workers.wait(job).state is JobState.SUCCEEDED
        assert any("resumed after step" in line for line in workers.event_lines(job))
        assert workers.job(job).attempts == 1
    workers.check(*members)


@pytest.mark.slow
def test_group_of_a_lost_machine_goes_on_elsewhere(workers: Fleet, tiny_folder: Path) -> None:
    members = submit(workers, tiny_folder, "first", "second", epochs=60)
    first = workers.start("first", finch_checkpoint_seconds="0.05")
    wait_until(lambda: all(steps_of(workers, job) > 20 for job in members), "the training to have begun")
    # A member is stopped in the middle: its worker is told to end, writes the checkpoints and copies them.
    first.send(signal.SIGTERM)
    assert first.wait() == 0
    shutil.rmtree(workers.folder / "home")
    workers.start("second", finch_home=str(workers.folder / "another-home"))
    for job in members:
        assert workers.wait(job).state is JobState.SUCCEEDED
        assert any("resumed after step" in line for line in workers.event_lines(job))
    wait_until(lambda: workers.artifacts.list_named("checkpoints") == [], "the copies to be removed")
    workers.check(*members)


@pytest.mark.slow
def test_member_with_unusable_data_fails_alone(workers: Fleet, tiny_folder: Path) -> None:
    (good,) = submit(workers, tiny_folder, "good")
    silent = workers.artifacts.put(dump_examples([Example.of_pair("What does a finch eat? " * 400, "Seeds.")] * 4))
    training = TrainingConfig(epochs=1, batch_size=1, max_length=8, validation=0, threads=1)
    source = BaseModelSource(source=str(tiny_folder))
    spec = TrainSpec(adapter="bad", base=source, train=silent, training=training)
    bad = workers.submit(spec, send_message=False, requirements=TOGETHER)
    workers.start()
    failed = workers.wait(bad)
    assert (failed.state, failed.attempts) == (JobState.FAILED, 1)
    assert "leaves no room" in (failed.reason or "")
    assert workers.wait(good).state is JobState.SUCCEEDED
    workers.check(good, bad)
