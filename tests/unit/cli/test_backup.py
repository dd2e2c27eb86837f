from __future__ import annotations

from pathlib import Path

import pytest

from finch_hub import progress
from finch_hub.artifacts.store import blob_path

from .conftest import Run


def test_backup_is_taken_and_the_next_command_is_told(run: Run, data: Path, tmp_path: Path) -> None:
    assert run("datasets", "add", data, "--name", "facts").status == 0
    done = run("backup", tmp_path / "nightly")
    assert done.status == 0, done.err
    assert done.out.startswith("Backed up 3 rows and 1 artifact file, ")
    assert f"finch-hub restore {tmp_path / 'nightly'}" in done.err
    refused = run("backup", tmp_path / "nightly")
    assert refused.status == 4
    assert "--replace" in refused.err
    replaced = run("backup", tmp_path / "nightly", "--replace", "--quiet", "--json")
    assert replaced.json["backup"]["rows"]["datasets"] == 1
    assert replaced.err == ""


def test_progress_is_shown_unless_it_is_quiet(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LEAST_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_SHARE", 0.0)
    assert run("datasets", "add", data).status == 0
    shown = run("backup", tmp_path / "nightly")
    assert "copying artifacts 1/1" in shown.err
    assert "copying rows 1" in shown.err
    assert "copying" not in run("backup", tmp_path / "weekly", "--quiet").err
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "new"))
    shown = run("restore", tmp_path / "nightly")
    for work in ("checking rows", "checking artifacts 1/1", "storing artifacts 1/1", "storing rows"):
        assert work in shown.err


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_incomplete_backup_is_kept_and_has_an_exit_code(
    run: Run, home: Path, data: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    digest = run("datasets", "add", data, "--name", "facts", "--json").json["digest"]
    (home / "artifacts" / blob_path(digest)).unlink()
    done = run("backup", tmp_path / "nightly", *options)
    assert done.status == 10
    assert "is incomplete (restore these from an earlier backup, or make them again" in done.err
    assert "back up again):\n  data set facts: there is no artifact" in done.err
    assert "Restore it into a new hub" not in done.err
    assert (tmp_path / "nightly").is_dir()
    if options:
        assert done.json["backup"]["missing"] == [digest]


def test_folder_that_cannot_be_written_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("backup", tmp_path / "file" / "nightly")
    assert done.status == 2
    assert "file is not a folder" in done.err
