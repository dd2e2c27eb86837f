"""Copy of an attempt's newest checkpoint in the artifact store, from which another machine goes on."""

from __future__ import annotations

import concurrent.futures
from concurrent.futures import Future
from pathlib import Path

from finch_hub.artifacts import checkpoints
from finch_hub.specs.jobs import FINAL, Job
from finch_hub.workers.runs.channel import CHECKPOINTS
from finch_hub.workers.supervision import clock
from finch_hub.workers.supervision.attempt_context import AttemptContext
from finch_hub.workers.supervision.attempt_record import AttemptRecord


class SharedCheckpoint:
    """Copy of one attempt's newest checkpoint.

    It is made in a thread beside the job. Without it the next attempt repeats more work, so no trouble of the store
    ends an attempt. A hub of one machine has no copies, since its database would be lost with the machine.
    """

    def __init__(self, context: AttemptContext, job: Job, record: AttemptRecord) -> None:
        self._context, self._job, self._record = context, job, record
        self._store, settings = context.stores.artifacts, context.stores.settings
        self._is_enabled, self._interval = settings.spans_machines, settings.checkpoint_seconds
        self._workdir = context.folders.folder_of(job.id, job.fence)
        self._due_at = clock.elapsed() + self._interval
        self._copying: Future[None] | None = None
        self._files: list[Path] = []  # of the last copy
        self._has_copied = self._is_in_trouble = False

    @property
    def is_expected(self) -> bool:
        """Whether an earlier attempt may have made a copy."""
        return self._is_enabled and self._job.fence > 1

    def fetch(self) -> None:
        """Add the newest copy to the checkpoints of this attempt, unless this machine has checkpoints of its author.

        Raises:
            RefusedArtifact: no copy is whole.
            StoreUnavailable: the store does not answer.
            OSError: the folder cannot be written.
        """
        job = self._job
        after = self._context.folders.find_checkpoints(job.id, before=job.fence)
        checkpoints.fetch(self._store, job.id, self._workdir / CHECKPOINTS, after=after, before=job.fence)

    def copy_if_due(self) -> None:
        """Begin to copy the newest checkpoint if the last copy is old. This waits for nothing."""
        if self._is_enabled and clock.elapsed() >= self._due_at and self._has_settled():
            self._begin()

    def finish(self, seconds: float) -> None:
        """Copy the last checkpoint before the job is handed back, for at most so many seconds."""
        until = clock.elapsed() + seconds
        if self._is_enabled and seconds > 0 and self._wait(until):
            self._begin()
            self._wait(until)

    def end(self, job: Job) -> None:
        """Remove the copies of a job that has ended, in another thread. If it fails, the sweep of the store does so."""
        copying = [] if self._copying is None else [self._copying]
        if job.state not in FINAL or not (copying or self._has_copied or self.is_expected):
            return

        def remove() -> None:
            concurrent.futures.wait(copying)
            if self._has_copied or self.is_expected:
                checkpoints.remove(self._store, job.id)

        self._context.blocking_calls.start(remove)

    def _begin(self) -> None:
        self._due_at = clock.elapsed() + self._interval
        self._copying = self._context.blocking_calls.start(self._copy)

    def _copy(self) -> None:
        """Copy the newest checkpoint, unless that is done. Even its folder may be on a disk that hangs or fails."""
        folder = self._workdir / CHECKPOINTS
        found = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
        newest = max(found, default=None)
        if newest is None or (files := sorted(newest.glob("[!.]*"))) == self._files:
            return
        self._has_copied = True  # perhaps
        archive = self._workdir / f"{CHECKPOINTS}.tar"
        checkpoints.put(self._store, self._job.id, self._job.fence, newest, archive=archive)
        self._files = files

    def _wait(self, until: float) -> bool:
        if self._copying is not None:
            concurrent.futures.wait([self._copying], max(0.0, until - clock.elapsed()))
        return self._has_settled()

    def _has_settled(self) -> bool:
        """Return whether no copy is being made. Say once why the last ones failed."""
        if self._copying is None:
            return True
        if not self._copying.done():
            return False
        error, self._copying = self._copying.exception(), None
        if error is None:
            self._is_in_trouble = False
        elif isinstance(error, FileNotFoundError):  # the job has a newer checkpoint by now
            self._due_at = clock.elapsed()
        elif not self._is_in_trouble:
            self._is_in_trouble = True
            text = "could not copy the checkpoint to the artifact store, so another machine would repeat more work"
            self._record.add_message(f"{text}: {error}", level="warn")
        return True
