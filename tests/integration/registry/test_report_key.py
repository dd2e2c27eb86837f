"""Migration 0003, on a hub that the version before it made: `tests/data/hub-0002.sql`."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from support import registry

from finch_hub.registry import tables
from finch_hub.specs.jobs import JobResult
from finch_hub.workers.runs import kinds

JOBS, VERSIONS = tables.Job.__table__, tables.AdapterVersion.__table__


def documents(connection: sa.Connection) -> list[Any]:
    results = connection.execute(sa.select(JOBS.c.id, JOBS.c.result).order_by(JOBS.c.id)).all()
    return [*results, *connection.execute(sa.select(VERSIONS.c.id, VERSIONS.c.metrics).order_by(VERSIONS.c.id))]


def test_upgrade_gives_every_kind_the_same_keys_and_downgrade_restores_the_old_ones(old_hub: sa.Engine) -> None:
    with old_hub.begin() as connection:
        before = documents(connection)
    registry.migrate(old_hub, "head")
    with old_hub.begin() as connection:
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

    registry.migrate(old_hub, "0002")
    with old_hub.begin() as connection:
        assert documents(connection) == before
