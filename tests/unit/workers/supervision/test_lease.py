from __future__ import annotations

import logging

import pytest
import sqlalchemy as sa
from support import registry
from support.fleet import wait_until

from finch_hub import settings
from finch_hub.registry import attempts
from finch_hub.registry.database import Database
from finch_hub.workers.supervision import clock
from finch_hub.workers.supervision.lease import Leases


def test_an_error_that_nobody_foresaw_costs_one_renewal_and_not_the_keeper_of_all(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As when a database's owner takes a permission away for a moment: no error of ours, and none of the driver's."""
    registry.submit(database)
    job = registry.claimed(database)
    renew, failures = attempts.renew, []

    def failing(*given: object) -> object:
        if not failures:
            failures.append(True)
            raise sa.exc.ProgrammingError("UPDATE jobs", {}, Exception("permission denied"))
        return renew(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(attempts, "renew", failing)
    hurried = settings.load().model_copy(update={"heartbeat_seconds": 0.1, "lease_seconds": 30.0})
    leases = Leases(database, hurried)
    with caplog.at_level(logging.ERROR), leases.hold(job, asked=clock.elapsed()) as lease:
        first = lease.certain_until
        wait_until(lambda: lease.certain_until > first, "the next renewal")
    leases.close()
    assert failures
    assert "permission denied" in caplog.text
