"""`finch-hub db`."""

from __future__ import annotations

import sqlalchemy as sa
from support import registry

from finch_hub.registry import workers
from finch_hub.registry.database import Database

from .conftest import Run, enter_worker


def test_database_is_upgraded_and_checked(run: Run) -> None:
    assert run("db", "check").status == 7
    assert "from empty to schema" in run("db", "upgrade").out
    assert "is already at schema" in run("db", "upgrade").out
    assert run("db", "check", "--json").json["revision"]


def make_older(database: Database) -> None:
    engine = sa.create_engine(database.url)
    registry.migrate(engine, "0001")
    engine.dispose()


def test_upgrade_while_workers_run_is_refused_unless_told_otherwise(run: Run, database: Database) -> None:
    enter_worker(database)
    make_older(database)
    refused = run("db", "upgrade")
    assert refused.status == 4
    assert "workers are running: gpu-1 (stop them and try again, or add --ignore-workers)" in " ".join(
        refused.err.split()
    )
    assert database.revision() == "0001"
    assert "from schema 0001 to schema" in run("db", "upgrade", "--ignore-workers").out
    database.check()


def test_upgrade_does_not_mind_stopped_workers_or_a_current_schema(run: Run, database: Database) -> None:
    enter_worker(database)
    assert "is already at schema" in run("db", "upgrade").out
    with database.write() as session:
        (worker,) = workers.find(session)
        workers.mark_stopped(session, worker.id, worker.instance)
    make_older(database)
    assert "from schema 0001 to schema" in run("db", "upgrade").out
