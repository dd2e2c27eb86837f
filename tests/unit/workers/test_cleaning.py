from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import registry
from support.fleet import wait_until
from support.logs import list_said

from finch_hub import errors, settings
from finch_hub.formats.atomic_writes import scratch_folder, temporary_place
from finch_hub.storage.stores import Stores, open_stores
from finch_hub.workers import cleaning as module
from finch_hub.workers.cleaning import Cleaning
from finch_hub.workers.supervision.work_folders import WorkFolders


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    made = open_stores(settings.load(home=tmp_path / "home", sweep_seconds=0.1))
    yield made
    made.database.close()


@pytest.fixture
def stopping() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()
    wait_until(lambda: not _find_threads(), "the threads to end")


def _find_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("clean-")]


def test_a_store_and_a_disk_that_hang_keep_no_other_cleaning_from_going_on(
    stores: Stores, stopping: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs: list[str] = []

    def hang(*_: Any) -> None:
        hangs.append(threading.current_thread().name)
        stopping.wait()

    monkeypatch.setattr(Stores, "tidy", hang)
    monkeypatch.setattr(module, "sweep_store", hang)
    folders = WorkFolders(stores.settings.work)
    Cleaning(stores, folders, stopping=stopping).start()
    wait_until(lambda: sorted(hangs) == ["clean-sweep_store", "clean-tidy"], "both to hang")
    for job_id in ("one", "two"):
        (stores.settings.work / job_id / "1").mkdir(parents=True)
        wait_until(lambda: folders.jobs() == [], "the folder of an unknown job to be removed")


def test_cleaning_that_fails_says_so_and_is_tried_again(
    stores: Stores, stopping: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[Exception] = [ValueError("a defect"), errors.StoreUnavailable("away")]
    calls: list[int] = []

    def fail(self: Stores) -> None:
        calls.append(len(failures))
        if failures:
            raise failures.pop()

    monkeypatch.setattr(module, "_TIDY_SECONDS", 0.1)
    monkeypatch.setattr(Stores, "tidy", fail)
    with caplog.at_level(logging.WARNING):
        Cleaning(stores, WorkFolders(stores.settings.work), stopping=stopping).start()
        wait_until(lambda: len(calls) >= 3, "a third try")
    assert calls[:3] == [2, 1, 0]
    said = [(fields["action"], fields["what"], fields.get("error")) for fields in list_said(caplog)]
    assert said == [("clean", "tidy", "away"), ("clean", "tidy", None)]


def test_folders_of_unfinished_jobs_and_of_another_database_are_kept(stores: Stores, tmp_path: Path) -> None:
    job = registry.submit(stores.database)
    other = settings.load(home=stores.settings.home, database_url="postgresql://finch:bird@box/finch").work
    kept = [stores.settings.work / job.id / "1", other / "unknown" / "1"]
    for folder in (*kept, stores.settings.work / "unknown" / "1"):
        folder.mkdir(parents=True)
    Cleaning(stores, WorkFolders(stores.settings.work), stopping=threading.Event()).remove_finished_folders()
    assert [folder for folder in kept if folder.exists()] == kept
    assert not (stores.settings.work / "unknown").exists()


def test_what_killed_processes_left_is_removed(
    stores: Stores, stopping: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = stores.settings.home
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    place = temporary_place()
    of_others = place.parent / ".download.1234.part"
    places = [home / "import", home / "publish", stores.settings.cache / "artifacts" / "0f", place]
    abandoned = [each.with_name(f".{each.name}.0a1b2c3d.part") for each in places]
    for folder in (*abandoned, of_others):
        folder.mkdir(parents=True)
    Cleaning(stores, WorkFolders(stores.settings.work), stopping=stopping).start()
    wait_until(lambda: not any(folder.exists() for folder in abandoned), "the folders to be removed")
    assert of_others.exists()


def test_conversion_of_a_dead_process_is_removed(stores: Stores) -> None:
    folder = stores.bases / "gguf-0123"
    (folder.with_name(".gguf-0123.01234567.part") / "gguf-0123").mkdir(parents=True)
    folder.mkdir()
    with scratch_folder(folder.with_name("gguf-4567")) as living:
        stores.tidy()
        assert sorted(stores.bases.iterdir()) == sorted([living, folder])
