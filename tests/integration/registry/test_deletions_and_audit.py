"""Migration 0017, on a hub that the version before it made."""

from __future__ import annotations

import sqlalchemy as sa
from support import registry

from finch_hub.registry import adapters, alias_moves, audit, row_copies
from finch_hub.registry.database import Database


def test_upgrade_begins_the_history_of_each_alias_and_downgrade_keeps_the_rest(old_hub: sa.Engine) -> None:
    registry.migrate(old_hub, "0015")
    with old_hub.begin() as connection:
        aliases = connection.execute(
            sa.text(  # the columns of that revision
                "SELECT adapters.name, aliases.name, number FROM aliases"
                " JOIN adapters ON adapters.id = aliases.adapter_id"
                " JOIN adapter_versions ON adapter_versions.id = version_id"
            )
        ).all()
        before = connection.execute(sa.text("SELECT * FROM adapter_versions ORDER BY id")).all()
    assert aliases
    registry.migrate(old_hub, "head")
    database = Database(old_hub.url.render_as_string(hide_password=False), allow_insecure=True)
    name, alias, number = aliases[0]
    with database.read() as session:
        for found in aliases:
            (move,) = alias_moves.find(session, f"{found[0]}@{found[1]}")
            assert (move.from_number, move.to_number, move.who) == (None, found[2], "")
        assert audit.find(session) == []
    with database.write() as session:
        row_copies.advance_sequences(session)
        adapters.delete_alias(session, name, alias, who="ana")
    with database.read() as session:
        assert [(move.from_number, move.to_number) for move in alias_moves.find(session, f"{name}@{alias}")] == [
            (number, None),
            (None, number),
        ]
    registry.add_version(database, "new")
    registry.purge(database, "new")
    database.close()
    registry.migrate(old_hub, "0015")
    with old_hub.begin() as connection:
        after = connection.execute(sa.text("SELECT * FROM adapter_versions ORDER BY id")).all()
    assert after[: len(before)] == before
    assert len(after) == len(before) + 1
    registry.migrate(old_hub, "head")
