"""Migration 0004, on a hub with rows: no row is lost, and references between them stay."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import exc
from support import registry

from finch_hub.registry import tables
from finch_hub.registry.database import Database

VERSIONS, BASES = tables.AdapterVersion.__table__, tables.Base.__table__


Columns = dict[str, list[str]]


def read_columns(connection: sa.Connection) -> Columns:
    """Return the names of the columns of each table, as the database has them."""
    inspector = sa.inspect(connection)
    return {
        table: [column["name"] for column in inspector.get_columns(table)]
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


def read_rows(connection: sa.Connection, columns: Columns) -> dict[str, list[str]]:
    """Return all rows of these columns, by table."""
    tables_by_name = tables.Table.metadata.tables
    return {
        table: sorted(map(str, connection.execute(sa.select(*(tables_by_name[table].c[name] for name in names))).all()))
        for table, names in columns.items()
    }


@pytest.fixture
def database(old_hub: sa.Engine) -> Database:
    """The same hub, opened as the product does: with foreign keys on."""
    return Database(old_hub.url.render_as_string(hide_password=False), allow_insecure=True)


def test_upgrade_and_downgrade_keep_every_row(old_hub: sa.Engine, database: Database) -> None:
    registry.migrate(old_hub, "0003")
    with old_hub.begin() as connection:
        columns = read_columns(connection)
        before = read_rows(connection, columns)
    database.upgrade()
    with database.write() as session:
        connection = session.connection()
        assert read_rows(connection, columns) == before
        assert before["lineage"]
        assert before["aliases"]
        assert before["evaluations"]
        number = connection.scalar(sa.select(sa.func.min(VERSIONS.c.id)))
        connection.execute(sa.update(VERSIONS).where(VERSIONS.c.id == number).values(state="unchecked"))
        connection.execute(sa.update(BASES).values(public_id="birds/finch-1b"))
    registry.migrate(old_hub, "0003")
    with database.write() as session:
        connection = session.connection()
        assert connection.scalar(sa.select(VERSIONS.c.state).where(VERSIONS.c.id == number)) == "quarantined"
        connection.execute(sa.update(VERSIONS).where(VERSIONS.c.id == number).values(state="ready"))
        assert read_rows(connection, columns) == before
    database.close()


def test_references_are_still_checked_after_the_upgrade(database: Database) -> None:
    database.upgrade()
    with pytest.raises(exc.IntegrityError), database._engine.begin() as connection:
        connection.execute(sa.delete(VERSIONS))
    database.close()


def test_states_are_still_checked_after_the_upgrade(database: Database) -> None:
    database.upgrade()
    with pytest.raises(exc.IntegrityError), database._engine.begin() as connection:
        connection.execute(sa.update(VERSIONS).values(state="unknown"))
    database.close()
