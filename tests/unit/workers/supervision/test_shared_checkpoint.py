"""The copy of a checkpoint in the artifact store, made beside the job. Its resumption is in `tests/faults`."""

from __future__ import annotations

import datetime
import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.fleet import wait_until

from finch_hub import errors, settings
from finch_hub.artifacts import checkpoints
from finch_hub.artifacts.store import ArtifactStore
from finch_hub.specs.jobs import Job, JobState
from finch_hub.workers.runs.channel import CHECKPOINTS
from finch_hub.workers.supervision import clock
from finch_hub.workers.supervision.blocking_calls import BlockingCalls
from finch_hub.workers.supervision.shared_checkpoint import SharedCheckpoint
from finch_hub.workers.supervision.work_folders import WorkFolders


class Machine:
    """A machine with a home of its own, the store that it shares with others, and what its attempts said."""

    def __init__(self, home: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        self.now = 1000.0
        monkeypatch.setattr(clock, "elapsed", lambda: self.now)
        self.messages: list[str] = []
        self.folders, self.calls, self.store = WorkFolders(home / "work"), BlockingCalls(), store
        addresses = {"database_url": "postgresql://db/finch", "artifacts_url": "s3://finch", **changes}
        stores = SimpleNamespace(settings=settings.load(home=home, **addresses), artifacts=store)
        self.context: Any = SimpleNamespace(stores=stores, folders=self.folders, blocking_calls=self.calls)

    def begin(self, job: Job) -> SharedCheckpoint:
        self.folders.begin(job.id, job.fence)
        record: Any = SimpleNamespace(add_message=lambda text, *, level: self.messages.append(text))
        return SharedCheckpoint(self.context, job, record)

    def write(self, job: Job, step: int, *names: str) -> Path:
        checkpoint = self.folders.folder_of(job.id, job.fence) / CHECKPOINTS / f"step-{step:08d}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        for name in names or ("state.json",):
            (checkpoint / name).write_text(str(step))
        return checkpoint

    def steps(self, job: Job) -> list[int]:
        folder = self.folders.folder_of(job.id, job.fence) / CHECKPOINTS
        return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("*"))

    def copy(self, shared: SharedCheckpoint, *, after: float = 120.0) -> None:
        """Let a shared checkpoint look after so many seconds, and wait for what it begins."""
        self.now += after
        shared.copy_if_due()
        assert shared._wait(self.now + 60.0)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"), cache=tmp_path / "cache")


@pytest.fixture
def machine(tmp_path: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(tmp_path / "home", store, monkeypatch)
    yield made
    made.calls.close()


def attempt(fence: int = 1) -> Job:
    """Return the job as an attempt has it."""
    created = datetime.datetime.now(datetime.UTC)
    return Job(id="job", kind="train", state=JobState.RUNNING, spec={}, fence=fence, created_at=created)


def stored(store: ArtifactStore) -> list[str]:
    return store.list_named("checkpoints")


def test_newest_checkpoint_is_copied_at_intervals(machine: Machine, store: ArtifactStore, tmp_path: Path) -> None:
    job = attempt()
    shared = machine.begin(job)
    machine.copy(shared)
    assert stored(store) == [], "there is none yet"
    machine.write(job, 9)
    machine.write(job, 10)
    machine.copy(shared, after=119.0)
    assert stored(store) == [], "the last look was a moment ago"
    machine.copy(shared, after=1.0)
    assert stored(store) == ["job-1"]
    assert checkpoints.fetch(store, job.id, tmp_path / "new", after=0, before=2)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["step-00000010"]


def test_same_checkpoint_is_copied_once_and_one_that_grew_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    monkeypatch.setattr(checkpoints, "put", lambda store, job, fence, checkpoint, archive: copied.append(checkpoint))
    job = attempt()
    shared = machine.begin(job)
    first = machine.write(job, 1, "0.json", ".unfinished")
    for _ in range(3):
        machine.copy(shared)
    assert copied == [first]
    machine.write(job, 1, "1.json")
    machine.copy(shared)
    assert copied == [first, first]


def test_another_machine_gets_the_copy_and_the_same_one_what_it_has(
    machine: Machine, tmp_path: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = attempt()
    shared = machine.begin(first)
    machine.write(first, 10)
    machine.copy(shared)
    machine.write(first, 20)
    second = attempt(2)
    assert machine.begin(second).is_expected
    machine.begin(second).fetch()
    assert machine.steps(second) == [10, 20], "the copy is older than what is here"
    third, other = attempt(3), Machine(tmp_path / "other-home", store, monkeypatch)
    moved = other.begin(third)
    moved.fetch()
    assert other.steps(third) == [10]
    other.write(third, 30)
    other.copy(moved)
    fourth = attempt(4)
    machine.begin(fourth).fetch()
    assert machine.steps(fourth) == [10, 20, 30]
    other.calls.close()


def test_trouble_of_the_store_is_said_once_and_the_copy_is_tried_again(
    machine: Machine, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = attempt()
    shared = machine.begin(job)
    machine.write(job, 10)
    put = checkpoints.put

    def fail(*arguments: Any, **options: Any) -> None:
        raise errors.StoreUnavailable("artifact store s3://finch: no space left")

    monkeypatch.setattr(checkpoints, "put", fail)
    for _ in range(3):
        machine.copy(shared)
    (message,) = machine.messages
    assert message.startswith("could not copy the checkpoint to the artifact store")
    assert message.endswith(": artifact store s3://finch: no space left")
    monkeypatch.setattr(checkpoints, "put", put)
    machine.copy(shared)
    assert stored(store) == ["job-1"]
    monkeypatch.setattr(checkpoints, "put", fail)
    machine.write(job, 20)
    machine.copy(shared)
    assert len(machine.messages) == 2, "this is new trouble"


def test_disk_that_fails_ends_no_attempt(
    machine: Machine, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "the disk is damaged")

    job = attempt()
    shared = machine.begin(job)
    machine.write(job, 10)
    with monkeypatch.context() as broken:
        broken.setattr(Path, "iterdir", fail)
        machine.copy(shared)
    (message,) = machine.messages
    assert "the disk is damaged" in message
    machine.copy(shared)
    assert stored(store) == ["job-1"]


def test_checkpoint_that_was_replaced_meanwhile_is_tried_again_at_once(machine: Machine, store: ArtifactStore) -> None:
    job = attempt()
    shared = machine.begin(job)
    machine.write(job, 10)
    machine.now += 120.0
    machine.write(job, 10).rename(machine.write(job, 9).parent / "step-00000020")
    shared._files, shared._copying = [], machine.calls.start(lambda: Path("missing").stat() and None)
    assert shared._wait(machine.now + 60.0)
    machine.copy(shared, after=0.0)
    assert stored(store) == ["job-1"]
    assert machine.messages == []


def test_store_that_hangs_stops_neither_the_job_nor_its_end(
    machine: Machine, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, calls = threading.Event(), []
    put = checkpoints.put

    def hang(*arguments: Any, **options: Any) -> None:
        calls.append(1)
        hangs.wait(60.0)
        put(*arguments, **options)

    monkeypatch.setattr(checkpoints, "put", hang)
    job = attempt()
    shared = machine.begin(job)
    machine.write(job, 10)
    for _ in range(3):
        machine.now += 120.0
        shared.copy_if_due()
    shared.finish(0.01)
    assert stored(store) == [], "it waited no longer than it was given"
    assert calls == [1], "no second copy begins beside one that hangs"
    shared.end(job.evolve(state=JobState.CANCELLED))
    hangs.set()
    assert shared._wait(machine.now + 60.0)
    wait_until(lambda: stored(store) == [], "the copy to be removed after it was made")


@pytest.mark.parametrize(("seconds", "is_copied"), [(60.0, True), (0.0, False), (-5.0, False)])
def test_last_checkpoint_is_copied_within_the_grace(
    seconds: float, is_copied: bool, machine: Machine, store: ArtifactStore
) -> None:
    job = attempt()
    shared = machine.begin(job)
    machine.write(job, 10)
    shared.finish(seconds)
    assert stored(store) == (["job-1"] if is_copied else [])


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])
def test_copies_of_all_attempts_are_removed_when_the_job_ends(
    state: JobState, machine: Machine, store: ArtifactStore
) -> None:
    first = attempt()
    shared = machine.begin(first)
    machine.write(first, 10)
    machine.copy(shared)
    second = attempt(2)
    machine.begin(second).end(second.evolve(state=state))
    if state is JobState.QUEUED:
        assert stored(store) == ["job-1"]
    else:
        wait_until(lambda: stored(store) == [], "the copies to be removed")


def test_hub_of_one_machine_has_no_copies(
    tmp_path: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for changes in ({"database_url": None}, {"artifacts_url": None}):
        machine = Machine(tmp_path / "home", store, monkeypatch, **changes)
        job = attempt()
        shared = machine.begin(job)
        machine.write(job, 10)
        machine.copy(shared)
        assert not machine.begin(attempt(2)).is_expected
        shared.finish(60.0)
        shared.end(job.evolve(state=JobState.SUCCEEDED))
        assert not (tmp_path / "store").exists()
        machine.calls.close()
