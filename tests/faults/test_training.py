"""Trainings that are interrupted: they go on from their checkpoint and end with the bytes of one that was not."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
from support.fleet import Fleet, wait_until

from finch_hub.engine.data.reading import dump_examples
from finch_hub.registry import adapters, jobs
from finch_hub.specs.examples import Example
from finch_hub.specs.jobs import BaseModelSource, JobState, TrainSpec
from finch_hub.specs.training import TrainingConfig

EXAMPLES = tuple(Example.of_pair(f"What does finch {n} eat?", f"Finch {n} eats {n} seeds.") for n in range(40))


def spec_of(workers: Fleet, base: Path) -> TrainSpec:
    digest = workers.artifacts.put(dump_examples(EXAMPLES))
    training = TrainingConfig(
        epochs=12, batch_size=1, learning_rate=2e-3, checkpoint_every=10, evaluate_every=100, dtype="float32", threads=1
    )
    return TrainSpec(adapter="finches", base=BaseModelSource(source=str(base)), train=digest, training=training)


def identity_of(workers: Fleet, job: str) -> str:
    with workers.database.read() as session:
        return adapters.resolve(session, workers.job(job).result["adapter"]).identity  # type: ignore[index]


def test_a_killed_child_resumes_from_its_checkpoint_bit_for_bit(workers: Fleet, tiny_folder: Path) -> None:
    worker = workers.start()
    spec = spec_of(workers, tiny_folder)
    killed = workers.submit(spec)
    wait_until(lambda: steps_of(workers, killed) > 20, "training to be under way")
    os.kill(child_of(worker.pid), signal.SIGKILL)
    assert workers.wait(killed).state is JobState.SUCCEEDED
    assert any("resumed after step" in line for line in workers.told(killed))
    whole = workers.submit(spec)
    assert workers.wait(whole).state is JobState.SUCCEEDED
    assert not any("resumed" in line for line in workers.told(whole))
    assert identity_of(workers, killed) == identity_of(workers, whole)
    workers.check(killed, whole)


@pytest.mark.slow
def test_sigterm_checkpoints_at_the_next_step(workers: Fleet, tiny_folder: Path) -> None:
    first = workers.start("first")
    job = workers.submit(
        spec_of(workers, tiny_folder).evolve(training=TrainingConfig(epochs=12, batch_size=1, threads=1))
    )
    wait_until(lambda: steps_of(workers, job) > 20, "training to be under way")
    first.send(signal.SIGTERM)
    assert first.wait() == 0
    assert workers.job(job).state is JobState.QUEUED
    workers.start("second")
    assert workers.wait(job).state is JobState.SUCCEEDED
    assert any("resumed after step" in line for line in workers.told(job))
    assert workers.job(job).attempts == 1
    workers.check(job)


@pytest.mark.slow
def test_without_its_checkpoint_a_job_begins_anew_on_another_machine(workers: Fleet, tiny_folder: Path) -> None:
    first = workers.start("first")
    job = workers.submit(spec_of(workers, tiny_folder))
    wait_until(lambda: steps_of(workers, job) > 20, "training to be under way")
    first.send(signal.SIGKILL)
    workers.start("second", finch_home=str(workers.folder / "another-home"))
    assert workers.wait(job).state is JobState.SUCCEEDED
    assert not any("resumed" in line for line in workers.told(job))
    workers.check(job)


def steps_of(workers: Fleet, job: str) -> int:
    """Return the last step that the job reported."""
    with workers.database.read() as session:
        told = jobs.list_events(session, job, limit=10_000)
    return max((event.data["step"] for event in told if event.type == "progress"), default=0)


def child_of(worker: int) -> int:
    return next(process.pid for process in psutil.Process(worker).children())
