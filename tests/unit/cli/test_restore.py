from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub.registry import tables
from finch_hub.registry.database import Database

from .conftest import Run


@pytest.fixture
def backup(run: Run, database: Database, data: Path, tmp_path: Path) -> Path:
    """A backup of a home with a data set, a base of another machine and a queued job."""
    assert run("datasets", "add", data, "--name", "facts").status == 0
    base = registry.add_base(database)
    with database.write() as session:
        session.execute(sa.update(tables.Base).where(tables.Base.id == base.id).values(path="/elsewhere"))
    registry.submit(database)
    registry.claimed(database)
    # The data of this job was never stored.
    assert run("backup", tmp_path / "nightly").status == 10
    return tmp_path / "nightly"


def test_backup_is_restored_into_a_new_home_only(
    run: Run, backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = run("restore", backup)
    assert refused.status == 4
    assert "there are rows in" in refused.err
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "new"))
    done = run("restore", backup)
    assert done.status == 0, done.err
    assert "1 job is queued. It ran when the backup was taken" in done.out
    assert "the files of base tiny are not on this machine: /elsewhere (add the base again)" in done.err
    assert "the backup was finished without data set 747261696e00, artifact 747261696e00 (make it again)" in done.err
    assert "finch-hub worker start" in done.err
    assert [row["name"] for row in run("datasets", "list", "--json").json] == ["facts"]
    assert run("restore", backup).status == 4


def test_report_is_printed_as_json(run: Run, backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "new"))
    done = run("restore", backup, "--json", "--quiet")
    assert done.json["absent_bases"] == {"tiny": "/elsewhere"}
    assert len(done.json["requeued"]) == 1


def test_folder_that_is_no_backup_makes_no_home(run: Run, tmp_path: Path, home: Path) -> None:
    (tmp_path / "thesis").mkdir()
    done = run("restore", tmp_path / "thesis")
    assert done.status == 2
    assert "finch.json: is missing, so the folder is not a backup" in done.err
    assert run("restore", tmp_path / "none").status == 3
    assert not home.exists()
