from __future__ import annotations

import concurrent.futures
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub import errors
from finch_hub.registry import adapter_deletion, adapter_names, adapters, bases, jobs, tables
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import (
    BaseModelSource,
    ComposeSpec,
    EvaluateSpec,
    ExportSpec,
    JobSpec,
    Parent,
    QuantizeSpec,
    ReproduceSpec,
)
from finch_hub.specs.references import AdapterReference

READERS: list[JobSpec] = [
    registry.merge_spec("medical/1"),
    registry.merge_spec("legal/1", "medical"),
    ComposeSpec(adapter="both", parents=(Parent(adapter="legal/1"), Parent(adapter="medical@latest"))),
    QuantizeSpec(adapter="medical/1"),
    ExportSpec(adapter="medical/1", format="peft", out="/models/exported"),
    EvaluateSpec(
        base=BaseModelSource(source="tiny"), adapters=("legal/1", "medical/1"), dataset=registry.digest("data")
    ),
    ReproduceSpec(adapter="medical/1"),
    ReproduceSpec(adapter="smaller/1"),
]


@pytest.fixture
def versions(database: Database) -> Database:
    """Two adapters, and one that was made of the first."""
    for name in ("legal", "medical"):
        registry.add_version(database, name)
    registry.add_version(database, "smaller", kind="quantize", lineage=registry.made_from("medical/1"))
    return database


@pytest.mark.parametrize("submit_first", [True, False])
def test_version_that_an_unfinished_job_reads_by_a_former_name_is_not_deleted(
    versions: Database, submit_first: bool
) -> None:
    def rename() -> None:
        with versions.write() as session:
            adapter_names.rename(session, "medical", "team/medical")

    if not submit_first:
        rename()
    job = registry.submit(versions, spec=registry.merge_spec("medical/1"))
    if submit_first:
        rename()
    with pytest.raises(errors.Conflict, match=f"cannot delete adapter team/medical/1: job {job.id} needs it"):
        registry.delete_version(versions, "medical", 1)


def delete_alias(database: Database, name: str, alias: str) -> None:
    with database.write() as session:
        adapters.delete_alias(session, name, alias)


@pytest.mark.parametrize("spec", READERS, ids=lambda spec: f"{spec.kind}-{spec.model_dump().get('adapter')}")
@pytest.mark.parametrize("state", ["waiting", "queued", "running"])
def test_version_that_an_unfinished_job_reads_is_not_deleted(versions: Database, spec: JobSpec, state: str) -> None:
    first = (registry.submit(versions).id,) if state == "waiting" else ()
    job = registry.submit(versions, spec=spec, depends_on=first)
    if state == "running":
        job = registry.claimed(versions)
    assert registry.get(versions, job).state == state
    message = f"cannot delete adapter medical/1: job {job.id} needs it .cancel the job or wait until it ends"
    with pytest.raises(errors.Conflict, match=message):
        registry.delete_version(versions, "medical", 1)
    registry.cancel(versions, job)
    if state != "running":
        registry.delete_version(versions, "medical", 1)


def test_base_of_a_version_that_an_unfinished_job_reads_is_not_removed(database: Database) -> None:
    registry.add_version(database)
    registry.submit(database, spec=registry.merge_spec("medical/1"))
    with pytest.raises(errors.Conflict):
        registry.delete_version(database, "medical", 1)
    with database.write() as session, pytest.raises(errors.Conflict, match="adapter medical/1 needs it"):
        bases.remove(session, "tiny")


def test_versions_that_no_unfinished_job_reads_are_deleted(versions: Database) -> None:
    registry.add_version(versions, "medical")
    registry.add_version(versions, "medical-long")
    for spec in (registry.merge_spec("medical"), registry.merge_spec("legal/1"), registry.train_spec("medical-long")):
        registry.submit(versions, spec=spec)
    registry.delete_version(versions, "medical-long", 1)
    registry.delete_version(versions, "medical", 1)  # the bare name stands for the second
    with pytest.raises(errors.Conflict, match="needs it"):
        registry.delete_version(versions, "medical", 2)


def test_running_job_may_have_begun_with_any_version_of_a_bare_name(versions: Database) -> None:
    job = registry.submit(versions, spec=registry.merge_spec("medical"))
    assert registry.claimed(versions).id == job.id
    registry.add_version(versions, "medical")
    with pytest.raises(errors.Conflict, match=f"job {job.id} needs it"):
        registry.delete_version(versions, "medical", 1)


def test_alias_that_an_unfinished_job_names_is_moved_and_not_deleted(versions: Database) -> None:
    registry.add_version(versions, "medical")
    for alias in ("best", "worst"):
        registry.set_alias(versions, "medical", alias, 1)
    job = registry.submit(versions, spec=registry.merge_spec("medical@best"))
    delete_alias(versions, "medical", "worst")
    registry.set_alias(versions, "medical", "best", 2)
    with pytest.raises(errors.Conflict, match=f"cannot delete alias medical@best: job {job.id} needs it"):
        delete_alias(versions, "medical", "best")
    registry.delete_version(versions, "medical", 1)
    registry.cancel(versions, job)
    delete_alias(versions, "medical", "best")


def test_message_names_twenty_jobs(versions: Database) -> None:
    made = [registry.submit(versions, spec=registry.merge_spec("medical/1")).id for _ in range(21)]
    with pytest.raises(errors.Conflict, match=f"jobs {', '.join(made[:20])} need it"):
        registry.delete_version(versions, "medical", 1)


def test_submission_of_a_job_whose_version_is_deleted_is_refused(versions: Database) -> None:
    registry.delete_version(versions, "medical", 1)
    for spec in READERS:
        with pytest.raises(errors.NotFound, match="medical"):
            registry.submit(versions, spec=spec)


def test_retry_of_a_job_whose_version_is_deleted_is_refused(versions: Database) -> None:
    job = registry.submit(versions, spec=registry.merge_spec("medical/1"))
    registry.cancel(versions, job)
    registry.delete_version(versions, "medical", 1)
    with versions.write() as session, pytest.raises(errors.Deleted, match="medical/1 was deleted"):
        jobs.retry(session, job.id)


def test_version_that_another_job_is_still_making_need_not_exist(database: Database) -> None:
    making = registry.submit(database, spec=registry.train_spec("new"))
    job = registry.submit(database, spec=registry.merge_spec("new"), depends_on=(making.id,))
    registry.add_version(database, "new")
    with pytest.raises(errors.Conflict, match=f"job {job.id} needs it"):
        registry.delete_version(database, "new", 1)


def test_specification_that_cannot_be_read_keeps_nothing_from_deletion(versions: Database) -> None:
    job = registry.submit(versions, spec=registry.merge_spec("medical/1"))
    for spec in (
        {"kind": "merge", "parents": [{"adapter": ["medical/1"]}, "medical/1"], "adapters": 3},
        {"medical": 1},
    ):
        with versions.write() as session:
            session.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job.id).values(spec=spec))
    registry.delete_version(versions, "medical", 1)


def test_deletion_waits_for_a_submission_that_is_not_committed(versions: Database) -> None:
    for name, spec in (("medical", registry.merge_spec("medical/1")), ("legal", registry.merge_spec("legal"))):
        with ThreadPoolExecutor(1) as threads:
            with versions.write() as session:
                job = registry.submit_job(session, spec)
                deleted = threads.submit(registry.delete_version, versions, name, 1)
                concurrent.futures.wait([deleted], timeout=1)  # as long as it would take if it did not wait
            with pytest.raises(errors.Conflict, match=f"job {job.id} needs it"):
                deleted.result()


def test_submission_waits_for_a_deletion_that_is_not_committed(versions: Database) -> None:
    spec = ReproduceSpec(adapter="smaller/1")
    with ThreadPoolExecutor(1) as threads:
        with versions.write() as session:
            adapter_deletion.delete(session, AdapterReference("medical", version=1))
            submitted = threads.submit(registry.submit, versions, spec=spec)
            concurrent.futures.wait([submitted], timeout=1)
        with pytest.raises(errors.NotFound, match="medical"):
            submitted.result()


def test_new_version_of_an_adapter_does_not_wait_for_a_submission(versions: Database) -> None:
    if versions.url.drivername.startswith("sqlite"):
        pytest.skip("SQLite has one writer")
    with ThreadPoolExecutor(1) as threads, versions.write() as session:
        registry.submit_job(session, registry.merge_spec("medical/1"))
        assert threads.submit(registry.add_version, versions).result(timeout=60).number == 2
