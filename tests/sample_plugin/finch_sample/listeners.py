"""Listener that writes a journal."""

from __future__ import annotations

import os
from pathlib import Path

from finch_hub.specs.jobs import Job


def listen(job: Job) -> None:
    """Append the job's id and state to the file that FINCH_SAMPLE_JOURNAL names."""
    journal = os.environ.get("FINCH_SAMPLE_JOURNAL")
    if journal:
        with Path(journal).open("a") as file:
            file.write(f"{job.id} {job.state.value}\n")
