"""Writes and queries about one thing leave all others alone: a registry of look-alikes, and the rows that change."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from support import registry
from support.services import Databases

from finch_hub.registry import (
    adapter_deletion,
    adapter_versions,
    adapters,
    attempts,
    bases,
    claims,
    datasets,
    evaluations,
    jobs,
    outbox,
    tables,
    transitions,
    types,
    values,
    workers,
)
from finch_hub.registry.database import Database
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import Job, JobState
from finch_hub.specs.references import AdapterReference

Rows = dict[tuple[str, str], tuple[Any, ...]]
BASES, DATASETS = ("tiny", "other", "third"), ("train", "validation", "dataset")
NEWS = [NewEvent(type="progress", data={"step": 1})]


@dataclass
class World:
    """A database in which everything has a look-alike, with its jobs by their roles."""

    database: Database
    jobs: dict[str, Job]
    workers: dict[str, values.Worker]

    def rows(self, session: Session) -> Rows:
        """Return all rows by table and readable key. Rows that were added later have the key "new"."""
        session.flush()
        transitions.insert_events(session)
        found = {}
        for table in tables.Table.metadata.sorted_tables:
            for row in session.execute(sa.select(table)):
                key = [self._name(column, row._mapping[column]) for column in table.primary_key]
                found[table.name, " ".join(key)] = tuple(row)
        return found

    def _name(self, column: sa.Column[Any], value: Any) -> str:
        target = next(iter(column.foreign_keys)).column.table.name if column.foreign_keys else column.table.name
        is_counted = column.name in ("id", "number") or bool(column.foreign_keys)
        return self.names.get((target, value), "new" if is_counted else str(value))

    def name_rows(self) -> None:
        """Name all rows that are there now."""
        self.names: dict[tuple[str, Any], str] = {}
        roles = {job.id: role for role, job in self.jobs.items()}
        digests = {registry.digest(text): text for text in (*BASES, *DATASETS)}
        with self.database.read() as session:
            for row in session.execute(sa.select(tables.jobs.c.number, tables.jobs.c.id)):
                self.names["jobs", row.number] = self.names["jobs", row.id] = roles[row.id]
            named: dict[str, sa.Executable] = {
                "bases": sa.select(tables.Base.id, tables.Base.fingerprint),
                "datasets": sa.select(tables.Dataset.id, tables.Dataset.digest),
                "adapters": sa.select(tables.Adapter.id, tables.Adapter.name),
                "adapter_versions": sa.select(
                    tables.AdapterVersion.id, tables.Adapter.name + "/" + sa.cast(tables.AdapterVersion.number, sa.Text)
                ).join(tables.AdapterVersion.adapter),
                "evaluations": sa.select(tables.Evaluation.id, tables.Evaluation.id.label("name")),
                "workers": sa.select(tables.Worker.id, tables.Worker.id.label("name")),
            }
            for table, query in named.items():
                self.names |= {(table, row[0]): digests.get(row[1], str(row[1])) for row in session.execute(query)}


def _enter_worker(database: Database, name: str) -> values.Worker:
    description = values.WorkerDescription(
        id=name, hostname="box", pid=7, version="0", schema_revision="1", devices=(), slots=2
    )
    with database.write() as session:
        return workers.register(session, description)


def _move(session: Session, job: Job, **changes: Any) -> None:
    session.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job.id).values(changes))


@pytest.fixture(scope="module")
def world(databases: Databases) -> Iterator[World]:
    url = databases.new()
    database = Database(url, allow_insecure=True)
    for name in ("medical", "legal"):
        for _ in range(3):
            registry.add_version(database, name, tags=["gold", "eu"], base="tiny" if name == "medical" else "other")
        for alias in ("best", "stable"):
            registry.set_alias(database, name, alias, 1)
        registry.delete_version(database, name, 3)
    for base in BASES:
        registry.add_base(database, base)
    with database.write() as session:
        for text in DATASETS:
            datasets.add(session, digest=registry.digest(text), format="messages", examples=1, name=text)
        for reference in (None, "medical/1", "medical/2", "legal/1"):
            for dataset in ("train", "validation"):
                measured: dict[str, Any] = {
                    "dataset": registry.digest(dataset),
                    "adapter": reference,
                    "metrics": {"loss": 1.0},
                }
                evaluations.add(session, base_id=1, evaluator="held_out_loss", **measured)
    made = {role: registry.submit(database) for role in ("parent", "other parent", "due", "queued", "other queued")}
    made["waiting"] = registry.submit(database, depends_on=[made["parent"].id])
    made["other waiting"] = registry.submit(database, depends_on=[made["other parent"].id])
    for role in ("failed", "other failed", "cancelled", "succeeded", "running", "other running", "expired", "stopping"):
        made[role] = registry.submit(database)
        if role != "cancelled":
            made[role] = registry.claimed(database, job_id=made[role].id, worker="gpu-1", lease=3600)
        if role.endswith("failed"):
            made[role] = registry.fail(database, made[role])
    registry.cancel(database, made["cancelled"])
    registry.cancel(database, made["stopping"])
    registry.succeed(database, made["succeeded"])
    with database.write() as session:
        made["retry"] = jobs.retry(session, made["other failed"].id)
        # Nothing becomes due, silent or lost by itself while the tests run.
        session.execute(
            sa.update(tables.jobs).where(tables.jobs.c.ring_at.is_not(None)).values(ring_at=types.later(3600))
        )
        _move(session, made["due"], ring_at=types.later(-5))
        _move(session, made["expired"], lease_until=types.later(-5))
    known = {name: _enter_worker(database, name) for name in ("gpu-1", "gpu-2", "silent", "stopped")}
    with database.write() as session:
        session.execute(sa.update(workers.workers).values(last_seen=types.now()))
        workers.mark_stopped(session, "stopped", known["stopped"].instance)
        session.execute(
            sa.update(workers.workers).where(workers.workers.c.id == "silent").values(last_seen=types.later(-3600))
        )
    made_world = World(database, made, known)
    made_world.name_rows()
    yield made_world
    database.close()
    databases.drop(url)


def job_rows(role: str, *events: int, attempt: int | None = None) -> set[tuple[str, str]]:
    """Return the keys of a job's row, some events of it and an attempt."""
    keys = {("jobs", role), *(("events", f"{role} {number}") for number in events)}
    return keys if attempt is None else keys | {("attempts", f"{role} {attempt}")}


def _create(session: Session, world: World) -> Any:
    fields: dict[str, Any] = {"digest": "0" * 64, "identity": "0" * 64, "kind": "compose"}
    lineage = registry.made_from("medical/3", "legal/1")  # the first is deleted
    base = adapter_versions.resolve(session, "legal/1").base
    return adapter_versions.create(session, name="medical", base=base, lineage=lineage, **fields)


def _delete(session: Session, world: World) -> Any:
    return adapter_deletion.delete(session, AdapterReference("medical", version=2))


def _register(name: str) -> Callable[[Session, World], Any]:
    description = values.WorkerDescription(
        id=name, hostname="new", pid=8, version="0", schema_revision="1", devices=(), slots=1
    )
    return lambda session, _: workers.register(session, description)


def _owned(write: Callable[..., Any], *arguments: Any, role: str = "running") -> Callable[[Session, World], Any]:
    return lambda session, world: write(session, world.jobs[role], *arguments)


def _of_job(write: Callable[..., Any], role: str) -> Callable[[Session, World], Any]:
    return lambda session, world: write(session, world.jobs[role].id)


NEW_JOB = job_rows("new", 1) | {("job_datasets", f"new {registry.digest('train')}")}
OTHER_TINY = registry.describe_base("tiny", fingerprint=registry.digest("other"), source="/models/other")
MEDICAL = ("adapter_versions", "medical/1")
WRITES: dict[str, tuple[Callable[[Session, World], Any], set[tuple[str, str]]]] = {
    "set an alias": (
        lambda s, _: adapters.set_alias(s, "medical", "new", 2),
        {("aliases", "medical new"), ("alias_moves", "new"), ("adapter_versions", "medical/2")},
    ),
    "move an alias": (
        lambda s, _: adapters.set_alias(s, "medical", "stable", 2),
        {
            *(("aliases", "medical stable"), ("alias_moves", "new")),
            *(("adapter_versions", "medical/1"), ("adapter_versions", "medical/2")),
        },
    ),
    "delete an alias": (
        lambda s, _: adapters.delete_alias(s, "medical", "stable"),
        {("aliases", "medical stable"), ("alias_moves", "new"), MEDICAL},
    ),
    "add a tag": (lambda s, _: adapter_versions.add_tags(s, "medical/1", "x"), {("tags", "medical/1 x"), MEDICAL}),
    "remove a tag": (
        lambda s, _: adapter_versions.remove_tags(s, "medical/1", "eu"),
        {("tags", "medical/1 eu"), MEDICAL},
    ),
    "edit a card": (lambda s, _: adapter_versions.edit_card(s, "medical/1", "x"), {("adapter_versions", "medical/1")}),
    "delete a version": (_delete, {("adapter_versions", "medical/2")}),
    "create a version": (
        _create,
        {("adapters", "medical"), ("adapter_versions", "new"), ("lineage", "new 0"), ("lineage", "new 1")},
    ),
    "measure a deleted version": (
        lambda s, _: evaluations.add(s, base_id=1, dataset="0", evaluator="x", metrics={}, adapter="medical/3"),
        {("evaluations", "new")},
    ),
    "move a base": (lambda s, _: bases.add(s, registry.describe_base("tiny", path="/x")), {("bases", "tiny")}),
    "take a base's name": (
        lambda s, _: bases.add(s, OTHER_TINY, rename=True, replace=True),
        {("bases", "tiny"), ("bases", "other")},
    ),
    "name a data set": (
        lambda s, _: datasets.add(
            s, digest=registry.digest("dataset"), format="messages", examples=1, name="x", replace=True
        ),
        {("datasets", "dataset")},
    ),
    "purge a data set": (lambda s, _: datasets.purge(s, "dataset"), {("datasets", "dataset")}),
    "submit": (lambda s, _: registry.submit_job(s, registry.train_spec()), NEW_JOB),
    "submit a child": (
        lambda s, w: registry.submit_job(s, registry.train_spec(), depends_on=(w.jobs["running"].id,)),
        NEW_JOB | {("job_dependencies", "new running")},
    ),
    "cancel a queued job": (_of_job(jobs.request_cancel, "queued"), job_rows("queued", 2)),
    "cancel a parent": (_of_job(jobs.request_cancel, "parent"), job_rows("parent", 2) | job_rows("waiting", 2)),
    "cancel a running job": (_of_job(jobs.request_cancel, "running"), job_rows("running")),
    "cancel a running job again": (_of_job(jobs.request_cancel, "stopping"), set()),
    "cancel a cancelled job": (_of_job(jobs.request_cancel, "cancelled"), set()),
    "retry": (_of_job(jobs.retry, "failed"), NEW_JOB),
    "retry again": (_of_job(jobs.retry, "other failed"), set()),
    "prune": (lambda s, _: jobs.prune(s, beyond=4), set()),
    "claim": (
        lambda s, _: claims.claim(s, worker="gpu-2", lease_seconds=60, capabilities=registry.ANY_SLOT),
        job_rows("parent", 2, attempt=1),
    ),
    "renew": (_owned(attempts.renew, 60), job_rows("running")),
    "append events": (_owned(attempts.append_events, NEWS), job_rows("running", 3)),
    "append no events": (_owned(attempts.append_events, []), set()),
    "succeed": (_owned(attempts.succeed, {}), job_rows("running", 3, attempt=1)),
    "fail": (_owned(attempts.fail, "it broke"), job_rows("running", 3, attempt=1)),
    "hand back": (_owned(attempts.hand_back), job_rows("running", 3, attempt=1)),
    "cancel": (_owned(attempts.cancel, role="stopping"), job_rows("stopping", 3, attempt=1)),
    "expire leases": (lambda s, _: attempts.expire_leases(s, values.RetryPolicy()), job_rows("expired", 3, attempt=1)),
    "take what is due": (lambda s, _: outbox.take_due(s), job_rows("due")),
    "heartbeat": (lambda s, w: workers.heartbeat(s, w.workers["gpu-1"]), {("workers", "gpu-1")}),
    "drain a worker": (lambda s, _: workers.request_state(s, "gpu-1", "draining"), {("workers", "gpu-1")}),
    "stop a worker": (
        lambda s, w: workers.mark_stopped(s, "gpu-1", w.workers["gpu-1"].instance),
        {("workers", "gpu-1")},
    ),
    "stop an earlier worker": (lambda s, w: workers.mark_stopped(s, "gpu-1", "earlier"), set()),
    "register a worker": (_register("new"), {("workers", "new")}),
    "take the name of a stopped worker": (_register("stopped"), {("workers", "stopped")}),
    "forget a worker": (lambda s, _: workers.forget(s, silent=600, stopped=600), {("workers", "silent")}),
}


class Undo(Exception):
    """Rolls a transaction back."""


@pytest.mark.parametrize(("write", "expected"), WRITES.values(), ids=WRITES)
def test_write_changes_its_own_rows_only(
    world: World, write: Callable[[Session, World], Any], expected: set[tuple[str, str]]
) -> None:
    with contextlib.suppress(Undo), world.database.write() as session:
        before = world.rows(session)
        write(session, world)
        after = world.rows(session)
        raise Undo
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert changed == expected


def test_queries_about_one_job_return_nothing_of_others(world: World) -> None:
    with world.database.read() as session:
        for role, job in world.jobs.items():
            assert jobs.get(session, job.id).id == job.id
            assert {event.job_id for event in jobs.list_events(session, job.id)} == {job.id}
            made = jobs.list_attempts(session, job.id)
            assert {attempt.job_id for attempt in made} <= {job.id}
            assert len(made) == (role in {"failed", "other failed", "succeeded", "stopping"} or role in _RUNNING)
        ids = [world.jobs[role].id for role in ("queued", "failed", "running")]
        assert jobs.select_unfinished(session, ids) == {ids[0], ids[2]}
        found = {worker.id: set(worker.jobs) for worker in workers.find(session)}
        assert found.pop("gpu-1") == {world.jobs[role].id for role in (*_RUNNING, "stopping")}
        assert set().union(*found.values()) == set()


_RUNNING = ("running", "other running", "expired")


def test_queries_about_one_adapter_return_nothing_of_others(world: World) -> None:
    with world.database.read() as session:
        (found,) = (found for found in adapters.find(session).adapters if found.name == "medical")
        assert (found.newest.reference, found.versions, found.latest) == ("medical/2", 2, 2)
        assert found.aliases == {"best": 1, "stable": 1}
        assert [version.reference for version in adapter_versions.find(session, "medical").versions] == [
            "medical/2",
            "medical/1",
        ]
        for reference, expected in (("legal", "legal/2"), ("legal/1", "legal/1"), ("legal@best", "legal/1")):
            assert adapter_versions.resolve(session, reference).reference == expected
            assert adapter_versions.resolve_files(session, reference).reference == expected
        assert {item.adapter for item in evaluations.find(session, adapter="medical/1")} == {"medical/1"}
        assert {item.adapter for item in evaluations.find(session)} > {"medical/1", None}
        assert {job.state for job in jobs.find(session, states={JobState.FAILED})} == {JobState.FAILED}
