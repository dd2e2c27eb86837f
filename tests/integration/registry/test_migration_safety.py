"""Migrations lose no row, block nobody for long, and can be interrupted at any time."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import event
from support import registry
from support.fleet import wait_until

from finch_hub import errors
from finch_hub.registry import jobs, postgresql, schema_revisions, tables
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import Requirements

NEXT = "9000"
HEADER = f'''"""The next migration."""
import sqlalchemy as sa
from alembic import op
from finch_hub.registry import index_builds
revision, down_revision, branch_labels, depends_on = "{NEXT}", "{schema_revisions.HEAD}", None, None
'''
REBUILD = """
RECREATE = {"sqlite": "always", "postgresql": "never"}
def upgrade():
    with op.batch_alter_table("jobs", recreate=RECREATE[op.get_bind().dialect.name]) as batch:
        batch.alter_column("reason", new_column_name="why")
def downgrade():
    with op.batch_alter_table("jobs", recreate=RECREATE[op.get_bind().dialect.name]) as batch:
        batch.alter_column("why", new_column_name="reason")
"""
BREAK = """
def upgrade():
    op.execute("DELETE FROM jobs")
"""
BUILD = """
def upgrade():
    index_builds.create_index("ix_jobs_worker", "jobs", ["worker"], where="worker IS NOT NULL")
def downgrade():
    index_builds.drop_index("ix_jobs_worker", "jobs")
"""
PAUSE = """
import pathlib, time
def upgrade():
    op.execute("DELETE FROM events")
    pathlib.Path(FILE).touch()
    time.sleep(600)
"""
GROW = """
def upgrade():
    op.execute("CREATE TABLE filler AS SELECT zeroblob(1000000) AS zeros")
"""
_UPGRADE = """
import sys, resource, pathlib
from finch_hub.registry import schema_revisions
from finch_hub.registry.database import Database
schema_revisions.scripts, schema_revisions.HEAD = lambda: pathlib.Path(sys.argv[2]), sys.argv[3]
database = Database(sys.argv[1], allow_insecure=True)
if len(sys.argv) > 4:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
database.upgrade()
"""

AddMigration = Callable[[str], Path]


@pytest.fixture
def hub(old_hub: sa.Engine) -> Iterator[Database]:
    """A hub of this version with rows in every table."""
    registry.migrate(old_hub, "head")
    database = Database(url_of(old_hub), allow_insecure=True)
    yield database
    database.close()


@pytest.fixture
def on_postgresql(hub: Database) -> Database:
    if hub.is_sqlite:
        pytest.skip("SQLite has one writer")
    return hub


@pytest.fixture
def on_sqlite(hub: Database) -> Database:
    if not hub.is_sqlite:
        pytest.skip("about the file of SQLite")
    return hub


@pytest.fixture
def add_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AddMigration:
    """Add a migration to a copy of the scripts, and return their folder."""

    def add(body: str) -> Path:
        folder = tmp_path / "migrations"
        shutil.copytree(schema_revisions.scripts(), folder)
        (folder / "versions" / "9000_next.py").write_text(HEADER + body)
        monkeypatch.setattr(schema_revisions, "scripts", lambda: folder)
        monkeypatch.setattr(schema_revisions, "HEAD", NEXT)
        return folder

    return add


def url_of(engine: sa.Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def start_upgrade(database: Database, folder: Path, *arguments: object) -> subprocess.Popen[str]:
    url = database.url.render_as_string(hide_password=False)
    words = [sys.executable, "-c", _UPGRADE, url, str(folder), NEXT, *map(str, arguments)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


def count_rows(database: Database | sa.Engine) -> dict[str, int]:
    engine = database._reader if isinstance(database, Database) else database
    with engine.connect() as connection:
        names = sorted(tables.Table.metadata.tables.keys() & {*sa.inspect(connection).get_table_names()})
        return {name: connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one() for name in names}


def connect(database: Database) -> psycopg.Connection:
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(url, options="-c lock_timeout=10s")


def test_every_migration_keeps_all_rows_up_and_down(old_hub: sa.Engine) -> None:
    rows = count_rows(old_hub)
    assert rows["events"]
    assert rows["attempts"]
    assert rows["job_dependencies"]
    scripts = ScriptDirectory.from_config(schema_revisions.config())
    upward = sorted(script.revision for script in scripts.walk_revisions() if script.revision > "0002")
    for revision in [*upward, *reversed(["0002", *upward[:-1]]), "head"]:
        registry.migrate(old_hub, revision)
        now = count_rows(old_hub)
        assert rows.items() <= now.items(), f"at {revision}"  # later revisions fill tables of their own


def test_migration_that_an_update_put_beside_running_code_is_newer(hub: Database, add_migration: AddMigration) -> None:
    running = schema_revisions.HEAD
    folder = add_migration(BUILD)
    hub.upgrade()
    schema_revisions.HEAD = running
    assert (folder / "versions" / "9000_next.py").exists()
    with pytest.raises(errors.SchemaMismatch, match=f"has the newer schema {NEXT}: this code needs {running}"):
        hub.check()


def test_rebuilt_parent_table_keeps_the_rows_that_refer_to_it(hub: Database, add_migration: AddMigration) -> None:
    rows = count_rows(hub)
    add_migration(REBUILD)
    hub.upgrade()
    assert count_rows(hub) == rows
    assert hub.revision() == NEXT
    with hub.migrate() as connection:
        connection.rollback()
        command.downgrade(schema_revisions.config(connection), "-1")
    assert count_rows(hub) == rows


def test_references_are_checked_and_cascade_after_an_upgrade(hub: Database, add_migration: AddMigration) -> None:
    add_migration(REBUILD)
    hub.upgrade()
    with hub.write() as session:
        session.execute(sa.text("DELETE FROM jobs"))
    assert count_rows(hub)["events"] == 0


def test_migration_that_breaks_references_changes_nothing(on_sqlite: Database, add_migration: AddMigration) -> None:
    rows = count_rows(on_sqlite)
    add_migration(BREAK)
    with pytest.raises(errors.Conflict, match=r"references between tables are broken, from .*events to jobs"):
        on_sqlite.upgrade()
    assert count_rows(on_sqlite) == rows
    assert on_sqlite.revision() != NEXT


def test_connection_with_foreign_keys_is_refused(on_sqlite: Database) -> None:
    with on_sqlite._engine.connect() as connection, pytest.raises(RuntimeError, match="without foreign keys"):
        command.downgrade(schema_revisions.config(connection), "-1")


def test_killed_upgrade_of_a_file_changes_nothing(
    on_sqlite: Database, add_migration: AddMigration, tmp_path: Path
) -> None:
    rows = count_rows(on_sqlite)
    folder = add_migration(PAUSE.replace("FILE", repr(str(tmp_path / "began"))))
    with start_upgrade(on_sqlite, folder) as process:
        wait_until((tmp_path / "began").exists, "the migration to begin")
        process.kill()
    assert count_rows(on_sqlite) == rows
    assert on_sqlite.revision() != NEXT
    (folder / "versions" / "9000_next.py").write_text(HEADER + BUILD)
    on_sqlite.upgrade()
    on_sqlite.check()


def test_upgrade_on_a_full_disk_changes_nothing(on_sqlite: Database, add_migration: AddMigration) -> None:
    rows = count_rows(on_sqlite)
    folder = add_migration(GROW)
    with start_upgrade(on_sqlite, folder, 500_000) as process:
        assert process.stderr is not None
        error = process.stderr.read()
    assert process.returncode == 1
    assert re.search(r"Unavailable: could not use database .*(free some space|disk is full)", error), error
    assert count_rows(on_sqlite) == rows
    on_sqlite.upgrade()
    on_sqlite.check()


def test_upgrade_of_a_read_only_file_says_so(on_sqlite: Database, add_migration: AddMigration) -> None:
    add_migration(BUILD)
    rows = count_rows(on_sqlite)
    on_sqlite.close()
    file = Path(str(on_sqlite.url.database))
    file.chmod(0o400)
    if os.access(file, os.W_OK):
        pytest.skip("root may write anywhere")
    with pytest.raises(errors.Unavailable, match=r"readonly database .make the file and its folder writable"):
        on_sqlite.upgrade()
    for made in file.parent.glob(f"{file.name}*"):  # SQLite's other files have the mode of the database
        made.chmod(0o600)
    assert count_rows(on_sqlite) == rows
    on_sqlite.upgrade()
    on_sqlite.check()


def test_no_migration_holds_an_exclusive_lock_while_it_reads_a_table(old_hub: sa.Engine) -> None:
    if old_hub.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer")
    registry.migrate(old_hub, "0001")
    statements: list[str] = []
    event.listen(old_hub, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    registry.migrate(old_hub, "head")
    registry.migrate(old_hub, "0001")
    new = set(re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)", "\n".join(statements)))
    for statement in statements:
        if match := re.search(r"(?:CREATE (?:UNIQUE )?INDEX|DROP INDEX)(?! CONCURRENTLY).*? ON (\w+)", statement):
            assert match[1] in new, f"use index_builds: {statement}"
        if re.search(r"ADD (CONSTRAINT|CHECK|FOREIGN)", statement):
            assert "NOT VALID" in statement, f"add it as NOT VALID, and validate it in an autocommit block: {statement}"
    assert any("CONCURRENTLY" in statement for statement in statements)


def test_long_queue_is_described_without_a_lock_of_the_table(old_hub: sa.Engine) -> None:
    registry.migrate(old_hub, "0004")
    columns = sa.table("jobs", *(sa.column(column["name"]) for column in sa.inspect(old_hub).get_columns("jobs")))
    with old_hub.begin() as connection:
        row = dict(connection.exec_driver_sql("SELECT * FROM jobs ORDER BY number LIMIT 1").one()._mapping)
        row |= {"state": "queued", "finished_at": None, "labels": "[]", "idempotency_key": None, "retry_of": None}
        row["result"], row["spec"] = None, json.dumps({"train": registry.digest("train")})
        queued = [row | {"number": 1000 + number, "id": f"queued-{number}"} for number in range(2500)]
        connection.execute(sa.insert(columns), queued)
    is_free: list[bool] = []

    def read_meanwhile(*arguments: Any) -> None:
        if "SET needs" in arguments[2] and not (is_free or old_hub.dialect.name == "sqlite"):
            with psycopg.connect(url_of(old_hub).replace("+psycopg", ""), options="-c lock_timeout=1s") as other:
                other.execute("UPDATE jobs SET priority = 7 WHERE id = 'queued-2499'")
            is_free.append(True)

    event.listen(old_hub, "before_cursor_execute", read_meanwhile)
    registry.migrate(old_hub, "head")
    requirements = Requirements(**{name: row[name] for name in ("queue", "device", "memory_bytes")})
    with old_hub.connect() as connection:
        described = connection.exec_driver_sql("SELECT DISTINCT needs FROM jobs WHERE id LIKE 'queued-%%'").all()
        assert described == [(jobs.hash_needs(str(row["kind"]), requirements),)]
        query = "SELECT digest, count(*) FROM job_datasets WHERE job_id LIKE 'queued-%%' GROUP BY digest"
        assert connection.exec_driver_sql(query).all() == [(registry.digest("train"), 2500)]


def test_upgrade_gives_up_soon_if_a_transaction_uses_the_table(
    on_postgresql: Database, add_migration: AddMigration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_MIGRATION_LOCK_TIMEOUT", "200ms")
    add_migration(REBUILD)
    before = on_postgresql.revision()
    with connect(on_postgresql) as reader:
        reader.execute("SELECT count(*) FROM jobs")
        with pytest.raises(errors.Unavailable, match=r"lock timeout .another transaction holds the lock: wait"):
            on_postgresql.upgrade()
        assert on_postgresql.revision() == before
    on_postgresql.upgrade()
    on_postgresql.check()


def is_building(database: Database) -> bool:
    with connect(database) as connection:
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%' AND state = 'active'"
        )
        row = connection.execute(query).fetchone()
    return row is not None and row[0] > 0


def is_valid(database: Database, index: str) -> bool:
    with connect(database) as connection:
        row = connection.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = %s::regclass", [index]).fetchone()
    return row is not None and row[0]


def test_others_write_while_an_index_is_built(on_postgresql: Database, add_migration: AddMigration) -> None:
    add_migration(BUILD)
    with ThreadPoolExecutor(1) as pool, connect(on_postgresql) as writer:
        # The build waits for this transaction.
        writer.execute("UPDATE jobs SET worker = 'first' WHERE number = (SELECT min(number) FROM jobs)")
        upgraded = pool.submit(on_postgresql.upgrade)
        wait_until(lambda: is_building(on_postgresql), "the build to begin")
        with on_postgresql.write() as session:
            last = "UPDATE jobs SET worker = 'last' WHERE number = (SELECT max(number) FROM jobs)"
            session.execute(sa.text(last))
        assert not upgraded.done()
        writer.commit()
        upgraded.result()
    on_postgresql.check()
    assert is_valid(on_postgresql, "ix_jobs_worker")


def test_upgrade_that_was_killed_while_it_built_an_index_is_continued(
    on_postgresql: Database, add_migration: AddMigration
) -> None:
    folder = add_migration(BUILD)
    with ThreadPoolExecutor(1) as pool, connect(on_postgresql) as writer:
        writer.execute("UPDATE jobs SET worker = worker")
        with start_upgrade(on_postgresql, folder) as process:
            wait_until(lambda: is_building(on_postgresql), "the build to begin")
            process.send_signal(signal.SIGKILL)
        assert not is_valid(on_postgresql, "ix_jobs_worker")
        assert on_postgresql.revision() != NEXT
        upgraded = pool.submit(on_postgresql.upgrade)
        writer.commit()
        upgraded.result()
    on_postgresql.check()
    assert is_valid(on_postgresql, "ix_jobs_worker")


def test_upgrade_waits_for_another_one_and_then_says_so(on_postgresql: Database) -> None:
    engine = postgresql.create_migration_engine(on_postgresql.url)
    with on_postgresql.migrate():
        refused = pytest.raises(errors.Unavailable, match="another process has been upgrading")
        with refused, postgresql.hold_migration_lock(engine, wait_seconds=0.1):
            pass
    with postgresql.hold_migration_lock(engine, wait_seconds=0.1):
        pass
    engine.dispose()
