"""Jobs of earlier runs of the demo, found by their inputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import registry

from examples.demo import finished_jobs
from finch_hub import Hub
from finch_hub.registry import jobs
from finch_hub.settings import Settings
from finch_hub.specs.jobs import BaseModelSource, ComposeSpec, Job, Parent, TrainSpec
from finch_hub.specs.training import TrainingConfig

TRAIN = TrainSpec(
    adapter="style", base=BaseModelSource(source="a-base"), train="a" * 64, training=TrainingConfig(epochs=2)
)
COMPOSE = ComposeSpec(adapter="both", parents=(Parent(adapter="style/1"), Parent(adapter="code/1")), evaluations=3)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub(Settings(home=tmp_path)) as hub:
        yield hub


def submit(hub: Hub, spec: TrainSpec | ComposeSpec) -> Job:
    """Submit a job without a worker, so that it stays queued."""
    with hub._stores.database.write() as session:
        return registry.submit_job(session, spec)


def test_a_job_is_found_by_all_of_its_inputs(hub: Hub) -> None:
    job = submit(hub, TRAIN)
    inputs = {"adapter": "style", "train": "a" * 64, "validation": None, "training.epochs": 2}
    found = finished_jobs.find(hub, "train", inputs)
    assert found is not None
    assert found.id == job.id
    others = {"adapter": "code", "train": "b" * 64, "validation": "c" * 64, "training.epochs": 3, "training.x": 1}
    for name, value in others.items():
        assert finished_jobs.find(hub, "train", {**inputs, name: value}) is None, name
    assert finished_jobs.find(hub, "compose", {"adapter": "style"}) is None


def test_parents_count_in_their_order(hub: Hub) -> None:
    job = submit(hub, COMPOSE)
    parents = [{"adapter": "style/1", "weight": 1.0}, {"adapter": "code/1", "weight": 1.0}]
    found = finished_jobs.find(hub, "compose", {"parents": parents, "evaluations": 3})
    assert found is not None
    assert found.id == job.id
    assert finished_jobs.find(hub, "compose", {"parents": parents[::-1]}) is None


def test_a_cancelled_job_is_not_found_but_its_retry_is(hub: Hub) -> None:
    first = submit(hub, TRAIN)
    with hub._stores.database.write() as session:
        jobs.request_cancel(session, first.id)
    assert finished_jobs.find(hub, "train", {"adapter": "style"}) is None
    with hub._stores.database.write() as session:
        second = jobs.retry(session, first.id)
    found = finished_jobs.find(hub, "train", {"adapter": "style"})
    assert found is not None
    assert found.id == second.id
