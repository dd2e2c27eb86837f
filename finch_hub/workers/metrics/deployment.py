"""Metrics of the deployment as one worker sees it: its database with queue and workers, its broker, its disks."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from finch_hub import errors
from finch_hub.registry import measurements
from finch_hub.registry.measurements import Measurement
from finch_hub.storage.stores import Stores
from finch_hub.workers.embedded import broker as home_broker
from finch_hub.workers.messaging import app
from finch_hub.workers.messaging.broker import BrokerStatus

MEASURE_SECONDS = 15.0


def measure(stores: Stores) -> list[Metric]:
    """Ask database, broker and disks, and return the metrics. What does not answer has a metric that says so."""
    return [*_describe_queue(stores), *_describe_broker(_ask_broker(stores)), *_measure_disks(stores)]


def _ask_broker(stores: Stores) -> BrokerStatus | None:
    try:
        return app.check_broker(home_broker.url(stores.settings))
    except errors.FinchError:
        return None


def _describe_queue(stores: Stores) -> Iterator[Metric]:
    measured: Measurement | None = None
    is_up = True
    try:
        measured = measurements.read(stores.database, every=MEASURE_SECONDS)
    except errors.FinchError:
        is_up = False
    yield _gauge("finch_database_up", "Whether the database answers, as 1 or 0.", is_up)
    jobs = GaugeMetricFamily("finch_jobs", "Jobs that have not ended, at most 10000 of each state.", labels=["state"])
    depths = GaugeMetricFamily(
        "finch_queued_jobs", "Queued jobs whose priority is high, normal or low.", labels=["queue", "priority"]
    )
    living = GaugeMetricFamily("finch_workers", "Registered workers.", labels=["state"])
    oldest = None
    if measured is not None:
        for state in ("queued", "waiting", "running"):
            jobs.add_metric([state], getattr(measured, state))
        for depth in measured.depths:
            depths.add_metric([depth.queue, depth.priority], depth.jobs)
        for state, number in sorted(measured.workers.items()):
            living.add_metric([state], number)
        oldest = measured.oldest_seconds or 0.0
    yield from (jobs, depths, living)
    yield _gauge("finch_oldest_queued_job_seconds", "Age of the queued job that could start first.", oldest)
    lost = None if measured is None else measured.lost
    yield _gauge("finch_lost_jobs", "Running jobs whose lease has ended.", lost)
    unsettled = None if measured is None else measured.unsettled
    yield _gauge("finch_unsettled_jobs", "Ended jobs whose end could not be carried out.", unsettled)
    at = None if measured is None else measured.at.timestamp()
    yield _gauge("finch_measured_timestamp_seconds", "When queue and workers were measured.", at)


def _describe_broker(status: BrokerStatus | None) -> Iterator[Metric]:
    yield _gauge("finch_broker_up", "Whether the broker answers and takes messages, as 1 or 0.", status is not None)
    told = status or BrokerStatus()
    yield _gauge("finch_broker_memory_bytes", "Memory that the broker uses.", told.used_bytes)
    yield _gauge("finch_broker_memory_limit_bytes", "Memory that the broker may use, 0 for no limit.", told.limit_bytes)
    yield CounterMetricFamily(
        "finch_broker_evicted_keys", "Keys that the broker dropped at its limit.", value=told.evicted_keys
    )


def _measure_disks(stores: Stores) -> Iterator[Metric]:
    free = GaugeMetricFamily("finch_disk_free_bytes", "Free space for files of this user.", labels=["place"])
    places = {"home": str(stores.settings.home), "store": stores.settings.artifacts}
    for place, path in places.items():
        with contextlib.suppress(OSError):  # of a disk that fails
            if Path(path).is_dir():  # an object store has no limit
                free.add_metric([place], shutil.disk_usage(path).free)
    yield free


def _gauge(name: str, meaning: str, value: float | None) -> Metric:
    return GaugeMetricFamily(name, meaning, value=None if value is None else float(value))
