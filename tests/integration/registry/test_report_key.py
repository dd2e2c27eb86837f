"""Migration 0003, on a hub that the version before it made: `tests/data/hub-0002.sql`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from support.services import Databases

from finch_hub.registry import schema_revisions, tables
from finch_hub.specs.jobs import JobResult
from finch_hub.workers.runs import kinds

DUMP = Path(__file__).parents[2] / "data" / "hub-0002.sql"
JOBS, VERSIONS = tables.Job.__table__, tables.AdapterVersion.__table__


@pytest.fixture
def old_hub(tmp_path: Path) -> Iterator[sa.Engine]:
    """The hub of the older version, on SQLite."""
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.executescript(DUMP.read_text(encoding="utf-8"))
    connection.close()
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'old.db'}")
    yield engine
    engine.dispose()


@pytest.fixture
def hub(old_hub: sa.Engine, databases: Databases) -> Iterator[sa.Engine]:
    """The same rows on both engines in turn."""
    url = databases.empty()
    engine = sa.create_engine(url)
    with old_hub.connect() as source, engine.begin() as target:
        command.upgrade(schema_revisions.config(target), "0002")
        for table in tables.Table.metadata.sorted_tables:
            if rows := [dict(row._mapping) for row in source.execute(sa.select(table))]:
                target.execute(sa.insert(table), rows)
    yield engine
    engine.dispose()
    databases.drop(url)


def documents(connection: sa.Connection) -> list[Any]:
    results = connection.execute(sa.select(JOBS.c.id, JOBS.c.result).order_by(JOBS.c.id)).all()
    return [*results, *connection.execute(sa.select(VERSIONS.c.id, VERSIONS.c.metrics).order_by(VERSIONS.c.id))]


def test_upgrade_gives_every_kind_the_same_keys_and_downgrade_restores_the_old_ones(hub: sa.Engine) -> None:
    with hub.begin() as connection:
        before = documents(connection)
        schema_revisions.upgrade(connection, "test")
        rows = connection.execute(sa.select(JOBS.c.kind, JOBS.c.spec, JOBS.c.result)).all()
        assert {row.kind for row in rows if row.result} == set(kinds.MODULES)
        for row in rows:
            kind = kinds.kind_of(row.kind)
            assert kind.spec_of(row.spec).kind == row.kind
            if row.result is not None:
                kind.report.of(JobResult.of(row.result).report)
        quantized = connection.execute(sa.select(VERSIONS.c.metrics).where(VERSIONS.c.kind == "quantize")).scalar_one()
        assert "loss_unquantized" in quantized
        assert "loss_unquantised" not in quantized

        command.downgrade(schema_revisions.config(connection), "0002")
        assert documents(connection) == before
