"""Folders that attempts work in."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

from finch_hub import errors
from finch_hub.registry import jobs
from finch_hub.registry.database import Database
from finch_hub.specs.value import JsonObject
from finch_hub.workers.runs.channel import CHECKPOINTS
from finch_hub.workers.runs.job_kind import OutcomeT


class WorkFolders:
    """Folders `JOB/FENCE` of attempts, and files `JOB.json` with results that are not committed yet.

    Every attempt has a folder of its own, since the child of an earlier one may still write. A new folder starts with
    hard links to the checkpoints of the latest attempt. That is safe because checkpoints are never changed in place.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder_of(self, job_id: str, fence: int) -> Path:
        """Return the folder of an attempt, which may not exist."""
        return self._root / job_id / str(fence)

    def begin(self, job_id: str, fence: int) -> Path:
        """Return the folder of an attempt, with the checkpoints of the attempt before it on this machine.

        Without checkpoints the folder is not made: many jobs write nothing, and making a folder takes time.
        """
        self._root.mkdir(parents=True, mode=0o700, exist_ok=True)  # keeps other users out of all folders in it
        folder = self.folder_of(job_id, fence)
        if earlier := self.find_checkpoints(job_id, before=fence):
            _link_tree(self.folder_of(job_id, earlier) / CHECKPOINTS, folder / CHECKPOINTS)
        return folder

    def find_checkpoints(self, job_id: str, *, before: int) -> int:
        """Return the fence of the latest earlier attempt on this machine that has checkpoints, 0 if none has."""
        job = self._root / job_id
        names = [path.name for path in job.iterdir()] if before > 1 and job.is_dir() else []
        fences = [int(name) for name in names if name.isdigit() and any((job / name / CHECKPOINTS).glob("[!.]*"))]
        return max((fence for fence in fences if fence < before), default=0)

    def keep_outcome(self, job_id: str, outcome: JsonObject) -> None:
        """Keep the outcome of a child, so that a crash before its commit costs no second run."""
        self._outcome_file(job_id).write_bytes(json.dumps(outcome).encode())  # a truncated file is ignored

    def read_outcome(self, job_id: str, outcome: type[OutcomeT]) -> OutcomeT | None:
        """Return the outcome that an earlier attempt kept on this machine, unless another version wrote it."""
        try:
            return outcome.of(self._outcome_file(job_id).read_bytes())
        except (OSError, errors.InvalidSpec):
            return None

    def forget_outcome(self, job_id: str) -> None:
        """Remove the outcome of a job."""
        self._outcome_file(job_id).unlink(missing_ok=True)

    def end(self, job_id: str) -> None:
        """Remove all files of a finished job."""
        with contextlib.suppress(OSError):  # the next sweep tries again
            self.forget_outcome(job_id)
        shutil.rmtree(self._root / job_id, ignore_errors=True)

    def end_finished(self, database: Database) -> None:
        """Remove the folders of jobs that another worker finished, or that were deleted.

        Raises:
            Unavailable: the database does not answer.
        """
        if job_ids := self.jobs():
            with database.read() as session:
                unfinished = jobs.select_unfinished(session, job_ids)
            for job_id in set(job_ids) - unfinished:
                self.end(job_id)

    def jobs(self) -> list[str]:
        """Return the ids of the jobs that have files here."""
        return list({path.stem for path in self._root.iterdir()}) if self._root.is_dir() else []

    def _outcome_file(self, job_id: str) -> Path:
        return self._root / f"{job_id}.json"


def _link_tree(source: Path, target: Path) -> None:
    for folder, _, names in os.walk(source):
        copy = target / Path(folder).relative_to(source)
        copy.mkdir(parents=True, exist_ok=True)
        for name in names:
            with contextlib.suppress(FileNotFoundError, FileExistsError):  # the earlier attempt may be deleting files
                os.link(Path(folder) / name, copy / name)
