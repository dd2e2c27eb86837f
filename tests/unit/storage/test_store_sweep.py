"""Sweep of the artifact store: what it removes, and what it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub.artifacts import checkpoints
from finch_hub.artifacts.store import ArtifactStore
from finch_hub.registry import tables
from finch_hub.registry.database import Database
from finch_hub.registry.types import later
from finch_hub.specs.jobs import Job
from finch_hub.storage import outputs, store_sweep
from finch_hub.storage.store_sweep import sweep_store


@pytest.fixture(params=["local", "memory"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    url = str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}"
    return ArtifactStore(url, cache=tmp_path / "cache")


def end(database: Database, job: Job, *, days: float) -> Job:
    registry.succeed(database, job, report={})
    with database.write() as session:
        changes = {"finished_at": later(-days * 86_400)}
        session.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job.id).values(**changes))
    return job


def test_sweep_removes_what_nobody_needs(artifacts: ArtifactStore, database: Database, tmp_path: Path) -> None:
    """Checkpoints of jobs that ended, outputs a week later, and both of jobs that were deleted."""
    made = tmp_path / "step-00000001"
    made.mkdir()
    (made / "file").write_bytes(b"state")
    claimed = {name: registry.claimed(database, job_id=registry.submit(database).id) for name in "abcd"}
    jobs = {
        "running": claimed["a"],
        "recent": end(database, claimed["b"], days=6.9),
        "old": end(database, claimed["c"], days=7.1),
        "unknown": claimed["d"].evolve(id="unknown"),
    }
    for job in jobs.values():
        checkpoints.put(artifacts, job.id, job.fence, made, archive=tmp_path / "archive")
        outputs.store_output(made, job, artifacts)
    artifacts.below(f"{outputs.FOLDER}/ünknown id-1").put(b"of somebody else")
    names = {name: f"{job.id}-{job.fence}" for name, job in jobs.items()}
    removed = sweep_store(artifacts, database)
    assert sorted(removed) == sorted(
        [
            *(f"{checkpoints.FOLDER}/{names[name]}" for name in ("recent", "old", "unknown")),
            *(f"{outputs.FOLDER}/{names[name]}" for name in ("old", "unknown")),
        ]
    )
    assert artifacts.list_named(checkpoints.FOLDER) == [names["running"]]
    kept = [names["running"], names["recent"], "ünknown id-1"]
    assert artifacts.list_named(outputs.FOLDER) == sorted(kept)
    assert sweep_store(artifacts, database) == []


def test_leftover_that_another_sweep_has_removed_has_no_size(artifacts: ArtifactStore) -> None:
    for is_folder in (False, True):
        assert store_sweep._measure(f"{checkpoints.FOLDER}/gone-1", artifacts, is_folder=is_folder) == 0
