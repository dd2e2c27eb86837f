"""The folders that attempts work in."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from finch_hub.workers.runs.channel import CHECKPOINTS


class WorkFolders:
    """The folders that attempts work in: `JOB/FENCE` in one for all, and beside them what is kept of a finished job.

    An attempt never writes where an earlier one may still be writing (its supervisor may be stopped, its child alive).
    It begins with hard links to what the latest one had, which is safe because checkpoints are never changed in place.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def begin(self, job_id: str, fence: int) -> Path:
        """Return this attempt's folder, with the checkpoints that the one before it left on this machine.

        Without any it is left to who needs it to make it: many jobs write nothing there, and a folder is not cheap.
        """
        self._root.mkdir(parents=True, mode=0o700, exist_ok=True)  # so what is in it is for its owner only
        job = self._root / job_id
        folder = job / str(fence)
        if fence > 1 and job.is_dir():
            earlier = [number for path in job.iterdir() if path.name.isdigit() and (number := int(path.name)) < fence]
            if earlier:
                _link_tree(job / str(max(earlier)) / CHECKPOINTS, folder / CHECKPOINTS)
        return folder

    def keep_outcome(self, job_id: str, outcome: dict[str, Any]) -> None:
        """Remember what a child finished, so that a crash before it is recorded costs no second run."""
        with self._outcome(job_id).open("wb", buffering=0) as file:
            file.write(json.dumps(outcome).encode())  # half of an object is none, and will be taken for none

    def outcome(self, job_id: str) -> dict[str, Any] | None:
        """Return what a child of an earlier attempt finished on this machine, if one did."""
        try:
            found: dict[str, Any] = json.loads(self._outcome(job_id).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found

    def forget_outcome(self, job_id: str) -> None:
        """Forget it: it could not be used."""
        self._outcome(job_id).unlink(missing_ok=True)

    def end(self, job_id: str) -> None:
        """Remove all that a finished job left."""
        with contextlib.suppress(OSError):  # what cannot be removed now is tried again with a sweep
            self.forget_outcome(job_id)
        shutil.rmtree(self._root / job_id, ignore_errors=True)

    def jobs(self) -> list[str]:
        """Return the ids of the jobs that left something here."""
        return list({path.stem for path in self._root.iterdir()}) if self._root.is_dir() else []

    def _outcome(self, job_id: str) -> Path:
        return self._root / f"{job_id}.json"


def _link_tree(source: Path, target: Path) -> None:
    for folder, _, names in os.walk(source):
        there = target / Path(folder).relative_to(source)
        there.mkdir(parents=True, exist_ok=True)
        for name in names:
            with contextlib.suppress(FileNotFoundError, FileExistsError):  # the earlier attempt may be tidying up
                os.link(Path(folder) / name, there / name)
