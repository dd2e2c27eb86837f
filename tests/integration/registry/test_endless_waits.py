"""Ends of waits that are hours off or more, as after a clock jumped or someone edited a row, hold up nothing."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub.registry import attempts, listeners, queue_status, settlements, tables, types
from finch_hub.registry.database import Database

Moment = Any


@pytest.fixture(params=["infinite", "in years", "in two hours", "in ten minutes"])
def moment(request: pytest.FixtureRequest) -> Moment:
    if request.param == "infinite":  # a text on SQLite
        return sa.type_coerce(sa.literal_column("'infinity'"), types.Instant())
    return types.later({"in years": 10 * 365 * 86_400, "in two hours": 7200, "in ten minutes": 600}[request.param])


@pytest.fixture
def is_endless(request: pytest.FixtureRequest) -> bool:
    return "in ten minutes" not in request.node.name


def set_time(database: Database, table: Any, column: str, moment: Moment) -> None:
    with database.write() as session:
        session.execute(sa.update(table).values({column: moment}))


def test_queued_job(database: Database, moment: Moment, is_endless: bool) -> None:
    job = registry.submit(database)
    set_time(database, tables.jobs, "not_before", moment)
    with database.read() as session:
        assert (queue_status.read(session).oldest == job.id) is is_endless
    assert (registry.claim(database) is not None) is is_endless


def test_job_that_a_worker_passed_on(database: Database, moment: Moment, is_endless: bool) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    with database.write() as session:
        attempts.pass_on(session, job, "no disk", policy=registry.AT_ONCE, alone="wait")
    set_time(database, tables.attempts, "not_before", moment)
    with database.read() as session:
        assert attempts.is_passed_on(session, job.id, "w") is not is_endless
    slot = registry.ANY_SLOT.evolve(worker="w")
    assert (registry.claim(database, capabilities=slot) is not None) is is_endless


def test_settlement(database: Database, moment: Moment, is_endless: bool) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    with database.write() as session:
        settlements.settle_later(session, job.id)
    set_time(database, tables.settlements, "due_at", moment)
    assert settlements.settle_due(database) is is_endless


def test_lost_job_that_was_set_aside(database: Database, moment: Moment, is_endless: bool) -> None:
    registry.submit(database)
    job = registry.claimed(database, lease=-1)
    with database.write() as session:
        settlements.set_aside(session, job.id, ValueError("broken"))
    set_time(database, tables.settlements, "due_at", moment)
    assert bool(registry.expire(database)) is is_endless


def test_listener(database: Database, moment: Moment, is_endless: bool) -> None:
    with database.write() as session:
        listeners.register(session, ["bell"])
    registry.submit(database)
    set_time(database, tables.announcements, "due_at", moment)
    with database.read() as session:
        assert listeners.has_due(session, "bell", "me") is is_endless
    with database.write() as session:
        assert bool(listeners.take(session, "bell", "me", limit=1)) is is_endless
