"""Fields that all log records of a thread or of the process have, such as the job and the worker."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping

from finch_hub.specs.jobs import Job

_of_process: dict[str, object] = {}
_of_thread: contextvars.ContextVar[Mapping[str, object]] = contextvars.ContextVar("log_fields", default={})  # noqa: B039


def identify(job: Job) -> dict[str, object]:
    """Return the fields of a claimed job: its id, and the attempt with its fence."""
    return {"job_id": job.id, "attempt": job.attempts, "fence": job.fence}


def set_process_fields(**fields: object) -> None:
    """Add fields to all log records of this process from now on."""
    _of_process.update(fields)


@contextlib.contextmanager
def log_fields(**fields: object) -> Iterator[None]:
    """Add fields to the log records of this thread in this context, also to those of libraries."""
    token = _of_thread.set({**_of_thread.get(), **fields})
    try:
        yield
    finally:
        _of_thread.reset(token)


def current_fields() -> dict[str, object]:
    """Return the fields of the process and of this thread."""
    return {**_of_process, **_of_thread.get()}
