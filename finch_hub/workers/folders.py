"""The folders that attempts work in."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

CHECKPOINTS = "checkpoints"
"""Folder in an attempt's folder whose files the next attempt inherits."""


_OUTCOME = "outcome.json"


class WorkFolders:
    """The folders that attempts work in: `work/JOB/FENCE` in the home.

    An attempt never writes where an earlier one may still be writing (its supervisor may be stopped, its child alive).
    It begins with hard links to what the latest one had, which is safe because checkpoints are never changed in place.
    """

    def __init__(self, home: Path) -> None:
        self._root = home / "work"

    def begin(self, job_id: str, fence: int) -> Path:
        """Return a new folder for this attempt, with the checkpoints that the one before it left on this machine."""
        job = self._root / job_id
        folder = job / str(fence)
        earlier = sorted((int(p.name) for p in job.iterdir() if p.name.isdigit()), reverse=True) if job.is_dir() else []
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        for latest in earlier:
            if latest < fence:
                _link_tree(job / str(latest) / CHECKPOINTS, folder / CHECKPOINTS)
                break
        return folder

    def keep_outcome(self, job_id: str, outcome: dict[str, Any]) -> None:
        """Remember what a child finished, so that a crash before it is recorded costs no second run."""
        target = self._root / job_id / _OUTCOME
        temporary = target.with_suffix(".part")
        temporary.write_text(json.dumps(outcome))
        temporary.replace(target)

    def outcome(self, job_id: str) -> dict[str, Any] | None:
        """Return what a child of an earlier attempt finished on this machine, if one did."""
        try:
            found: dict[str, Any] = json.loads((self._root / job_id / _OUTCOME).read_text())
        except (OSError, ValueError):
            return None
        return found

    def forget_outcome(self, job_id: str) -> None:
        """Forget it: it could not be used."""
        (self._root / job_id / _OUTCOME).unlink(missing_ok=True)

    def end(self, job_id: str) -> None:
        """Remove all that a finished job left."""
        shutil.rmtree(self._root / job_id, ignore_errors=True)

    def jobs(self) -> list[str]:
        """Return the ids of the jobs that left folders here."""
        return [path.name for path in self._root.iterdir()] if self._root.is_dir() else []


def _link_tree(source: Path, target: Path) -> None:
    for folder, _, names in os.walk(source):
        there = target / Path(folder).relative_to(source)
        there.mkdir(exist_ok=True)
        for name in names:
            with contextlib.suppress(FileNotFoundError, FileExistsError):  # the earlier attempt may be tidying up
                os.link(Path(folder) / name, there / name)
