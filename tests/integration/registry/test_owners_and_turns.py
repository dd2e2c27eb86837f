"""Migration 0009: the queue of an older version, and its code on the new schema."""

from __future__ import annotations

import sqlalchemy as sa
from support import registry

from finch_hub.registry import tables, values
from finch_hub.registry.database import Database
from finch_hub.registry.jobs import submit_many
from finch_hub.specs.jobs import JobState

JOBS = tables.Job.__table__
NEW_COLUMNS = ("owner", "turn", "is_memory_estimated")


def add_old_job(connection: sa.Connection, job_id: str, *, priority: int = 0, queue: str = "default") -> None:
    """Insert a queued job as the version before does, which knows no owners and no turns."""
    template = connection.execute(sa.select(*(c for c in JOBS.c if c.name not in NEW_COLUMNS)).limit(1)).one()
    row = dict(template._mapping) | {
        "id": job_id,
        "state": JobState.QUEUED,
        "priority": priority,
        "queue": queue,
        "needs": "0" * 32,
        "device": "any",
        "labels": [],
        "memory_bytes": 0,
        "attempts": 0,
        "fence": 0,
        "started_at": None,
        "finished_at": None,
        "worker": None,
        "idempotency_key": None,
        "retry_of": None,
        "not_before": None,
    }
    row.pop("number")
    connection.execute(sa.insert(JOBS).values(row))


def open_database(engine: sa.Engine) -> Database:
    return Database(engine.url.render_as_string(hide_password=False), allow_insecure=True)


def empty_queue(connection: sa.Connection) -> None:
    unfinished = sa.update(JOBS).where(JOBS.c.finished_at.is_(None))
    connection.execute(unfinished.values(state=JobState.CANCELLED, finished_at=JOBS.c.created_at))
    if connection.dialect.name == "postgresql":  # the rows of the dump have numbers that its sequence does not know
        connection.execute(sa.text("SELECT setval(pg_get_serial_sequence('jobs', 'number'), max(number)) FROM jobs"))


def test_queued_jobs_get_the_turns_of_one_owner(old_hub: sa.Engine) -> None:
    registry.migrate(old_hub, "0008")
    with old_hub.begin() as connection:
        empty_queue(connection)
        for name, priority, queue in (("a", 0, "x"), ("b", 1, "x"), ("c", 0, "y"), ("d", 0, "x"), ("e", 0, "x")):
            add_old_job(connection, name, priority=priority, queue=queue)
    registry.migrate(old_hub, "head")
    with old_hub.begin() as connection:
        rows = connection.execute(sa.select(JOBS.c.id, JOBS.c.owner, JOBS.c.turn).where(JOBS.c.state == "queued"))
        assert {row.id: (row.owner, row.turn) for row in rows} == {
            "a": ("", 0),
            "b": ("", 0),
            "c": ("", 0),
            "d": ("", 1),
            "e": ("", 2),
        }
    registry.migrate(old_hub, "0008")
    assert not set(NEW_COLUMNS) & {column["name"] for column in sa.inspect(old_hub).get_columns("jobs")}


def test_new_owner_takes_turns_with_the_queue_of_an_older_version(old_hub: sa.Engine) -> None:
    registry.migrate(old_hub, "0008")
    with old_hub.begin() as connection:
        empty_queue(connection)
        for number in range(4):
            add_old_job(connection, f"old-{number}")
    registry.migrate(old_hub, "head")
    database = open_database(old_hub)
    with database.write() as session:
        submit_many(session, [values.NewJob.of_spec(registry.merge_spec(), owner="ada")] * 2)
    assert [registry.claimed(database).owner for _ in range(6)] == ["", "", "ada", "", "ada", ""]
    database.close()


def test_version_before_still_submits_and_claims_on_the_new_schema(old_hub: sa.Engine) -> None:
    registry.migrate(old_hub, "head")
    with old_hub.begin() as connection:
        empty_queue(connection)
        for name in ("first", "second"):
            add_old_job(connection, name)
        oldest = sa.select(JOBS.c.id).where(JOBS.c.state == "queued")  # as the claim of that version orders them
        assert list(connection.scalars(oldest.order_by(JOBS.c.priority.desc(), JOBS.c.number))) == ["first", "second"]
    database = open_database(old_hub)
    assert [registry.claimed(database).id for _ in range(2)] == ["first", "second"]
    database.close()
