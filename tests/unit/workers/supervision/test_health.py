from __future__ import annotations

import sqlalchemy as sa

from finch_hub import settings
from finch_hub.registry import types, values, workers
from finch_hub.registry.database import Database
from finch_hub.workers.supervision import health


def register(database: Database, name: str, *, hostname: str, silent_for: float = 0.0) -> values.Worker:
    with database.write() as session:
        worker = workers.register(
            session,
            values.WorkerDescription(id=name, hostname=hostname, pid=1, version="1", schema_revision="1", devices=()),
        )
        session.execute(
            sa.update(workers.workers).where(workers.workers.c.id == name).values(last_seen=types.later(-silent_for))
        )
        return worker


def test_living_workers_of_a_host_are_those_heard_of_within_three_leases(database: Database) -> None:
    url = database.url.render_as_string(hide_password=False)
    in_force = settings.load(database_url=url, allow_insecure=True, lease_seconds=60.0)
    register(database, "heard-of", hostname="here", silent_for=170.0)
    register(database, "silent", hostname="here", silent_for=190.0)
    register(database, "elsewhere", hostname="there")
    stopped = register(database, "stopped", hostname="here")
    with database.write() as session:
        workers.mark_stopped(session, stopped.id, stopped.instance)
    assert health.find_living(in_force, "here") == ["heard-of"]
    assert health.find_living(in_force, "there") == ["elsewhere"]
    assert health.find_living(in_force, "nowhere") == []
