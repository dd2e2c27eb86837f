from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from finch_hub.registry import placement, values
from finch_hub.specs.jobs import Job, JobState, Requirements

GPU = values.Device(kind="cuda", name="L4", memory_bytes=24 * 2**30, free_bytes=20 * 2**30)
CPU = values.Device(kind="cpu", name="2 cores", memory_bytes=2**34, free_bytes=2**33)


def worker(
    name: str,
    *devices: values.Device,
    queue: str = "default",
    state: Literal["active", "draining", "silent"] = "active",
) -> values.Worker:
    now = datetime.now(UTC)
    return values.Worker(
        id=name,
        instance=name,
        hostname="box",
        pid=7,
        version="0.1.0",
        schema_revision="0001",
        slots=1,
        devices=devices,
        queues=(queue,),
        labels=(),
        state=state,
        started_at=now,
        last_seen=now,
    )


def job(kind: str = "merge", set_aside: tuple[str, ...] = (), **requirements: Any) -> Job:
    return Job(
        id="job",
        kind=kind,
        state=JobState.QUEUED,
        spec={},
        requirements=Requirements(**requirements),
        created_at=datetime.now(UTC),
        set_aside=set_aside,
    )


def test_misfits_name_what_is_missing() -> None:
    slot = values.Capabilities(device="cpu", memory_bytes=2**30, queues=("default",), labels=("ada",))
    asked = Requirements(queue="night", device="cuda", memory_bytes=3 * 2**30, labels=("ada", "big", "eu"))
    assert placement.list_misfits(asked, slot) == [
        "does not serve queue 'night'",
        "has no cuda device",
        "has 1.1 GB of memory, but the job needs 3.2 GB",
        "lacks the labels big, eu",
    ]


def test_obstacles_are_named_for_each_living_worker() -> None:
    workers = [
        worker("cpu", CPU),
        worker("night", GPU, queue="night"),
        worker("nothing"),
        worker("gone", GPU, state="silent"),
    ]
    assert placement.list_obstacles(job(device="cuda"), workers) == {
        "cpu": ["has no cuda device"],
        "night": ["does not serve queue 'default'"],
        "nothing": ["has no device"],
    }
    assert placement.list_obstacles(job(device="cuda", queue="night"), workers) == {}
    assert placement.list_obstacles(job(), workers) == {}


def test_worker_can_run_a_job_if_any_of_its_devices_fits() -> None:
    both = worker("both", CPU, GPU)
    assert placement.can_run(both, Requirements(device="cuda"))
    assert not placement.can_run(both, Requirements(device="cuda", memory_bytes=2**40))


def test_obstacles_name_workers_whose_version_cannot_read_the_job() -> None:
    old = worker("old", CPU).evolve(kinds=("train", "merge"))
    new = worker("new", CPU).evolve(kinds=("train", "merge", "distill"), version="0.2.0")
    assert placement.list_obstacles(job("distill"), [old]) == {"old": ["does not know jobs of the kind 'distill'"]}
    assert placement.list_obstacles(job("distill"), [old, new]) == {}
    aside = job(set_aside=("0.1.0",), device="cuda")
    assert placement.list_obstacles(aside, [old])["old"] == [
        "cannot read the job with its finch-hub 0.1.0",
        "has no cuda device",
    ]
    assert placement.list_unreadable(aside, new) == []


def test_obstacles_say_why_a_worker_claims_no_jobs() -> None:
    paused = worker("paused", CPU).evolve(remark="its store is away")
    leaving = worker("leaving", CPU, state="draining")
    assert placement.list_obstacles(job(), [paused, leaving]) == {
        "paused": ["claims no jobs: its store is away"],
        "leaving": ["claims no jobs: it is draining"],
    }
    assert placement.list_obstacles(job(), [paused, worker("good", CPU)]) == {}
