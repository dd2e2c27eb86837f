"""Sweep of the artifact store, which removes what jobs left there and nobody needs any more."""

from __future__ import annotations

import re

from finch_hub.artifacts import checkpoints
from finch_hub.artifacts.store import ArtifactStore
from finch_hub.registry import jobs
from finch_hub.registry.database import Database
from finch_hub.storage import outputs

_NAME = re.compile(r"(?P<job_id>[0-9A-Za-z-]+)-(?P<fence>[0-9]+)")
OUTPUT_SECONDS = 7 * 86_400.0  # for which an output waits after the end of its job


def sweep_store(artifacts: ArtifactStore, database: Database) -> list[str]:
    """Remove checkpoints of jobs that have ended, and outputs that nobody fetched in the week after.

    Return the paths of what was removed.

    Raises:
        Unavailable: the store or the database does not answer.
    """
    removed: list[str] = []
    # The jobs that run remove their checkpoints themselves, unless their worker is killed in that moment.
    for folder, seconds, remove in (
        (checkpoints.FOLDER, 0.0, artifacts.remove_named),
        (outputs.FOLDER, OUTPUT_SECONDS, artifacts.remove_folder),
    ):
        job_of = {name: match["job_id"] for name in artifacts.list_named(folder) if (match := _NAME.fullmatch(name))}
        if not job_of:
            continue
        with database.read() as session:
            needed = jobs.select_unfinished(session, set(job_of.values()), ended_within=seconds)
        for path in (f"{folder}/{name}" for name, job_id in job_of.items() if job_id not in needed):
            remove(path)
            removed.append(path)
    return removed
