"""Built-in listener that logs every state change of a job."""

from __future__ import annotations

import logging

from finch_hub.specs.jobs import Job, JobState

_logger = logging.getLogger("finch_hub.jobs")


def listen(job: Job) -> None:
    """Log the job's state with stable fields; a failure is logged as an error with its reason."""
    _logger.log(
        logging.ERROR if job.state is JobState.FAILED else logging.INFO,
        f"job.{job.state.value}",
        extra={
            "job_id": job.id,
            "attempt": job.attempts,
            "fence": job.fence,
            "kind": job.kind,
            "worker": job.worker,
            "error": job.reason,
        },
    )
