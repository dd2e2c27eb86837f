"""Lines of a worker's log that are about one job."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path


def read_job_lines(folder: Path, job_id: str) -> Iterator[str]:
    """Yield the lines about a job in the log of the worker of a home, oldest first, and those that it rotated away.

    Lines are in logfmt or JSON; both have the id of the job as the field `job_id`.
    """
    named = re.compile(rf'\bjob_id"?[=:] ?"?{re.escape(job_id)}\b')
    for file in (folder / "worker.log.1", folder / "worker.log"):
        try:
            with file.open(encoding="utf-8", errors="replace") as lines:
                yield from (line.rstrip("\n") for line in lines if named.search(line))
        except FileNotFoundError:
            continue
