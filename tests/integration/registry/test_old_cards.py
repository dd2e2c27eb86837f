"""Migration 0020, on a hub of before: which cards count as edited, and their text. Nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub.registry import search_index, tables

ADDED = {
    "bases": ("license", "license_link"),
    "datasets": ("license",),
    "adapter_versions": ("card_edited_at",),
    "jobs": ("is_memory_estimated",),
}

WRITTEN_NOW = "# birds\n\nA LoRA adapter for `tiny`, made by Finch Hub (train).\n"
FRONT = '---\nlibrary_name: "peft"\n---\n\n'


def read_rows(engine: sa.Engine) -> dict[str, list[str]]:
    """Return the rows of the tables that have some, without the columns that this migration and later ones add."""
    reflected = sa.MetaData()
    reflected.reflect(engine)
    found = {}
    with engine.connect() as connection:
        for table in reflected.sorted_tables:
            columns = [column for column in table.c if column.name not in ADDED.get(table.name, ())]
            # The index of searches is made anew by a migration.
            if table.name != "alembic_version" and not table.name.startswith(search_index.TEXTS):
                found[table.name] = sorted(map(str, connection.execute(sa.select(*columns))))
    return {name: rows for name, rows in found.items() if rows}


def test_cards_that_were_edited_before_stay_edited(old_hub: sa.Engine) -> None:
    registry.migrate(old_hub, "0019")
    versions, adapters, former = tables.AdapterVersion.__table__, tables.Adapter.__table__, tables.FormerName.__table__
    entry: dict[str, Any] = {"who": "ana", "action": "card.edit", "details": {}, "subject_name": "x"}
    with old_hub.begin() as connection:
        named = sa.select(adapters.c.id, adapters.c.name, versions.c.number).join(versions).order_by(versions.c.id)
        first, second, *_ = connection.execute(named).all()
        is_edited = versions.c.adapter_id.in_((first.id, second.id))
        connection.execute(sa.update(versions).where(is_edited).values(card=WRITTEN_NOW))
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


@pytest.mark.parametrize(
    ("card", "is_audited", "is_edited", "kept"),
    [
        ("# By hand\n", False, True, "# By hand\n"),
        (f"{FRONT}# Written\n", False, False, None),
        (WRITTEN_NOW, False, False, None),
        ("(purged)", False, False, None),
        ("(purged)", True, True, None),
        (f"{FRONT}# By hand\n", True, True, "# By hand\n"),
        ("---\nlicense: mit\n---\n# By hand\n", False, True, "# By hand\n"),
        ("---\nA note.\n---\n# By hand\n", False, True, None),
        (FRONT, True, False, None),
        (" \n", True, False, None),
        ("", False, False, None),
        ("x" * 300_000, True, True, None),
    ],
)
def test_old_card_counts_as_edited_if_no_hub_wrote_it(
    old_hub: sa.Engine, card: str, is_audited: bool, is_edited: bool, kept: str | None
) -> None:
    registry.migrate(old_hub, "0019")
    versions, adapters = tables.AdapterVersion.__table__, tables.Adapter.__table__
    with old_hub.begin() as connection:
        found = connection.execute(sa.select(versions.c.id, adapters.c.name, versions.c.number).join(adapters)).first()
        assert found is not None
        is_first = versions.c.id == found.id
        connection.execute(sa.update(versions).where(is_first).values(card=card))
        if is_audited:
            entry = {"who": "ana", "action": "card.edit", "details": {}, "subject_name": "x", "outcome": "done"}
            named = {"subject": f"{found.name}/{found.number}"}
            connection.execute(sa.insert(tables.AuditRow.__table__).values(**entry, **named))
    registry.migrate(old_hub, "head")
    with old_hub.connect() as connection:
        row = connection.execute(sa.select(versions.c.card, versions.c.card_edited_at).where(is_first)).one()
    assert (row.card, row.card_edited_at is not None) == (card if kept is None else kept, is_edited)
