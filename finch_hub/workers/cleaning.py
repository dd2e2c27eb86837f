"""Cleaning: removal of what ended jobs and killed processes left, now and then."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from finch_hub import errors
from finch_hub.registry import deployment
from finch_hub.storage.collection import collect
from finch_hub.storage.store_sweep import sweep_store
from finch_hub.storage.stores import Stores
from finch_hub.workers.supervision.work_folders import WorkFolders

log = logging.getLogger(__name__)

_TIDY_SECONDS = 600.0
_SWEEP_STORE_SECONDS = 3600.0
_LOOK_SECONDS = 300.0  # between two looks whether a collection is due; a worker that is idle ends after ten minutes
_DAY_SECONDS = 86_400.0


class Cleaning:
    """Cleaning of one worker until it stops.

    Each kind of it has a thread, which nobody waits for. So a store or a file system that hangs keeps nothing else from
    going on, such as heartbeats.
    """

    def __init__(self, stores: Stores, folders: WorkFolders, *, stopping: threading.Event) -> None:
        self._stores, self._folders, self._stopping = stores, folders, stopping

    def start(self) -> None:
        """Start the threads."""
        self._repeat("remove_folders", self._stores.settings.sweep_seconds, self.remove_finished_folders)
        self._repeat("tidy", _TIDY_SECONDS, self._stores.tidy)
        self._repeat("sweep_store", _SWEEP_STORE_SECONDS, self._sweep_store)
        self._repeat("collect", _LOOK_SECONDS, self.collect_daily, waits_first=True)

    def remove_finished_folders(self) -> None:
        """Remove the folders of jobs that another worker finished, or that were deleted."""
        self._folders.end_finished(self._stores.database)

    def collect_daily(self) -> None:
        """Remove what nobody refers to, if no worker of the deployment did so today."""
        with self._stores.database.write() as session:
            is_due = deployment.begin_collection(session, seconds=_DAY_SECONDS)
        if is_due:
            report = collect(self._stores)
            removed = sum(item.count for item in report.collected)
            log.info("collect", extra={"removed": removed, "bytes": report.bytes})

    def _sweep_store(self) -> None:
        if removed := sweep_store(self._stores.artifacts, self._stores.database):
            log.info("sweep_store", extra={"paths": ",".join(removed)})

    def _repeat(self, action: str, seconds: float, clean: Callable[[], None], *, waits_first: bool = False) -> None:
        def run() -> None:
            if waits_first:
                self._stopping.wait(seconds)
            while not self._stopping.is_set():
                try:
                    clean()
                except errors.FinchError as error:
                    log.warning("clean", extra={"what": action, "error": error})
                except Exception:
                    log.exception("clean", extra={"what": action})
                self._stopping.wait(seconds)

        threading.Thread(target=run, name=f"clean-{action}", daemon=True).start()
