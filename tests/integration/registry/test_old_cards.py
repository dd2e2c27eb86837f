"""Migration 0020, on a hub of before: edited cards are known by the audit, and nothing else changes."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from support import registry

from finch_hub.registry import tables

ADDED = {"bases": ("license", "license_link"), "datasets": ("license",), "adapter_versions": ("card_edited_at",)}


def read_rows(engine: sa.Engine) -> dict[str, list[str]]:
    """Return the rows of all tables, without the columns that the migration adds."""
    reflected = sa.MetaData()
    reflected.reflect(engine)
    found = {}
    with engine.connect() as connection:
        for table in reflected.sorted_tables:
            columns = [column for column in table.c if column.name not in ADDED.get(table.name, ())]
            if table.name != "alembic_version":
                found[table.name] = sorted(map(str, connection.execute(sa.select(*columns))))
    return found


def test_cards_that_were_edited_before_stay_edited(old_hub: sa.Engine) -> None:
    registry.migrate(old_hub, "0019")
    versions, adapters, former = tables.AdapterVersion.__table__, tables.Adapter.__table__, tables.FormerName.__table__
    entry: dict[str, Any] = {"who": "ana", "action": "card.edit", "details": {}, "subject_name": "x"}
    with old_hub.begin() as connection:
        named = sa.select(adapters.c.id, adapters.c.name, versions.c.number).join(versions).order_by(versions.c.id)
        first, second, *_ = connection.execute(named).all()
        connection.execute(sa.insert(former).values(name="of-before", adapter_id=second.id))
        for subject, outcome in (
            (f"{first.name}/{first.number}", "done"),
            (f"of-before/{second.number}", "done"),
            ("nobody/7", "done"),
            ("nobody", "refused"),
        ):
            connection.execute(sa.insert(tables.AuditRow.__table__).values(**entry, subject=subject, outcome=outcome))
    before = read_rows(old_hub)
    registry.migrate(old_hub, "head")
    assert read_rows(old_hub) == before
    with old_hub.connect() as connection:
        edited = sa.select(versions.c.adapter_id, versions.c.number).where(versions.c.card_edited_at.is_not(None))
        assert set(connection.execute(edited)) == {(first.id, first.number), (second.id, second.number)}
    registry.migrate(old_hub, "0019")
    assert read_rows(old_hub) == before
    registry.migrate(old_hub, "head")
    assert read_rows(old_hub) == before
