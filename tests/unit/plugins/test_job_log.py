"""The listener that logs state changes of jobs."""

import logging
from datetime import UTC, datetime

import pytest
from support.logs import list_said

from finch_hub.plugins import job_log
from finch_hub.specs.jobs import Job, JobState

JOB = Job(
    id="j1",
    kind="evaluate",
    state=JobState.RUNNING,
    spec={"base": {"source": "base"}, "dataset": "0" * 64},
    attempts=2,
    fence=3,
    worker="w1",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)


@pytest.mark.parametrize("state", list(JobState))
def test_each_state_is_logged_with_stable_fields(caplog: pytest.LogCaptureFixture, state: JobState) -> None:
    with caplog.at_level(logging.INFO, "finch_hub.jobs"):
        job_log.listen(JOB.evolve(state=state, reason="why" if state is JobState.FAILED else None))
    (record,) = caplog.records
    assert record.levelno == (logging.ERROR if state is JobState.FAILED else logging.INFO)
    expected = {"action": f"job.{state.value}", "job_id": "j1", "attempt": 2, "fence": 3, "kind": "evaluate"}
    assert list_said(caplog) == [expected | ({"error": "why"} if state is JobState.FAILED else {})]
    assert record.worker == "w1"  # type: ignore[attr-defined]
