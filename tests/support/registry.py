"""Helpers that fill a registry."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import command

from finch_hub.registry import (
    adapter_deletion,
    adapter_purges,
    adapter_versions,
    adapters,
    attempts,
    bases,
    claims,
    jobs,
    schema_revisions,
    tables,
    values,
)
from finch_hub.registry.database import Database, Session
from finch_hub.specs.bases import BaseDescription
from finch_hub.specs.jobs import BaseModelSource, Job, JobSpec, MergeSpec, Parent, Requirements, TrainSpec
from finch_hub.specs.references import AdapterReference

ANY_SLOT = values.Capabilities(device="cpu", memory_bytes=2**40)
AT_ONCE = values.RetryPolicy(max_attempts=3, base_delay=0)


def migrate(engine: sa.Engine, target: str) -> None:
    """Bring the schema up or down to a revision. SQLite's connections of this engine have no foreign keys."""
    with engine.connect() as connection:
        current = schema_revisions.revision(connection, str(engine.url)) or ""
        connection.rollback()
        change = command.downgrade if target == "base" or target < current else command.upgrade
        change(schema_revisions.config(connection), target)
        connection.commit()


def change_rows(database: Database, *statements: str) -> None:
    """Change rows as no hub does, without the checks of references."""
    if database.is_sqlite:
        database.close()
        with contextlib.closing(sqlite3.connect(database.url.database or "")) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
        return
    with database.write() as session:
        session.execute(sa.text("SET LOCAL session_replication_role = replica"))
        for statement in statements:
            session.execute(sa.text(statement.replace(":", "\\:")))


def digest(text: str) -> str:
    """Return a digest that begins with the text."""
    return text.encode().hex().ljust(64, "0")[:64]


def train_spec(adapter: str = "medical", base: str = "tiny", **fields: Any) -> TrainSpec:
    return TrainSpec(adapter=adapter, base=BaseModelSource(source=base), train=digest("train"), **fields)


def merge_spec(*parents: str) -> MergeSpec:
    return MergeSpec(
        parents=tuple(Parent(adapter=parent) for parent in parents or ("medical/1",)), out="/models/merged"
    )


def submit(database: Database, **arguments: Any) -> Job:
    requirements = {name: arguments.pop(name) for name in tuple(arguments) if name in Requirements.model_fields}
    spec = arguments.pop("spec", None) or train_spec()
    with database.write() as session:
        return submit_job(session, spec, requirements=Requirements(**requirements), **arguments)


def submit_job(session: Session, spec: JobSpec, *, owner_unfinished: int | None = None, **fields: Any) -> Job:
    """Submit one job, with further fields of `NewJob`."""
    return jobs.submit_many(session, [values.NewJob.of_spec(spec, **fields)], owner_unfinished=owner_unfinished)[0]


def claim(
    database: Database, *, worker: str = "w", lease: float = 60.0, job_id: str | None = None, **arguments: Any
) -> Job | None:
    """Claim for a slot that fits every job, the best job or the one with an id. A negative lease expires at once."""
    with database.write() as session:
        if job_id is None:
            arguments.setdefault("capabilities", ANY_SLOT)
            return claims.claim(session, worker=worker, lease_seconds=lease, **arguments)
        query = sa.select(tables.jobs.c.number).where(tables.jobs.c.id == job_id).with_for_update()
        wanted = {"wanted_number": session.scalar(query)}
        return claims._execute(session, claims._claim_number(), worker, lease, wanted)


def claimed(database: Database, **arguments: Any) -> Job:
    job = claim(database, **arguments)
    assert job is not None
    return job


def get(database: Database, job: Job | str) -> Job:
    with database.read() as session:
        return jobs.get(session, job if isinstance(job, str) else job.id)


def succeed(database: Database, job: Job, **result: Any) -> Job:
    with database.write() as session:
        return attempts.succeed(session, job, result)


def fail(database: Database, job: Job, reason: str = "it broke", retry: values.RetryPolicy | None = None) -> Job:
    with database.write() as session:
        return attempts.fail(session, job, reason, retry=retry)


def cancel(database: Database, job: Job) -> Job:
    with database.write() as session:
        return jobs.request_cancel(session, job.id)


def expire(database: Database, policy: values.RetryPolicy = AT_ONCE) -> list[Job]:
    with database.write() as session:
        return attempts.expire_leases(session, policy)


def describe_base(name: str, **fields: Any) -> BaseDescription:
    fields = {"source": f"/models/{name}", "fingerprint": digest(name), "parameters": 135_000_000} | fields
    return BaseDescription(name=name, architecture="LlamaForCausalLM", **fields)


def add_base(database: Database, name: str = "tiny", *, rename: bool = False) -> values.Base:
    with database.write() as session:
        return bases.add(session, describe_base(name), rename=rename)


def add_version(
    database: Database, name: str = "medical", base: str = "tiny", tags: Sequence[str] = (), **arguments: Any
) -> values.AdapterVersion:
    known = add_base(database, base)
    arguments.setdefault("digest", digest(f"tree of {name}"))
    arguments.setdefault("identity", digest(f"bytes of {name}"))
    arguments.setdefault("kind", "train")
    with database.write() as session:
        made = adapter_versions.create(session, name=name, base=known, **arguments)
        return adapter_versions.add_tags(session, made.reference, *tags) if tags else made


def delete_version(database: Database, name: str, number: int) -> adapter_deletion.Deletion:
    return delete(database, f"{name}/{number}")


def delete(database: Database, reference: str) -> adapter_deletion.Deletion:
    with database.write() as session:
        return adapter_deletion.delete(session, AdapterReference.parse(reference))


def restore(database: Database, reference: str) -> adapter_deletion.Restoration:
    with database.write() as session:
        return adapter_deletion.restore(session, AdapterReference.parse(reference), list_damage=lambda digest: ())


def purge(database: Database, reference: str) -> adapter_purges.PurgedRows:
    with database.write() as session:
        return adapter_purges.purge(session, AdapterReference.parse(reference))


def set_alias(database: Database, name: str, alias: str, version: int, expected: int | None = None) -> None:
    with database.write() as session:
        adapters.set_alias(session, name, alias, version, expected=expected)


def resolve(database: Database, reference: str) -> values.AdapterVersion:
    with database.read() as session:
        return adapter_versions.resolve(session, reference)


def list_versions(database: Database, name: str = "medical") -> tuple[values.AdapterVersion, ...]:
    with database.read() as session:
        return adapter_versions.find(session, name).versions


def made_from(*references: str) -> values.Lineage:
    """Return the lineage of a version with these parents, with equal weights."""
    return values.Lineage(
        parents=tuple(values.ParentVersion(reference=reference, weight=0.5) for reference in references)
    )
