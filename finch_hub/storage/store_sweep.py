"""Sweep of the artifact store, which removes what jobs left there and nobody needs any more."""

from __future__ import annotations

import re
from typing import NamedTuple

from finch_hub.artifacts import checkpoints
from finch_hub.artifacts.inventory import KINDS, list_artifacts
from finch_hub.artifacts.store import ArtifactStore
from finch_hub.registry import jobs
from finch_hub.registry.database import Database
from finch_hub.storage import outputs

_NAME = re.compile(r"(?P<job_id>[0-9A-Za-z-]+)-(?P<fence>[0-9]+)")
OUTPUT_SECONDS = 7 * 86_400.0  # for which an output waits after the end of its job


class Leftover(NamedTuple):
    """A checkpoint of a job that has ended, or an output that nobody fetched.

    Attributes:
        size: bytes.
    """

    path: str
    is_folder: bool
    size: int

    def remove(self, artifacts: ArtifactStore) -> None:
        """Remove it from its store.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        (artifacts.remove_folder if self.is_folder else artifacts.remove_named)(self.path)


def sweep_store(artifacts: ArtifactStore, database: Database) -> list[str]:
    """Remove checkpoints of jobs that have ended, and outputs that nobody fetched in the week after.

    Return the paths of what was removed.

    Raises:
        Unavailable: the store or the database does not answer.
    """
    leftovers = list_leftovers(artifacts, database, measures=False)
    for leftover in leftovers:
        leftover.remove(artifacts)
    return [leftover.path for leftover in leftovers]


def list_leftovers(artifacts: ArtifactStore, database: Database, *, measures: bool = True) -> list[Leftover]:
    """Return what a sweep removes.

    Args:
        measures: whether to find the sizes, otherwise they are 0.

    Raises:
        Unavailable: the store or the database does not answer.
    """
    found: list[Leftover] = []
    # The jobs that run remove their checkpoints themselves, unless their worker is killed in that moment.
    for folder, seconds, is_folder in ((checkpoints.FOLDER, 0.0, False), (outputs.FOLDER, OUTPUT_SECONDS, True)):
        job_of = {name: match["job_id"] for name in artifacts.list_named(folder) if (match := _NAME.fullmatch(name))}
        if not job_of:
            continue
        with database.read() as session:
            needed = jobs.select_unfinished(session, set(job_of.values()), ended_within=seconds)
        for path in (f"{folder}/{name}" for name, job_id in job_of.items() if job_id not in needed):
            size = _measure(path, artifacts, is_folder=is_folder) if measures else 0
            found.append(Leftover(path, is_folder, size))
    return found


def _measure(path: str, artifacts: ArtifactStore, *, is_folder: bool) -> int:
    if is_folder:
        store = artifacts.below(path)
        return sum(found.size for kind in KINDS for folder in list_artifacts(store, kind) for found in folder)
    with artifacts.access() as files:
        file = files.find(path)
    return file.size if file is not None else 0
