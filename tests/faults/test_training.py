"""Trainings that are interrupted resume from their checkpoint and end with the same bytes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tarfile
from pathlib import Path

import psutil
import pytest
from support.fleet import Fleet, wait_until

from finch_hub.engine.data.reading import dump_examples
from finch_hub.registry import adapter_versions, adapters
from finch_hub.specs.examples import Example
from finch_hub.specs.jobs import BaseModelSource, JobState, TrainSpec
from finch_hub.specs.training import TrainingConfig
from finch_hub.workers.runs.channel import CHECKPOINTS

THIRD = r"unfinished-step-00000030/state\.safetensors$"  # the third checkpoint, at which the faults happen
EXAMPLES = tuple(Example.of_pair(f"What does finch {n} eat?", f"Finch {n} eats {n} seeds.") for n in range(40))


def spec_of(workers: Fleet, base: Path, *, epochs: int = 12) -> TrainSpec:
    digest = workers.artifacts.put(dump_examples(EXAMPLES))
    training = TrainingConfig(
        epochs=epochs,
        batch_size=1,
        learning_rate=2e-3,
        checkpoint_every=10,
        evaluate_every=100,
        dtype="float32",
        threads=1,
    )
    return TrainSpec(adapter="finches", base=BaseModelSource(source=str(base)), train=digest, training=training)


def identity_of(workers: Fleet, job: str) -> str:
    with workers.database.read() as session:
        return adapter_versions.resolve(session, workers.job(job).result["adapter"]).identity  # type: ignore[index]


@pytest.mark.slow
def test_killed_child_resumes_from_its_checkpoint_bit_for_bit(workers: Fleet, tiny_folder: Path) -> None:
    workers.start(finch_test_open=f"kill:{workers.folder / 'once'}:{THIRD}")
    spec = spec_of(workers, tiny_folder, epochs=2)
    killed = workers.submit(spec)
    assert workers.wait(killed).state is JobState.SUCCEEDED
    assert [attempt.outcome for attempt in workers.attempts(killed)] == ["failed", "succeeded"]
    assert any("resumed after step 20" in line for line in workers.event_lines(killed))
    whole = workers.submit(spec)
    assert workers.wait(whole).state is JobState.SUCCEEDED
    assert not any("resumed" in line for line in workers.event_lines(whole))
    assert identity_of(workers, killed) == identity_of(workers, whole)
    workers.check(killed, whole)


@pytest.mark.slow
def test_full_disk_keeps_the_older_checkpoint(workers: Fleet, tiny_folder: Path) -> None:
    workers.start(finch_test_open=f"full:{workers.folder / 'once'}:{THIRD}")
    job = workers.submit(spec_of(workers, tiny_folder))
    assert workers.wait(job).state is JobState.SUCCEEDED
    first, second = workers.attempts(job)
    assert first.outcome == "failed"
    assert "No space left on device" in (first.reason or "")
    assert second.outcome == "succeeded"
    assert any("resumed after step 20" in line for line in workers.event_lines(job))
    workers.check(job)


@pytest.mark.slow
def test_disk_that_stays_full_fails_the_job_with_that_reason(workers: Fleet, tiny_folder: Path) -> None:
    workers.start(finch_test_open=f"full::{THIRD}")
    job = workers.submit(spec_of(workers, tiny_folder))
    failed = workers.wait(job)
    assert failed.state is JobState.FAILED
    assert failed.attempts == 3
    assert "No space left on device" in (failed.reason or "")
    assert sum("resumed after step 20" in line for line in workers.event_lines(job)) == 2
    workers.check(job)


@pytest.mark.slow
def test_truncated_checkpoint_is_skipped_for_the_one_before(workers: Fleet, tiny_folder: Path) -> None:
    first = workers.start("first", finch_test_open=f"stop:{workers.folder / 'once'}:{THIRD}")
    job = workers.submit(spec_of(workers, tiny_folder))
    child = stopped_child(workers, first.pid)
    first.send(signal.SIGKILL)
    child.kill()  # a stopped child does not see that its supervisor is gone
    checkpoints = sorted((next((workers.folder / "home").glob("work*")) / job / "1" / CHECKPOINTS).glob("step-*"))
    assert [path.name for path in checkpoints] == ["step-00000010", "step-00000020"]
    os.truncate(checkpoints[-1] / "state.safetensors", 1000)
    workers.start("second")
    assert workers.wait(job).state is JobState.SUCCEEDED
    assert any("step-00000020 is damaged" in line for line in workers.event_lines(job))
    assert any("resumed after step 10" in line for line in workers.event_lines(job))
    workers.check(job)


@pytest.mark.slow
def test_sigterm_checkpoints_at_the_next_step(workers: Fleet, tiny_folder: Path) -> None:
    first = workers.start("first", finch_test_open=f"stop:{workers.folder / 'once'}:{THIRD}")
    job = workers.submit(spec_of(workers, tiny_folder))
    child = stopped_child(workers, first.pid)
    first.send(signal.SIGTERM)
    wait_until(lambda: "why=hand_back" in first.text, "the child to be stopped")
    child.resume()
    assert first.wait() == 0
    assert workers.job(job).state is JobState.QUEUED
    workers.start("second")
    assert workers.wait(job).state is JobState.SUCCEEDED
    resumed = [found for line in workers.event_lines(job) if (found := re.search(r"resumed after step (\d+)", line))]
    assert len(resumed) == 1
    assert int(resumed[0].group(1)) >= 30
    assert workers.job(job).attempts == 1
    workers.check(job)


@pytest.mark.slow
def test_crash_between_storing_and_recording_makes_no_version(workers: Fleet, tiny_folder: Path) -> None:
    once = workers.folder / "crashed-once"
    first = workers.start("first", finch_fault=f"supervisor.stored:kill:{once}")
    job = workers.submit(spec_of(workers, tiny_folder))
    assert first.wait() != 0
    workers.cancel(job)
    workers.start("second")
    assert workers.wait(job).state is JobState.CANCELLED
    with workers.database.read() as session:
        assert adapters.find(session).adapters == (), "there is no incomplete version"
    assert len(list((workers.folder / "artifacts" / "trees").glob("*/*"))) == 1, "the files were stored"
    workers.check(job)


@pytest.mark.slow
def test_job_of_a_lost_machine_goes_on_elsewhere_with_the_same_bytes(workers: Fleet, tiny_folder: Path) -> None:
    workers.environment["FINCH_CHECKPOINT_SECONDS"] = "0.05"
    once = workers.folder / "once"
    first = workers.start("first", finch_test_open=f"stop:{once}:{THIRD}")
    spec = spec_of(workers, tiny_folder, epochs=2)
    lost = workers.submit(spec)
    child = stopped_child(workers, first.pid)
    wait_until(lambda: stored_step(workers, lost) == "step-00000020", "the checkpoint to be copied")
    first.send(signal.SIGKILL)
    child.kill()
    shutil.rmtree(workers.folder / "home")
    workers.start("second", finch_home=str(workers.folder / "another-home"))
    assert workers.wait(lost).state is JobState.SUCCEEDED
    assert any("resumed after step 20" in line for line in workers.event_lines(lost))
    whole = workers.submit(spec)
    assert workers.wait(whole).state is JobState.SUCCEEDED
    assert not any("resumed" in line for line in workers.event_lines(whole))
    assert identity_of(workers, lost) == identity_of(workers, whole)
    wait_until(lambda: workers.artifacts.list_named("checkpoints") == [], "the copies to be removed")
    workers.check(lost, whole)


@pytest.mark.slow
def test_job_that_is_handed_back_goes_on_elsewhere(workers: Fleet, tiny_folder: Path) -> None:
    """The machine may be taken away, so the last checkpoint is copied within the grace."""
    first = workers.start("first", finch_test_open=f"stop:{workers.folder / 'once'}:{THIRD}")
    job = workers.submit(spec_of(workers, tiny_folder))
    child = stopped_child(workers, first.pid)
    first.send(signal.SIGTERM)
    wait_until(lambda: "why=hand_back" in first.text, "the child to be stopped")
    child.resume()
    assert first.wait() == 0
    shutil.rmtree(workers.folder / "home")
    workers.start("second", finch_home=str(workers.folder / "another-home"))
    assert workers.wait(job).state is JobState.SUCCEEDED
    assert any(re.search(r"resumed after step [3-9]\d", line) for line in workers.event_lines(job))
    assert workers.job(job).attempts == 1
    workers.check(job)


@pytest.mark.slow
def test_store_that_takes_no_checkpoint_does_not_stop_the_training(workers: Fleet, tiny_folder: Path) -> None:
    workers.start(finch_checkpoint_seconds="0.05")
    (workers.folder / "artifacts").mkdir(exist_ok=True)
    (workers.folder / "artifacts" / "checkpoints").write_text("no folder can be made here")
    job = workers.submit(spec_of(workers, tiny_folder))
    assert workers.wait(job).state is JobState.SUCCEEDED
    assert sum("could not copy the checkpoint" in line for line in workers.event_lines(job)) == 1
    assert workers.job(job).attempts == 1
    workers.check(job)


def stored_step(workers: Fleet, job: str) -> str:
    """Return the checkpoint of the first attempt that the artifact store has, empty if it has none."""
    file = workers.folder / "artifacts" / "checkpoints" / f"{job}-1"
    if not file.exists():
        return ""
    with tarfile.open(file) as opened:
        return opened.getnames()[0].partition("/")[0]


def stopped_child(workers: Fleet, worker: int) -> psutil.Process:
    """Wait until the worker's child has stopped itself, and return it."""
    wait_until((workers.folder / "once").exists, "the third checkpoint to begin")
    (child,) = psutil.Process(worker).children()
    wait_until(lambda: child.status() == psutil.STATUS_STOPPED, "the child to stop")
    return child
