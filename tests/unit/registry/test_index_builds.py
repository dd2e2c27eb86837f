"""Indexes that are built in a migration; `tests/integration/registry/test_migration_safety.py` interrupts builds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from support.services import Databases

from finch_hub.registry import index_builds
from finch_hub.registry.database import Database


def read_indexes(engine: sa.Engine) -> dict[str | None, bool]:
    return {index["name"]: index["unique"] for index in sa.inspect(engine).get_indexes("birds")}


def test_index_is_built_in_place_of_a_broken_one_and_dropped(databases: Databases) -> None:
    url = databases.empty()
    with Database(url, allow_insecure=True).migrate() as connection:
        engine = connection.engine
        connection.execute(sa.text("CREATE TABLE birds (name TEXT, age INTEGER)"))
        connection.commit()
        context = MigrationContext.configure(connection, opts={"transaction_per_migration": True})
        with Operations.context(context), context.begin_transaction(_per_migration=True):
            for _ in range(2 if connection.dialect.name == "postgresql" else 1):  # as after an interruption
                index_builds.create_index("ix_birds_name", "birds", ["name"], where="age > 1", unique=True)
        assert read_indexes(engine) == {"ix_birds_name": 1}
        with Operations.context(context), context.begin_transaction(_per_migration=True):
            index_builds.drop_index("ix_birds_name", "birds")
        assert read_indexes(engine) == {}
    databases.drop(url)
