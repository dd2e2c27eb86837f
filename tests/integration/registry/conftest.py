"""A hub with rows in every table, as an older version made it, for tests of migrations."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from support import registry
from support.services import Databases

from finch_hub.registry import tables

DUMP = Path(__file__).parents[2] / "data" / "hub-0002.sql"


@pytest.fixture
def sqlite_hub(tmp_path: Path) -> Iterator[sa.Engine]:
    """The hub of revision 0002, on SQLite."""
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.executescript(DUMP.read_text(encoding="utf-8"))
    connection.close()
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'old.db'}")
    yield engine
    engine.dispose()


@pytest.fixture
def old_hub(sqlite_hub: sa.Engine, databases: Databases) -> Iterator[sa.Engine]:
    """The same rows on both engines in turn."""
    url = databases.empty()
    engine = sa.create_engine(url)
    registry.migrate(engine, "0002")
    with sqlite_hub.connect() as source, engine.begin() as target:
        names = sa.inspect(source).get_table_names()
        for table in (table for table in tables.Table.metadata.sorted_tables if table.name in names):
            known = {column["name"] for column in sa.inspect(source).get_columns(table.name)}
            columns = [column for column in table.c if column.name in known]
            if rows := [dict(row._mapping) for row in source.execute(sa.select(*columns))]:
                target.execute(sa.insert(table), rows)
    yield engine
    engine.dispose()
    databases.drop(url)
