"""Migration 0019, on a hub of before: the evidence of its versions is read from its jobs, and kept."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session
from support import registry

from finch_hub.registry import evidence, jobs, tables
from finch_hub.specs.evidence import Evidence

MEASURED = ("train", "compose", "quantize")


def read_rows(engine: sa.Engine) -> dict[str, list[Any]]:
    """Return the rows of all tables but the one of evidence."""
    reflected = sa.MetaData()
    reflected.reflect(engine)
    with engine.connect() as connection:
        return {
            table.name: sorted(map(str, connection.execute(sa.select(table))))
            for table in reflected.sorted_tables
            if table.name not in ("evidence", "alembic_version")
        }


def find_all(session: Session) -> dict[str, Evidence]:
    query = sa.select(tables.Adapter.name, tables.AdapterVersion.number).join_from(
        tables.AdapterVersion, tables.Adapter
    )
    references = [f"{row.name}/{row.number}" for row in session.execute(query)]
    return {reference: evidence.find(session, reference)[0] for reference in references}


def test_evidence_of_an_old_hub_outlives_its_jobs(old_hub: sa.Engine) -> None:
    registry.migrate(old_hub, "head")
    with Session(old_hub) as session:
        before = find_all(session)
        assert {found.kind for found in before.values() if not found.is_empty} == set(MEASURED)
        trained = [found for found in before.values() if found.training is not None]
        assert all(found.curve is not None for found in trained)
        assert session.scalar(sa.select(sa.func.count()).select_from(tables.Evidence)) == 0
        while jobs.prune(session, older_than=0):
            pass
        assert session.scalar(sa.select(sa.func.count()).where(tables.jobs.c.result.is_not(None))) == 0
        assert find_all(session) == before
        session.commit()


def test_downgrade_removes_the_evidence_alone(old_hub: sa.Engine) -> None:
    registry.migrate(old_hub, "0018")
    before = read_rows(old_hub)
    registry.migrate(old_hub, "0019")
    assert read_rows(old_hub) == before
    with old_hub.begin() as connection:
        version_id = connection.scalar(sa.select(sa.func.min(tables.AdapterVersion.id)))
        row = {"version_id": version_id, "document": {"kind": "train"}, "samples": registry.digest("samples")}
        connection.execute(sa.insert(tables.Evidence), row)
    registry.migrate(old_hub, "0018")
    assert read_rows(old_hub) == before
    assert not sa.inspect(old_hub).has_table("evidence")
    registry.migrate(old_hub, "0019")
    assert read_rows(old_hub) == before
