"""A job with anything in any of its columns, as SQLite takes it, stops nothing of the others."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from support import registry
from support.services import Databases

from finch_hub.registry import jobs, outbox, tables
from finch_hub.registry.database import Database

DEEP = '{"a":' * 400 + "1" + "}" * 400
DAMAGE = ("x", "", 1.5, -1, 2**63 - 1, b"\0\xff", b"{}", b'["x"]', "[1]", "{}", "[" * 600 + "]" * 600, DEEP)
FEW = ("x", 1.5, b"\0\xff", DEEP)  # for jobs that no worker can claim
COLUMNS = [column.name for column in tables.jobs.c]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A file with jobs, and the ids of those that are damaged, by their states."""
    made = Databases(tmp_path_factory.mktemp("damaged"), None)
    database = Database(made.new(), allow_insecure=True)
    first, queued = (registry.submit(database).id for _ in range(2))
    waiting = registry.submit(database, depends_on=[first]).id
    running = registry.claimed(database, job_id=registry.submit(database).id, worker="other", lease=3600).id
    database.close()
    return Path(str(database.url.database)), {"queued": queued, "waiting": waiting, "running": running}


@pytest.mark.parametrize("state", ["queued", "waiting", "running"])
@pytest.mark.parametrize("column", COLUMNS)
def test_damaged_job_stops_no_other(hub: tuple[Path, dict[str, str]], column: str, state: str, tmp_path: Path) -> None:
    file, ids = hub
    for number, damage in enumerate(DAMAGE if state == "queued" else FEW):
        copy = shutil.copy(file, tmp_path / f"{number}.db")
        with sqlite3.connect(copy) as connection:
            try:
                connection.execute(f"UPDATE jobs SET {column} = ? WHERE id = ?", (damage, ids[state]))
            except sqlite3.IntegrityError:
                continue  # the schema refuses it
        connection.close()
        database = Database(f"sqlite:///{copy}", allow_insecure=True)
        try:
            new = {registry.submit(database).id}
            claimed = set()
            while (job := registry.claim(database, worker="own")) is not None:
                claimed.add(job.id)
            assert new <= claimed, damage
            registry.expire(database)
            with database.write() as session:
                outbox.take_due(session)
            with database.read() as session:
                found = jobs.find(session)
            assert new <= {job.id for job in found}
            assert all(job.model_dump_json() for job in found)
        finally:
            database.close()
