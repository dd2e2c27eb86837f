"""Metrics that this worker counts itself."""

from __future__ import annotations

import prometheus_client as prometheus

_MINUTE, _HOUR = 60, 3600
_BUCKETS = (0.1, 0.5, 1, 5, 15, _MINUTE, 5 * _MINUTE, 15 * _MINUTE, _HOUR, 4 * _HOUR, 24 * _HOUR)

OWN = prometheus.CollectorRegistry()

ATTEMPTS_STARTED = prometheus.Counter(
    "finch_attempts_started", "Attempts that the worker began.", ["kind"], registry=OWN
)
ATTEMPTS_ENDED = prometheus.Counter(
    "finch_attempts_ended", "Attempts that ended at the worker.", ["kind", "outcome"], registry=OWN
)
ATTEMPT_SECONDS = prometheus.Histogram(
    "finch_attempt_seconds", "Duration of the attempts that ended.", ["kind"], buckets=_BUCKETS, registry=OWN
)
LAST_FAILURE = prometheus.Gauge(
    "finch_last_failure_timestamp_seconds", "When the last attempt failed, 0 if none has.", registry=OWN
)
LEASES_IN_DOUBT = prometheus.Gauge(
    "finch_leases_in_doubt", "Attempts that are suspended until their leases are renewed.", registry=OWN
)
SLOTS = prometheus.Gauge("finch_slots", "Jobs, or groups of jobs, that the worker can run at a time.", registry=OWN)
BUSY_SLOTS = prometheus.Gauge("finch_busy_slots", "Slots in which a job runs.", registry=OWN)
CLAIMS_JOBS = prometheus.Gauge("finch_claims_jobs", "Whether the worker claims jobs, as 1 or 0.", registry=OWN)
SWEEPS = prometheus.Counter("finch_sweeps", "Sweeps for expired leases.", registry=OWN)
EXPIRED_LEASES = prometheus.Counter(
    "finch_expired_leases", "Attempts of lost workers that the sweeps of this one ended.", registry=OWN
)


def count_end(kind: str, outcome: str, seconds: float) -> None:
    """Count an attempt that has ended."""
    ATTEMPTS_ENDED.labels(kind, outcome).inc()
    ATTEMPT_SECONDS.labels(kind).observe(seconds)
    if outcome == "failed":
        LAST_FAILURE.set_to_current_time()
