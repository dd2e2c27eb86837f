from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from finch_hub.registry import placement, values
from finch_hub.specs.jobs import Requirements

GPU = values.Device(kind="cuda", name="L4", memory_bytes=24 * 2**30, free_bytes=20 * 2**30)
CPU = values.Device(kind="cpu", name="2 cores", memory_bytes=2**34, free_bytes=2**33)


def worker(
    name: str, *devices: values.Device, queue: str = "default", state: Literal["active", "silent"] = "active"
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


def test_misfits_name_what_is_missing() -> None:
    slot = values.Capabilities(device="cpu", memory_bytes=2**30, queues=("default",), labels=("ada",))
    asked = Requirements(queue="night", device="cuda", memory_bytes=3 * 2**30, labels=("ada", "big", "eu"))
    assert placement.list_misfits(asked, slot) == [
        "does not serve queue 'night'",
        "has no cuda device",
        "has 1.0 GiB of memory, but the job needs 3.0 GiB",
        "lacks the labels big, eu",
    ]


def test_obstacles_are_named_for_each_living_worker() -> None:
    workers = [
        worker("cpu", CPU),
        worker("night", GPU, queue="night"),
        worker("nothing"),
        worker("gone", GPU, state="silent"),
    ]
    assert placement.list_obstacles(Requirements(device="cuda"), workers) == {
        "cpu": ["has no cuda device"],
        "night": ["does not serve queue 'default'"],
        "nothing": ["has no device"],
    }
    assert placement.list_obstacles(Requirements(device="cuda", queue="night"), workers) == {}
    assert placement.list_obstacles(Requirements(), workers) == {}


def test_worker_can_run_a_job_if_any_of_its_devices_fits() -> None:
    both = worker("both", CPU, GPU)
    assert placement.can_run(both, Requirements(device="cuda"))
    assert not placement.can_run(both, Requirements(device="cuda", memory_bytes=2**40))
