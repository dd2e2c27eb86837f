"""The index of versions, which triggers of the database keep right."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub.registry import adapter_versions, datasets, search_index, sqlite, tables, values, version_search
from finch_hub.registry.database import Database, Session

VERSIONS, ADAPTERS = tables.AdapterVersion.__table__, tables.Adapter.__table__


def find(database: Database, query: str) -> list[str]:
    with database.read() as session:
        return [version.reference for version in version_search.find(session, query, sort="name").versions]


def change(database: Database, table: Any, **columns: Any) -> None:
    with database.write() as session:
        session.execute(sa.update(table).values(columns))


def read_index(database: Database) -> list[Any]:
    names = [*search_index.TABLES, *([search_index.TEXTS] if database.is_sqlite else [])]
    with database.read() as session:
        return [sorted(map(str, session.execute(sa.text(f"SELECT * FROM {name}")))) for name in names]


def add_dataset(database: Database, text: str, name: str | None, **options: Any) -> None:
    with database.write() as session:
        datasets.add(session, digest=registry.digest(text), format="messages", examples=1, name=name, **options)


def test_changes_of_a_version_are_found(database: Database) -> None:
    registry.add_version(database, card="about whales", tags=["gold"])
    assert find(database, "whales gold") == ["medical/1"]
    with database.write() as session:
        adapter_versions.edit_card(session, "medical/1", "about sharks")
        adapter_versions.remove_tags(session, "medical/1", "gold")
        adapter_versions.add_tags(session, "medical/1", "silver")
    assert find(database, "whales") == find(database, "gold") == []
    assert find(database, "sharks silver") == ["medical/1"]
    change(database, VERSIONS, notes="checked by hand")
    assert find(database, '"by hand"') == ["medical/1"]
    change(database, VERSIONS, metrics={"loss_after": 3.0})
    assert find(database, "metric.loss_after=3") == ["medical/1"]
    with database.write() as session:
        adapter_versions.quarantine(session, "medical/1", job_id="none")
    assert find(database, "state:quarantined") == ["medical/1"]
    registry.delete_version(database, "medical", 1)
    assert find(database, "") == []
    assert read_index(database) == [[] for _ in read_index(database)]
    change(database, VERSIONS, deleted_at=None)
    assert find(database, "sharks") == ["medical/1"]


def test_changes_of_an_adapter_are_found_in_all_its_versions(database: Database) -> None:
    registry.add_version(database)
    registry.add_version(database)
    change(database, ADAPTERS, name="legal", description="for contracts")
    assert find(database, "legal contracts") == find(database, "name:legal") == ["legal/1", "legal/2"]
    assert find(database, "medical") == find(database, "name:medical") == []
    with database.write() as session:
        session.execute(sa.update(ADAPTERS).values(deleted_at=sa.func.current_timestamp()))
    assert find(database, "") == []


def test_names_of_data_sets_are_found_until_they_are_purged(database: Database) -> None:
    add_dataset(database, "a", None)
    lineage = values.Lineage(train_digest=registry.digest("a"), validation_digest=registry.digest("b"))
    registry.add_version(database, lineage=lineage)
    add_dataset(database, "a", "finches")
    add_dataset(database, "b", "held-out")
    assert find(database, "finches") == find(database, '"held out"') == ["medical/1"]
    add_dataset(database, "c", "finches", replace=True)
    assert find(database, "finches") == []
    with database.write() as session:
        datasets.purge(session, "held-out")
    assert find(database, "held") == []


def test_postgresql_counts_the_rows_before_it_indexes_them(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite plans by the indexes")
    for _ in range(3):
        registry.add_version(database)
    with database.migrate() as connection:
        connection.exec_driver_sql("UPDATE pg_class SET reltuples = -1 WHERE relname = 'adapter_versions'")
        search_index.build(connection)
        counted = connection.exec_driver_sql("SELECT reltuples FROM pg_class WHERE relname = 'adapter_versions'")
        assert counted.scalar() == 3


def test_index_that_is_built_anew_equals_the_one_of_the_triggers(database: Database) -> None:
    add_dataset(database, "a", "finches")
    lineage = values.Lineage(train_digest=registry.digest("a"))
    for number in range(5):
        metrics = {"loss_after": number / 3, "rank": 8}
        registry.add_version(database, lineage=lineage, metrics=metrics, card=f"about {number}", tags=["gold"])
    registry.delete_version(database, "medical", 2)
    wanted = read_index(database)
    assert len(wanted[0]) == 4
    with database.migrate() as connection:
        search_index.build(connection)
    assert read_index(database) == wanted


def find_stale(database: Database) -> list[int]:
    with database.read() as session:
        connection = session.connection()
        batches = list(search_index.list_batches(connection))
        return [number for batch in batches for number in search_index.find_stale(connection, *batch)]


def spoil(database: Database, statement: str) -> None:
    with database.write() as session:
        session.execute(sa.text(statement))


TEXT_CHANGES = (
    "UPDATE version_texts SET text = 'sharks' WHERE rowid = 2",
    "UPDATE searched_versions SET words = 'sharks' WHERE version_id = 2",
)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE searched_versions SET name = 'other' WHERE version_id = 2",
        "DELETE FROM searched_versions WHERE version_id = 2",
        "UPDATE version_numbers SET value = 7 WHERE version_id = 2 AND name = 'metric.rank'",
        "DELETE FROM version_numbers WHERE version_id = 2 AND name = 'lora.rank'",
        "INSERT INTO version_numbers (version_id, name, value) VALUES (2, 'metric.none', 1)",
        "text",
    ],
)
def test_entry_that_is_not_what_the_rows_say_is_found_and_made_anew(database: Database, statement: str) -> None:
    add_dataset(database, "a", "finches")
    lineage = values.Lineage(train_digest=registry.digest("a"), validation_digest=registry.digest("b"))
    for number in range(3):
        spec: dict[str, Any] = {"lora": {"rank": 4, "r": 1}, "training": {"epochs": 2}} if number else {}
        metrics = {"loss_after": number / 3, "rank": 8, "none": None, "named": "x"}
        registry.add_version(database, lineage=lineage, metrics=metrics, spec=spec, card="é", tags=["b", "a=1"])
    registry.delete_version(database, "medical", 1)
    assert find_stale(database) == []
    wanted = read_index(database)
    spoil(database, statement if statement != "text" else TEXT_CHANGES[not database.is_sqlite])
    assert find_stale(database) == [2]
    assert database.reindex() == 1
    assert find_stale(database) == []
    assert read_index(database) == wanted


def test_entries_of_versions_that_are_gone_are_found_and_removed(database: Database) -> None:
    registry.add_version(database)
    spoil(database, "UPDATE searched_versions SET version_id = 9")
    assert find_stale(database) == [1, 9]
    database.reindex()
    assert find_stale(database) == []
    assert find(database, "") == ["medical/1"]


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("is_named_first", [True, False])
def test_name_of_a_data_set_and_a_version_made_of_it_find_each_other_in_any_order(
    database: Database, is_new: bool, is_named_first: bool
) -> None:
    """Neither sees the other until it is committed."""
    base = registry.add_base(database)
    if not is_new:
        add_dataset(database, "a", None)

    def name(session: Session) -> None:
        datasets.add(session, digest=registry.digest("a"), format="messages", examples=1, name="finches")

    def register(session: Session) -> None:
        lineage = values.Lineage(train_digest=registry.digest("a"))
        digests: dict[str, Any] = {"digest": "1" * 64, "identity": "1" * 64}
        adapter_versions.create(session, name="medical", kind="train", base=base, lineage=lineage, **digests)

    def run(change: Callable[[Session], None]) -> None:
        with database.write() as session:
            change(session)

    first, second = (name, register) if is_named_first else (register, name)
    with ThreadPoolExecutor(1) as threads:
        with database.write() as session:
            first(session)
            other = threads.submit(run, second)
            concurrent.futures.wait([other], timeout=1)
        other.result()
    assert find(database, "finches") == ["medical/1"]
    assert find_stale(database) == []


def test_migration_gives_an_index_of_before_the_locks(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    query = sa.text("SELECT proname, prosrc FROM pg_proc WHERE proname LIKE 'search_%'")
    with database.read() as session:
        wanted = {row.proname: row.prosrc for row in session.execute(query)}
    engine = sa.create_engine(database.url)
    registry.migrate(engine, "0019")
    with database.write() as session:
        for name in search_index._LOCKS:
            body = wanted[f"search_{name}"].replace(f"PERFORM {search_index._LOCKS[name]};", "")
            create = f"CREATE OR REPLACE FUNCTION search_{name}() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$"
            session.execute(sa.text(create))
    registry.migrate(engine, "head")
    engine.dispose()
    with database.read() as session:
        assert {row.proname: row.prosrc for row in session.execute(query)} == wanted


def test_data_set_without_a_name_that_comes_back_waits_for_no_version(database: Database) -> None:
    """Workers store and purge such parts of data. Their trainings would end in deadlocks."""
    if database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    add_dataset(database, "a", None)
    with database.write() as session:
        datasets.purge(session, registry.digest("a"))
    registry.add_version(database)
    with ThreadPoolExecutor(1) as threads, database.write() as session:
        datasets.add(session, digest=registry.digest("a"), format="messages", examples=1, of_jobs=True)
        made = threads.submit(registry.add_version, database, "other").result(timeout=5)
    assert made.reference == "other/1"


def test_migration_renews_the_trigger_of_data_sets(database: Database) -> None:
    query = "SELECT sql FROM sqlite_master WHERE name = 'search_dataset_changed'"
    table = "" if database.is_sqlite else " ON datasets"
    if not database.is_sqlite:
        query = "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'search_dataset_changed'"
    with database.read() as session:
        wanted = session.scalar(sa.text(query))
    assert wanted is not None
    is_sqlite = database.is_sqlite
    engine = sqlite.create_migration_engine(database.url) if is_sqlite else sa.create_engine(database.url)
    registry.migrate(engine, "0019")
    with database.write() as session:  # one without condition is missed in the same way
        session.execute(sa.text(f"DROP TRIGGER search_dataset_changed{table}"))
    registry.migrate(engine, "head")
    engine.dispose()
    with database.read() as session:
        assert session.scalar(sa.text(query)) == wanted


def test_damaged_documents_of_a_version_keep_no_other_from_being_found(database: Database) -> None:
    registry.add_version(database, card="whales")
    damaged = "'{'" if database.is_sqlite else "'[1]'"
    with database.write() as session:
        session.execute(sa.text(f"UPDATE adapter_versions SET metrics = {damaged}, spec = {damaged}"))
    registry.add_version(database, card="whales")
    assert find(database, "whales") == ["medical/1", "medical/2"]


@pytest.mark.parametrize("card", ["é" * 300_000, "한 " * 100_000, " ".join(map(str, range(100_000))), "x" * 5000])
def test_long_card_is_indexed_from_its_beginning(database: Database, card: str) -> None:
    registry.add_version(database, "birds", card=f"whales {card}")
    assert find(database, "whales birds") == ["birds/1"]


def test_database_without_the_index_is_refused(database: Database) -> None:
    with database.migrate() as connection:
        search_index.drop(connection)
    with pytest.raises(Exception, match="does not have the tables of schema"):
        database.check(tables=True)
