"""Purges of a data set beside submissions that refer to it: no job loses its data, however they interleave."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
import sqlalchemy as sa
from support import registry

from finch_hub import Hub, errors, settings
from finch_hub.artifacts import inventory
from finch_hub.hub.examples import StoredExamples
from finch_hub.registry import datasets, jobs, tables, values
from finch_hub.registry.database import Database, Session
from finch_hub.specs.jobs import BaseModelSource, EvaluateSpec

TEXT = b'{"messages": []}\n'
DIGEST = hashlib.sha256(TEXT).hexdigest()
SPEC = EvaluateSpec(dataset=DIGEST, base=BaseModelSource(source="tiny"))


@pytest.fixture
def hub(database_url: str, valkey_url: str, store_url: str | None, tmp_path: Path) -> Iterator[Hub]:
    places = {"database_url": database_url, "broker_url": valkey_url, "artifacts_url": store_url}
    given = {name: value for name, value in places.items() if value is not None}
    with Hub(settings.load(home=tmp_path, allow_insecure=True, **given)) as made:
        yield made


def store(hub: Hub) -> StoredExamples:
    """Store the text, as a submission does before its transaction."""
    digest = hub._stores.artifacts.put(TEXT)
    return StoredExamples(digest=digest, format="messages", examples=1, bytes=len(TEXT))


def submit(hub: Hub, stored: StoredExamples) -> str:
    return hub._submit(SPEC, [stored]).id


def has_text(hub: Hub) -> bool:
    return hub._stores.artifacts.has(DIGEST)


def test_purge_waits_for_a_submission_that_is_not_committed(database: Database) -> None:
    add(database)
    with ThreadPoolExecutor(1) as threads:
        with database.write() as session:
            job = registry.submit_job(session, SPEC)
            purged = threads.submit(purge, database)
            concurrent.futures.wait([purged], timeout=1)  # as long as it would take if it did not wait
        with pytest.raises(errors.Conflict, match=f"job {job.id} needs it"):
            purged.result()


def test_submission_waits_for_a_purge_that_is_not_committed(database: Database) -> None:
    add(database)
    with ThreadPoolExecutor(1) as threads:
        with database.write() as session:
            datasets.purge(session, DIGEST)
            submitted = threads.submit(registry.submit, database, spec=SPEC)
            concurrent.futures.wait([submitted], timeout=1)
        with pytest.raises(errors.Conflict, match=f"data set {DIGEST[:12]} was purged"):
            submitted.result()


def test_submission_whose_stored_text_a_purge_removed_is_refused(hub: Hub) -> None:
    submit_and_cancel(hub)
    stored = store(hub)
    hub.datasets.purge(DIGEST)
    with pytest.raises(errors.Conflict, match=r"was removed while it was stored \(try again\)"):
        submit(hub, stored)
    assert hub.datasets.get(DIGEST).purged_at is not None
    submit(hub, store(hub))
    assert has_text(hub)
    assert hub.datasets.get(DIGEST).purged_at is None


def test_submission_notices_a_purge_of_another_machine(hub: Hub) -> None:
    """Even if it has listed the store before, and so believes to know what is there."""
    submit_and_cancel(hub)
    stored = store(hub)
    assert list(inventory.list_artifacts(hub._stores.artifacts, "blobs"))
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # another process has a client of its own
    with Hub(hub.settings) as other:
        other.datasets.purge(DIGEST)
    with pytest.raises(errors.Conflict, match=r"was removed while it was stored \(try again\)"):
        submit(hub, stored)


@pytest.mark.slow
def test_purges_beside_additions_of_the_same_rows_leave_text_and_row_or_neither(hub: Hub) -> None:
    def add_some(_: int) -> None:
        for _ in range(8):
            with contextlib.suppress(errors.Conflict):
                hub.datasets.add([("What does a finch eat?", "Seeds.")], name="finches")

    def purge_some(_: int) -> None:
        for _ in range(12):
            with contextlib.suppress(errors.Conflict, errors.NotFound):
                hub.datasets.purge("finches")

    def is_consistent() -> bool:
        (dataset,) = hub.datasets.find()
        return hub._stores.artifacts.has(dataset.digest) is (dataset.purged_at is None)

    with ThreadPoolExecutor(4) as threads:
        for done in (threads.map(add_some, range(2)), threads.map(purge_some, range(2))):
            list(done)
    assert is_consistent()
    hub.datasets.add([("What does a finch eat?", "Seeds.")], name="finches")
    assert is_consistent()
    hub.datasets.purge("finches")
    assert is_consistent()


def test_purge_leaves_the_text_of_a_submission_that_came_before_its_removal(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit_and_cancel(hub)
    write = hub._stores.database.write
    transactions: list[int] = []

    @contextlib.contextmanager
    def submit_between() -> Iterator[Session]:
        transactions.append(len(transactions))
        if len(transactions) == 2:
            submit(hub, store(hub))
        with write() as session:
            yield session

    monkeypatch.setattr(hub._stores.database, "write", submit_between)
    hub.datasets.purge(DIGEST)
    assert len(transactions) >= 3
    assert has_text(hub)
    assert hub.datasets.get(DIGEST).purged_at is None


@pytest.mark.slow
def test_purges_beside_submissions_leave_each_job_its_data(hub: Hub) -> None:
    submit_and_cancel(hub)

    def submit_some(_: int) -> int:
        refused = 0
        for _ in range(12):
            try:
                job_id = submit(hub, store(hub))
            except errors.Conflict:
                refused += 1
                continue
            assert has_text(hub), "no purge removes what a registered job needs"
            hub.jobs.get(job_id).cancel()
            time.sleep(0.05)  # lets a purge through now and then
        return refused

    def purge_some(_: int) -> None:
        for _ in range(25):
            with contextlib.suppress(errors.Conflict):
                hub.datasets.purge(DIGEST)

    with ThreadPoolExecutor(4) as threads:
        submitting, purging = threads.map(submit_some, range(2)), threads.map(purge_some, range(2))
        assert all(refused < 12 for refused in submitting)
        list(purging)  # how many get through depends on the machine
    hub.datasets.purge(DIGEST)
    assert not has_text(hub)
    submit(hub, store(hub))
    assert has_text(hub)


def test_retry_of_a_job_whose_data_was_purged_is_refused(database: Database) -> None:
    add(database)
    job = registry.submit(database, spec=SPEC)
    registry.cancel(database, job)
    purge(database)
    with database.write() as session, pytest.raises(errors.Conflict, match="was purged"):
        jobs.retry(session, job.id)
    add(database)
    with database.write() as session:
        again = jobs.retry(session, job.id)
    with pytest.raises(errors.Conflict, match=f"job {again.id} needs it"):
        purge(database)


def test_data_of_a_version_that_is_to_be_reproduced_is_not_purged(hub: Hub) -> None:
    submit_and_cancel(hub)
    database = hub._stores.database
    lineage = values.Lineage(train_digest=DIGEST)
    version = registry.add_version(database, lineage=lineage)
    handle = hub.reproduce(version.reference)
    with pytest.raises(errors.Conflict, match=f"job {handle.id} needs it"):
        hub.datasets.purge(DIGEST)


def test_migration_finds_the_data_that_unfinished_jobs_need(database: Database) -> None:
    add(database)
    ended, job = registry.submit(database, spec=SPEC), registry.submit(database, spec=SPEC)
    registry.cancel(database, ended)
    engine = sa.create_engine(database.url)
    registry.migrate(engine, "0004")
    engine.dispose()
    database.upgrade()
    with database.read() as session:
        links = session.execute(sa.select(tables.job_datasets)).all()
    assert [tuple(link) for link in links] == [(job.id, DIGEST, True)]


def add(database: Database) -> None:
    with database.write() as session:
        datasets.add(session, digest=DIGEST, format="messages", examples=1)


def purge(database: Database) -> None:
    with database.write() as session:
        datasets.purge(session, DIGEST)


def submit_and_cancel(hub: Hub) -> None:
    """Leave a registered data set that no job needs."""
    hub.jobs.get(submit(hub, store(hub))).cancel()
