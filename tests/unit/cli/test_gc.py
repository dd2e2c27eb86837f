"""`finch-hub gc`, and what commands say that remove something."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from finch_hub.registry.database import Database

from .conftest import Run
from .test_adapters import answer_at_terminal

DAYS = 86_400.0


def test_collection_is_shown_before_and_after(run: Run, home: Path, database: Database) -> None:
    folder = home / "bases" / "gguf-0123"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 2000)
    assert run("gc").out == "0 B freed\n"
    os.utime(folder, (time.time() - 8 * DAYS,) * 2)
    would = run("gc", "--dry-run")
    assert would.out == "Would remove 1 converted bases: 2.0 kB\n2.0 kB would be freed\n"
    assert folder.exists()
    assert run("gc", "--unused-days", "9", "--json").json["collected"] == []
    report = run("gc", "--json").json
    assert report["collected"] == [{"what": "converted bases", "count": 1, "bytes": 2000}]
    assert (report["bytes"], report["is_dry_run"], report["unused_days"]) == (2000, False, 7.0)
    assert not folder.exists()


def test_earlier_collection_than_that_of_the_workers_is_confirmed(
    run: Run, home: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home / "bases" / "gguf-0123"
    folder.mkdir(parents=True)
    os.utime(folder, (time.time() - 6 * DAYS,) * 2)
    refused = run("gc", "--unused-days", "5")
    assert (refused.status, "add --yes" in refused.err) == (2, True)
    assert folder.exists()
    assert run("gc", "--unused-days", "5", "--dry-run").status == 0
    answer_at_terminal(monkeypatch, "n\n")
    asked = run("gc", "--unused-days", "5")
    assert "Remove 1 converted bases (0 B), also what was used in the last 7 days?" in asked.err
    assert folder.exists()
    assert run("gc", "--unused-days", "5", "--yes").status == 0
    assert not folder.exists()


def test_collection_of_nothing_asks_nothing(run: Run, database: Database) -> None:
    ran = run("gc", "--unused-days", "0", "--json")
    assert (ran.status, ran.json) == (0, {"bytes": 0, "collected": [], "is_dry_run": False, "unused_days": 0.0})


@pytest.mark.parametrize("days", ["-1", "nan", "inf", "x", "1e9"])
def test_age_that_is_no_number_of_days_is_refused(run: Run, database: Database, days: str) -> None:
    assert run("gc", "--unused-days", days).status == 2


def test_purge_says_what_went_and_what_stays(run: Run, data: Path, database: Database) -> None:
    run("datasets", "add", data, "--name", "birds")
    run("datasets", "add", "birds", "--name", "sung", "--system", "Sing to me.")
    purged = run("datasets", "purge", "birds", "--yes", "--json")
    assert purged.json["also_in"] == [{"dataset": "sung", "rows": 10}]
    assert purged.json["is_erased"] is True
    again = run("datasets", "purge", "sung", "--yes")
    assert again.out == "Deleted the text of data set sung. Its hash and figures remain.\n"
    assert again.err == "Backups and exports that were made before are not changed.\n"


def test_purge_of_a_copy_names_the_other(run: Run, data: Path, database: Database) -> None:
    run("datasets", "add", data, "--name", "birds")
    run("datasets", "add", "birds", "--name", "sung", "--system", "Sing to me.")
    said = run("datasets", "purge", "sung", "--yes").err
    assert "Data set birds stays and has 10 rows of it. To purge it too: finch-hub datasets purge birds\n" in said


def test_removed_base_says_where_its_files_are(run: Run, tiny_folder: Path, database: Database) -> None:
    run("bases", "add", tiny_folder, "--name", "tiny")
    removed = run("bases", "remove", "tiny", "--yes")
    assert (removed.status, removed.out) == (0, "Removed base tiny\n")
    assert removed.err == f"Its files stay in {tiny_folder}.\n"
    assert run("bases", "remove", "tiny", "--yes").status == 3
