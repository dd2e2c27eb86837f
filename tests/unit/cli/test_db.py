"""`finch-hub db`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub.registry import schema_revisions, workers
from finch_hub.registry.database import Database

from .conftest import Run, enter_worker


def test_database_is_upgraded_and_checked(run: Run) -> None:
    assert run("db", "check").status == 7
    assert "from empty to schema" in run("db", "upgrade").out
    assert "is already at schema" in run("db", "upgrade").out
    assert run("db", "check", "--json").json["revision"]


def test_search_index_that_is_out_of_date_is_found_by_fsck_and_made_anew(run: Run, database: Database) -> None:
    registry.add_version(database, card="whales")
    with database.write() as session:
        session.execute(sa.text("DELETE FROM searched_versions"))
    assert "medical/1" not in run("adapters", "find", "base:tiny").out
    found = " ".join(run("fsck").err.split())
    assert "search index: is out of date for medical/1" in found
    assert "finch-hub db reindex" in found
    assert "Made the search index of" in run("db", "reindex").out
    assert "medical/1" in run("adapters", "find", "base:tiny").out
    assert "search index" not in run("fsck").err


def make_older(database: Database) -> None:
    engine = sa.create_engine(database.url)
    registry.migrate(engine, "0001")
    engine.dispose()


def test_upgrade_while_workers_run_is_refused_unless_told_otherwise(run: Run, database: Database) -> None:
    enter_worker(database)
    make_older(database)
    refused = run("db", "upgrade")
    assert refused.status == 4
    text = " ".join(refused.err.split())
    assert "workers are running: gpu-1; they cannot outlive migration 0002, 0003" in text
    assert "(stop them and try again, or add --ignore-workers)" in text
    assert database.revision() == "0001"
    assert "from schema 0001 to schema" in run("db", "upgrade", "--ignore-workers").out
    database.check()


def test_additive_upgrade_lets_workers_run_on(
    run: Run, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter_worker(database)
    folder, head = tmp_path / "migrations", schema_revisions.HEAD
    shutil.copytree(schema_revisions.scripts(), folder)
    for number, before, is_additive in (("9000", head, True), ("9001", "9000", False)):
        lines = (
            f'revision, down_revision, branch_labels, depends_on = "{number}", "{before}", None, None',
            f"is_additive = {is_additive}",
            "def upgrade(): pass",
        )
        (folder / "versions" / f"{number}_next.py").write_text("\n".join(lines))
    monkeypatch.setattr(schema_revisions, "scripts", lambda: folder)
    monkeypatch.setattr(schema_revisions, "HEAD", "9001")
    refused = run("db", "upgrade")
    assert (refused.status, database.revision()) == (4, head)
    assert "they cannot outlive migration 9001 (stop them" in " ".join(refused.err.split())
    monkeypatch.setattr(schema_revisions, "HEAD", "9000")
    assert f"from schema {head} to schema 9000" in run("db", "upgrade").out


def test_upgrade_does_not_mind_stopped_workers_or_a_current_schema(run: Run, database: Database) -> None:
    enter_worker(database)
    assert "is already at schema" in run("db", "upgrade").out
    with database.write() as session:
        (worker,) = workers.find(session)
        workers.mark_stopped(session, worker.id, worker.instance)
    make_older(database)
    assert "from schema 0001 to schema" in run("db", "upgrade").out


@pytest.mark.parametrize("rows", ["(NULL)", "('0003'), ('0004')", ""])
def test_damaged_revision_is_refused_by_every_command(run: Run, database: Database, rows: str) -> None:
    with database.write() as session:
        session.execute(sa.text("DROP TABLE alembic_version"))
        session.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        if rows:
            session.execute(sa.text(f"INSERT INTO alembic_version VALUES {rows}"))
    for command in (["db", "check"], ["db", "upgrade"], ["jobs", "list"], ["gc", "--dry-run"], ["adapters", "list"]):
        refused = run(*command)
        text = " ".join(refused.err.split())
        assert refused.status == 7, command
        assert "it must have one revision (restore the database from a backup)" in text, command
    report = run("doctor")
    assert report.status
    assert "it must have one revision" in " ".join((report.out + report.err).split())
