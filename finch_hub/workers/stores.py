"""What a worker works with: the registry, the artefacts, the plugins and the folders of its home."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from finch_hub.artifacts.store import ArtifactStore
from finch_hub.plugins.catalogue import Catalogue, load_catalogue
from finch_hub.registry.database import Database
from finch_hub.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Stores:
    """Everything that outlives a job."""

    settings: Settings
    database: Database
    artifacts: ArtifactStore
    catalogue: Catalogue

    @property
    def bases(self) -> Path:
        """Folder of converted and fetched base models."""
        return self.settings.home / "bases"


def open_stores(settings: Settings) -> Stores:
    """Open everything that the settings name; the home becomes its owner's only.

    Raises:
        SchemaMismatch: the database needs an upgrade, or this code does.
        Unavailable: it does not answer.

    """
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):  # a home mounted into a container belongs to somebody else
        settings.home.chmod(0o700)
    database = Database(settings.database, allow_insecure=settings.allow_insecure)
    if settings.database_url is None:
        database.upgrade()
    else:
        database.check()
    return Stores(
        settings=settings,
        database=database,
        artifacts=ArtifactStore(settings.artifacts, cache=settings.cache / "artifacts"),
        catalogue=load_catalogue(),
    )


CHECKPOINTS = "checkpoints"
"""Folder in an attempt's folder whose files the next attempt inherits."""


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
