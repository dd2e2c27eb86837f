from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import registry
from support.children import FakeChild
from support.logs import list_said

from finch_hub import errors, settings
from finch_hub.artifacts.store import ArtifactStore
from finch_hub.registry import values
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import JobState
from finch_hub.storage.redaction import Redactor
from finch_hub.workers.supervision import attempt_source
from finch_hub.workers.supervision.attempt import Attempt
from finch_hub.workers.supervision.attempt_source import AttemptSource
from finch_hub.workers.supervision.devices import Device
from finch_hub.workers.supervision.group import AttemptGroup
from finch_hub.workers.supervision.lease import ClaimedJob
from finch_hub.workers.supervision.slots import Slot
from finch_hub.workers.supervision.work_folders import WorkFolders


@pytest.fixture
def source(database: Database, tmp_path: Path) -> Iterator[AttemptSource]:
    """Source of attempts for a worker with 1,000 bytes of memory that trains up to three jobs together."""
    in_force = settings.load(home=tmp_path, memory_bytes=1000, gang_size=3)
    artifacts = ArtifactStore(str(tmp_path / "artifacts"), cache=tmp_path / "cache")
    redactor = Redactor.of(in_force)
    stores: Any = SimpleNamespace(settings=in_force, database=database, artifacts=artifacts, redactor=redactor)
    made = AttemptSource("one", stores, WorkFolders(tmp_path / "work"))
    yield made
    made.close()


def slot_of(kind: Any = "cpu", *, share: int = 2**40) -> Slot:
    device = Device(kind=kind, index=0, name="a device", memory_bytes=share, free_bytes=share, parts=())
    return Slot(device, values.Capabilities(device=kind, memory_bytes=share), SimpleNamespace())  # type: ignore[arg-type]


def test_slot_gets_an_attempt_at_the_job_that_fits(source: AttemptSource, database: Database) -> None:
    registry.submit(database, device="cuda")
    job = registry.submit(database)
    attempt = source.claim(slot_of())
    assert isinstance(attempt, Attempt)
    assert attempt.job_ids == [job.id]
    assert registry.get(database, job).state is JobState.RUNNING
    assert registry.get(database, job).worker == "one"
    assert source.claim(slot_of()) is None


def test_job_that_the_last_attempt_claimed_runs_first(source: AttemptSource, database: Database) -> None:
    registry.submit(database)
    slot = slot_of()
    slot.next_job = ClaimedJob(job=registry.claimed(database), requested_at=0.0)
    other = registry.submit(database)
    attempt = source.claim(slot)
    assert attempt is not None
    assert attempt.job_ids != [other.id]
    assert slot.next_job is None
    assert registry.get(database, other).state is JobState.QUEUED


@pytest.mark.parametrize("ending", ["stopping", "draining"])
def test_worker_that_ends_claims_nothing(source: AttemptSource, database: Database, ending: str) -> None:
    job = registry.submit(database)
    if ending == "stopping":
        source.stopping.set()
    else:
        source.is_draining = True
    assert source.claim(slot_of()) is None
    assert registry.get(database, job).state is JobState.QUEUED


def test_database_that_does_not_answer_leaves_the_slot_empty(
    source: AttemptSource, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @contextlib.contextmanager
    def write() -> Iterator[Any]:
        raise errors.Unavailable("the database does not answer")
        yield

    registry.submit(database)
    with monkeypatch.context() as patch:
        patch.setattr(database, "write", write)
        assert source.claim(slot_of()) is None
    assert {"action": "claim", "error": "the database does not answer"} in list_said(caplog)
    assert source.claim(slot_of()) is not None


def break_after_commit(monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
    """Let the next commit succeed, although the connection breaks before it says so."""
    write = database.write
    broken: list[bool] = []

    @contextlib.contextmanager
    def write_once() -> Iterator[Any]:
        with write() as session:
            yield session
        if not broken:
            broken.append(True)
            raise errors.Unavailable("the connection broke")

    monkeypatch.setattr(database, "write", write_once)


def test_job_of_a_claim_of_unknown_outcome_is_found(
    source: AttemptSource, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, other = registry.submit(database), registry.submit(database)
    slot = slot_of()
    break_after_commit(monkeypatch, database)
    assert source.claim(slot) is None
    assert slot.open_claim is not None
    source.stopping.set()  # what was claimed must be handed back
    attempt = source.claim(slot)
    assert attempt is not None
    assert (attempt.job_ids, slot.open_claim) == ([job.id], None)
    assert registry.get(database, other).state is JobState.QUEUED


def test_group_has_the_companions_of_a_claim_of_unknown_outcome(
    source: AttemptSource, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [registry.submit(database, together=True).id for _ in range(4)]
    slot = slot_of()
    slot.next_job = ClaimedJob(job=registry.claimed(database), requested_at=0.0)
    monkeypatch.setattr(attempt_source, "_RETRY_SECONDS", 0.0)
    break_after_commit(monkeypatch, database)
    group = source.claim(slot)
    assert isinstance(group, AttemptGroup)
    assert group.job_ids == members[:3]
    assert registry.get(database, members[3]).state is JobState.QUEUED


def test_jobs_that_may_train_together_become_a_group(source: AttemptSource, database: Database) -> None:
    members = [registry.submit(database, together=True).id for _ in range(4)]
    group = source.claim(slot_of())
    assert isinstance(group, AttemptGroup)
    assert group.job_ids == members[:3], "the group has the size of the settings"
    last = source.claim(slot_of())
    assert isinstance(last, Attempt), "one job is not a group"
    assert last.job_ids == members[3:]


def test_worker_that_drains_claims_no_companions(source: AttemptSource, database: Database) -> None:
    """The transaction that ended the last job claimed the first one, before the worker was told."""
    leader, other = (registry.submit(database, together=True) for _ in range(2))
    slot = slot_of()
    slot.next_job = ClaimedJob(job=registry.claimed(database), requested_at=0.0)
    source.is_draining = True
    attempt = source.claim(slot)
    assert attempt is not None
    assert attempt.job_ids == [leader.id]
    assert registry.get(database, other).state is JobState.QUEUED


def test_jobs_on_a_graphics_card_are_trained_alone(source: AttemptSource, database: Database) -> None:
    for _ in range(2):
        registry.submit(database, together=True)
    assert isinstance(source.claim(slot_of("cuda")), Attempt)


def test_child_may_use_the_memory_of_its_slot_and_of_the_settings(source: AttemptSource, database: Database) -> None:
    limits = []
    for slot in (slot_of(share=400), slot_of(share=4000), slot_of("cuda", share=400)):
        registry.submit(database)
        attempt = source.claim(slot)
        assert isinstance(attempt, Attempt)
        limits.append(attempt._memory_limit)
    assert limits == [400, 1000, 1000], "the share of a graphics card does not limit main memory"


def test_job_whose_base_the_child_has_loaded_is_claimed_first(source: AttemptSource, database: Database) -> None:
    registry.submit(database, spec=registry.train_spec(base="other"))
    warm = registry.submit(database, spec=registry.train_spec(base="tiny"))
    slot, child = slot_of(), FakeChild()
    child.warm_base = registry.train_spec(base="tiny").base.key
    slot.child = child  # type: ignore[assignment]
    attempt = source.claim(slot)
    assert attempt is not None
    assert attempt.job_ids == [warm.id]


def test_worker_whose_store_is_unwell_claims_nothing_until_it_is_well(
    source: AttemptSource, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = registry.submit(database)
    monkeypatch.setattr(source.readiness, "check_store", lambda: False)
    assert source.claim(slot_of()) is None
    assert registry.get(database, job).state is JobState.QUEUED
    monkeypatch.undo()
    assert source.claim(slot_of()) is not None


def test_claim_that_ends_an_attempt_never_asks_the_store(source: AttemptSource, database: Database) -> None:
    """The transaction would wait for the store, and others for the transaction."""
    registry.submit(database)
    slot = slot_of()
    attempt = source.claim(slot)
    assert isinstance(attempt, Attempt)
    assert attempt._claim_next is not None
    registry.submit(database)
    source.readiness.add_store_trouble()
    with database.write() as session:
        assert attempt._claim_next(session, None, "token") is None
    source.readiness.check_store()
    with database.write() as session:
        assert attempt._claim_next(session, None, "token") is not None
