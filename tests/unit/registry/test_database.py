from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from support import registry
from support.services import Databases, PostgresServer

from finch_hub import errors
from finch_hub.registry import bases, jobs, schema_revisions
from finch_hub.registry.database import Database


@pytest.fixture
def empty(databases: Databases) -> Database:
    return Database(databases.empty(), allow_insecure=True)


def test_exception_rolls_back_the_whole_transaction(database: Database) -> None:
    kept = registry.submit(database)
    with pytest.raises(errors.NotFound), database.write() as session:
        assert jobs.get(session, registry.submit_job(session, registry.train_spec()).id + "x")
    with database.read() as session:
        assert jobs.find(session) == [kept]


def test_write_in_a_read_session_is_refused(database: Database) -> None:
    with (
        pytest.raises((errors.Unavailable, sa.exc.DBAPIError), match=r"readonly|read-only"),
        database.read() as session,
    ):
        registry.submit_job(session, registry.train_spec())
    registry.submit(database)  # the next writer gets a connection that can write


def test_read_session_sees_one_state(database: Database) -> None:
    with database.read() as session:
        before = jobs.count(session)
        registry.submit(database)
        assert jobs.count(session) == before
    with database.read() as session:
        assert jobs.count(session) != before


def test_writer_waits_for_another_process(tmp_path: Path) -> None:
    file = tmp_path / "finch.db"
    database = Database(f"sqlite:///{file}")
    database.upgrade()
    with subprocess.Popen([sys.executable, "-c", _HOLD_LOCK, str(file)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        registry.submit(database)
    assert other.returncode == 0
    database.close()


_HOLD_LOCK = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
time.sleep(0.3)
connection.execute("COMMIT")
"""


def test_check_creates_no_database(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'home' / 'finch.db'}")
    assert database.revision() is None
    with pytest.raises(errors.SchemaMismatch, match=r"has no tables yet .run `finch-hub db upgrade`"):
        database.check()
    assert list(tmp_path.iterdir()) == []
    database.upgrade()
    database.check()
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700
    database.close()


def test_database_without_tables_is_refused_with_a_fix(empty: Database) -> None:
    with pytest.raises(errors.SchemaMismatch, match="finch-hub db upgrade"):
        empty.check()
    with pytest.raises(errors.SchemaMismatch, match="finch-hub db upgrade"), empty.read() as session:
        bases.find(session)
    empty.close()


OTHERS = {
    "tables": ["CREATE TABLE users (id INTEGER)", "CREATE TABLE jobs (id INTEGER)"],
    "view": ["CREATE VIEW jobs AS SELECT 1 AS id"],
    "revision": ["CREATE TABLE alembic_version (version_num TEXT)", "INSERT INTO alembic_version VALUES ('1975ea')"],
    "same revision": [
        "CREATE TABLE alembic_version (version_num TEXT)",
        f"INSERT INTO alembic_version VALUES ('{schema_revisions.HEAD}')",
        "CREATE TABLE jobs (id INTEGER)",
    ],
    "earlier revision": [
        "CREATE TABLE alembic_version (version_num TEXT)",
        "INSERT INTO alembic_version VALUES ('0003')",
        "CREATE TABLE jobs (id INTEGER)",
    ],
    "other columns": ["CREATE TABLE alembic_version (number INTEGER)"],
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_database_of_another_program_is_refused(empty: Database, what: str) -> None:
    with empty.write() as session:
        for statement in OTHERS[what]:
            session.execute(sa.text(statement))
    with pytest.raises(errors.SchemaMismatch, match=r"no tables|another program|not have the tables|older schema"):
        empty.check(tables=True)
    with pytest.raises(errors.SchemaMismatch, match="set FINCH_DATABASE_URL"):
        upgrade_and_check(empty)
    empty.close()


DAMAGED_REVISIONS = {
    "null": ["INSERT INTO alembic_version VALUES (NULL)"],
    "two": [f"INSERT INTO alembic_version VALUES ('{schema_revisions.HEAD}'), ('0003')"],
    "twice": [f"INSERT INTO alembic_version VALUES ('{schema_revisions.HEAD}'), ('{schema_revisions.HEAD}')"],
    "null and head": [f"INSERT INTO alembic_version VALUES (NULL), ('{schema_revisions.HEAD}')"],
    "none": [],
}


@pytest.mark.parametrize("rows", DAMAGED_REVISIONS)
def test_damaged_revision_is_refused(database: Database, rows: str) -> None:
    statements = ["DROP TABLE alembic_version", "CREATE TABLE alembic_version (version_num VARCHAR(32))"]
    with database.write() as session:
        for statement in (*statements, *DAMAGED_REVISIONS[rows]):
            session.execute(sa.text(statement))
    for use in (database.revision, database.check, database.upgrade):
        with pytest.raises(errors.SchemaMismatch, match=r"alembic_version has .*: it must have one revision .restore"):
            use()
    database.close()


def test_upgrade_that_was_interrupted_before_its_first_table_continues(empty: Database) -> None:
    with empty.write() as session:
        session.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
    assert empty.revision() is None
    upgrade_and_check(empty)
    empty.close()


def upgrade_and_check(database: Database) -> None:
    database.upgrade()
    database.check(tables=True)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE jobs RENAME COLUMN spec TO other",
        "DROP TABLE job_datasets",
        "ALTER TABLE workers RENAME TO helpers",
    ],
)
def test_schema_that_was_changed_is_refused(database: Database, change: str) -> None:
    database.check(tables=True)
    with database.write() as session:
        session.execute(sa.text(change))
    with pytest.raises(errors.SchemaMismatch, match="not have the tables"):
        database.check(tables=True)
    if "jobs RENAME" in change:
        with pytest.raises(errors.SchemaMismatch, match="not have the tables"), database.read() as session:
            jobs.find(session)


def test_rights_that_are_missing_on_a_server_are_named(databases: Databases, database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("it has no rights")
    with database.write() as session:
        role = f"weak_{secrets.token_hex(4)}"
        session.execute(sa.text(f"CREATE ROLE {role} LOGIN"))
    weak = Database(database.url.set(username=role).render_as_string(hide_password=False), allow_insecure=True)
    with pytest.raises(errors.Unavailable, match=r"permission denied.*grant the user"), weak.read() as session:
        jobs.find(session)
    weak.close()
    with database.write() as session:
        session.execute(sa.text(f"DROP ROLE {role}"))


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql://u@localhost/finch",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?mode=memory&uri=true",
        "sqlite:////x.db?timeout=soon",
        "postgresql://finch:secret@127.0.0.1:notaport/finch",
        "postgresql://finch:secret@piece/secret@db.example/finch",
    ],
)
def test_invalid_urls_are_refused(url: str) -> None:
    with pytest.raises(errors.InvalidSpec, match="use sqlite:///FILE or postgresql://") as caught:
        Database(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["x\udcff", "x\0"])
def test_text_that_no_database_stores_is_refused(database: Database, text: str) -> None:
    if "\0" in text and database.is_sqlite:
        pytest.skip("SQLite stores zero bytes")
    with pytest.raises(errors.InvalidInput, match=r"is not text in UTF-8|has a zero byte"), database.read() as session:
        bases.get(session, text)


def test_error_of_an_unavailable_server_hides_its_password() -> None:
    database = Database("postgresql://finch:hunter2@127.0.0.1:9/finch?password=hunter2")
    with pytest.raises(errors.Unavailable, match=r"finch:\*\*\*@127.0.0.1:9/finch.*check that the server") as caught:
        database.check()
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value)


def test_server_is_used_again_after_a_restart() -> None:
    server = PostgresServer()
    database = Database(server.url())
    try:
        server.start()
        database.upgrade()
        job = registry.submit(database)
        server.kill()
        with pytest.raises(errors.Unavailable):
            registry.submit(database)
        server.start()
        assert registry.get(database, job) == job
    finally:
        database.close()
        server.remove()


def test_damaged_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "finch.db").write_bytes(b"no database" * 1000)
    with pytest.raises(errors.Unavailable, match="file is not a database"):
        Database(f"sqlite:///{tmp_path / 'finch.db'}").check()


def test_full_disk_is_unavailable_and_loses_no_job(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'finch.db'}")
    database.upgrade()
    job = registry.submit(database)
    with database.write() as session:
        session.execute(sa.text("PRAGMA max_page_count = 1"))  # the minimum is the current size
    with pytest.raises(errors.Unavailable, match="full"):
        registry.submit(database, spec=registry.train_spec().evolve(system="b" * 100_000))
    assert registry.get(database, job) == job
    database.close()
