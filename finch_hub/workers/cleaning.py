"""Cleaning: removal of what ended jobs and killed processes left, now and then."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from finch_hub import errors
from finch_hub.registry import jobs
from finch_hub.storage import outputs
from finch_hub.storage.stores import Stores
from finch_hub.workers.supervision import shared_checkpoint
from finch_hub.workers.supervision.work_folders import WorkFolders

log = logging.getLogger(__name__)

_TIDY_SECONDS = 600.0
_SWEEP_STORE_SECONDS = 3600.0  # workers remove what their jobs leave, unless they are killed in that moment


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
        self._repeat("remove_outputs", _SWEEP_STORE_SECONDS, self._remove_old_outputs)
        if self._stores.settings.spans_machines:
            self._repeat("sweep_checkpoints", _SWEEP_STORE_SECONDS, lambda: shared_checkpoint.sweep(self._stores))

    def remove_finished_folders(self) -> None:
        """Remove the folders of jobs that another worker finished, or that were deleted."""
        if job_ids := self._folders.jobs():
            with self._stores.database.read() as session:
                unfinished = jobs.select_unfinished(session, job_ids)
            for job_id in set(job_ids) - unfinished:
                self._folders.end(job_id)

    def _remove_old_outputs(self) -> None:
        if names := outputs.remove_old(self._stores.artifacts, self._stores.database):
            log.info("remove_outputs", extra={"outputs": ",".join(names)})

    def _repeat(self, action: str, seconds: float, clean: Callable[[], None]) -> None:
        def run() -> None:
            while not self._stopping.is_set():
                try:
                    clean()
                except errors.FinchError as error:
                    log.warning("clean", extra={"what": action, "error": error})
                except Exception:
                    log.exception("clean", extra={"what": action})
                self._stopping.wait(seconds)

        threading.Thread(target=run, name=f"clean-{action}", daemon=True).start()
