from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from support import registry
from support.services import Databases

from finch_hub import errors
from finch_hub.registry import schema_revisions, search_index, tables
from finch_hub.registry.database import Database


@pytest.fixture
def new_url(databases: Databases) -> Iterator[str]:
    """URL of a database without tables."""
    url = databases.empty()
    yield url
    databases.drop(url)


@pytest.fixture
def new(new_url: str) -> Iterator[Database]:
    database = Database(new_url, allow_insecure=True)
    yield database
    database.close()


@pytest.fixture
def engine(new_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(new_url)
    yield engine
    engine.dispose()


def test_scripts_have_one_head_which_the_code_names() -> None:
    scripts = ScriptDirectory.from_config(schema_revisions.config())
    assert scripts.get_heads() == [schema_revisions.HEAD]


def test_migrated_schema_equals_the_models(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        tables.Table.metadata.create_all(connection)
        wanted = describe(connection)
        tables.Table.metadata.drop_all(connection)
    registry.migrate(engine, "head")
    with engine.begin() as connection:
        assert describe(connection) == wanted


@pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based index:UserWarning")
def test_alembic_finds_no_difference_after_upgrade(engine: sa.Engine) -> None:
    registry.migrate(engine, "head")
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, tables.Table.metadata)
    # Alembic cannot read these indexes of an expression; the test above can.
    known = ("ix_jobs_(claim|needs|owner|id_bytes)", search_index.TEXTS, search_index.LETTERS, *search_index.TABLES)
    assert [item for item in differences if not re.search("|".join(known), str(item))] == []


def test_downgrade_removes_all_tables_and_upgrade_restores_them(engine: sa.Engine) -> None:
    registry.migrate(engine, "head")
    with engine.begin() as connection:
        wanted = describe(connection)
    registry.migrate(engine, "base")
    assert sa.inspect(engine).get_table_names() == ["alembic_version"]
    registry.migrate(engine, "head")
    with engine.begin() as connection:
        assert describe(connection) == wanted


def test_second_upgrade_keeps_the_rows(new: Database) -> None:
    new.upgrade()
    job = registry.submit(new)
    new.upgrade()
    new.check()
    assert new.revision() == schema_revisions.HEAD
    assert registry.get(new, job) == job


def test_newer_database_is_refused(new: Database) -> None:
    new.upgrade()
    mark(new, "9999")
    for refused in (new.check, new.upgrade):
        with pytest.raises(errors.SchemaMismatch, match=r"newer schema 9999: .*update finch-hub"):
            refused()
    assert new.revision() == "9999"


def test_older_database_is_refused_with_a_fix(new: Database, engine: sa.Engine) -> None:
    registry.migrate(engine, "0001")
    with pytest.raises(
        errors.SchemaMismatch,
        match=rf"older schema 0001: this code needs {schema_revisions.HEAD} .run `finch-hub db upgrade`",
    ):
        new.check()
    new.upgrade()
    new.check()


@pytest.mark.slow
def test_concurrent_upgrades_of_a_new_database_succeed(new: Database, new_url: str) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", _UPGRADE, new_url], stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in processes:
        _, error = process.communicate()
        assert (process.returncode, error) == (0, "")
    new.check()


_UPGRADE = """
import sys
from finch_hub.registry.database import Database
database = Database(sys.argv[1], allow_insecure=True)
database.upgrade()
database.check()
database.close()
"""


def mark(database: Database, revision: str) -> None:
    with database.write() as session:
        session.execute(sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def describe(connection: sa.Connection) -> dict[str, Any]:
    """Return columns, constraints and indexes of the registry's tables, as the database knows them.

    The index of versions is left out, which has no models. `tests/unit/registry/test_search_index.py` is about it.
    """
    if connection.dialect.name == "sqlite":
        others = (*search_index.TABLES, search_index.LETTERS)
        own = f"tbl_name NOT LIKE '{search_index.TEXTS}%' AND tbl_name NOT IN {others}"
        query = f"SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND type <> 'trigger' AND {own}"
        rows = connection.exec_driver_sql(query)
        # The order within a table has no meaning. Split at commas outside parentheses.
        found = {
            name: sorted(part.strip() for part in re.split(r",\s+(?![^()]*\))", sql.strip().removesuffix(")")))
            for name, sql in rows
        }
        return {name: parts for name, parts in found.items() if name != "alembic_version"}
    queries = {
        "columns": """SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull,
                      pg_get_expr(adbin, adrelid) FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid
                      AND adnum = attnum WHERE attnum > 0 AND NOT attisdropped""",
        "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint",
        "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    }
    names = set(tables.Table.metadata.tables)
    return {
        name: sorted(str(row) for row in connection.exec_driver_sql(query) if row[0] in names)
        for name, query in queries.items()
    }


def test_index_of_versions_is_right_at_each_revision_that_makes_it(old_hub: sa.Engine) -> None:
    """The migrations run the SQL of the present code, which must not read what a later one adds."""
    for revision in ("0018", "0021", "0023"):
        registry.migrate(old_hub, revision)
        with old_hub.begin() as connection:
            ids = connection.scalars(
                sa.text("SELECT id FROM adapter_versions WHERE deleted_at IS NULL ORDER BY id")
            ).all()
            indexed = sa.text("SELECT version_id FROM searched_versions ORDER BY version_id")
            assert connection.scalars(indexed).all() == ids != []
            changed = {"text": f"changed at {revision}", "id": ids[0]}
            connection.execute(sa.text("UPDATE adapter_versions SET notes = :text WHERE id = :id"), changed)
            assert search_index.find_stale(connection, 1, max(ids)) == []
