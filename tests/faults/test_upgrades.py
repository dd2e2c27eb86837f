"""Workers of this version and the next one on one database, while it is upgraded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import fleet
from support.fleet import Fleet, wait_until

from finch_hub import errors
from finch_hub.registry import schema_revisions
from finch_hub.registry import workers as registry_workers
from finch_hub.specs.jobs import JobState

NEXT = "9000"
MIGRATION = f'''"""A migration of the next version."""
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "{NEXT}", "{schema_revisions.HEAD}", None, None
is_additive = True
def upgrade():
    op.add_column("jobs", sa.Column("color", sa.String(8)))
    op.add_column("events", sa.Column("color", sa.String(8), nullable=False, server_default="red"))
    op.create_table("colors", sa.Column("name", sa.String(8), primary_key=True))
'''
COMMAND = """
import sys
from finch_hub.cli.main import main
sys.exit(main(["worker", "start", "--name", sys.argv[1], "--slots", sys.argv[2]]))
"""
OF_NEXT_VERSION = f"""
from finch_hub.registry import schema_revisions
schema_revisions.HEAD = "{NEXT}"
"""


def upgrade(workers: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upgrade the database as the next version would."""
    folder = workers.folder / "migrations"
    shutil.copytree(schema_revisions.scripts(), folder)
    (folder / "versions" / "9000_next.py").write_text(MIGRATION)
    with monkeypatch.context() as next_version:
        next_version.setattr(schema_revisions, "scripts", lambda: folder)
        next_version.setattr(schema_revisions, "HEAD", NEXT)
        assert schema_revisions.list_breaking(str(workers.database.revision())) == []
        workers.database.upgrade()


def remark_of(workers: Fleet, name: str) -> str:
    with workers.database.read() as session:
        return registry_workers.get(session, name).remark or ""


@pytest.mark.slow
def test_older_worker_finishes_its_jobs_and_leaves_the_others_to_the_next_version(
    workers: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "_START", COMMAND)
    old = workers.start("old", slots=2)
    held = workers.probe("wait", once=True)
    workers.wait_begun(held)
    upgrade(workers, monkeypatch)
    wait_until(lambda: f"has the newer schema {NEXT}" in remark_of(workers, "old"), "the worker to notice")
    assert "action=drain " in old.text
    left = workers.probes(2)
    with pytest.raises(errors.SchemaMismatch, match=f"has the newer schema {NEXT}: this code needs .*update finch-hub"):
        workers.database.check()
    monkeypatch.setattr(fleet, "_START", OF_NEXT_VERSION + COMMAND)
    workers.start("new")
    for job in left:
        assert workers.wait(job).worker == "new"
    assert workers.job(held).state is JobState.RUNNING
    assert old.poll() is None, "it has a job"
    Path(workers.job(held).spec["parameters"]["once"]).unlink()
    ended = workers.wait(held)
    assert (ended.state, ended.worker, ended.attempts) == (JobState.SUCCEEDED, "old", 1)
    assert old.wait() == 7, "so that a service manager starts the new code"
    assert f"has the newer schema {NEXT}" in old.text
    workers.check(held, *left)


def test_idle_worker_of_the_older_version_stops(workers: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "_START", COMMAND)
    old = workers.start("old")
    upgrade(workers, monkeypatch)
    assert old.wait() == 7
    again = workers.start("old", ready=False)
    assert again.wait() == 7, "the old code does not start"
    assert "update finch-hub on this machine" in again.text
