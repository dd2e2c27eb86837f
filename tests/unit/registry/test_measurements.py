"""Measurements: one process of many measures, whoever is gone is replaced, and damaged ones are measured anew."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub.registry import measurements, tables, types
from finch_hub.registry.database import Database


def change(database: Database, **columns: object) -> None:
    with database.write() as session:
        session.execute(sa.update(tables.measurements).values(columns))


def test_measurement_counts_jobs_and_workers(database: Database) -> None:
    registry.submit(database)
    registry.claimed(database, lease=-5.0)
    registry.submit(database, priority=2)
    measured = measurements.read(database, every=60)
    assert measured is not None
    assert (measured.queued, measured.waiting, measured.running, measured.lost) == (1, 0, 1, 1)
    assert [depth.jobs for depth in measured.depths] == [1]


def test_processes_that_ask_together_measure_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    measure = measurements._measure

    def count(session: object) -> measurements.Measurement:
        measured.append(threading.get_ident())
        return measure(session)  # type: ignore[arg-type]

    monkeypatch.setattr(measurements, "_measure", count)
    threads = [threading.Thread(target=measurements.read, args=(database,), kwargs={"every": 60}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    registry.submit(database)
    later = measurements.read(database, every=60)
    assert len(measured) == 1
    assert later is not None
    assert later.queued == 0  # as the first one saw it


def test_measurement_that_is_due_is_taken_again(database: Database) -> None:
    first = measurements.read(database, every=0)
    registry.submit(database)
    second = measurements.read(database, every=0)
    assert first is not None
    assert second is not None
    assert (first.queued, second.queued) == (0, 1)


def test_process_that_died_while_it_measured_is_replaced(database: Database) -> None:
    with database.write() as session:
        assert measurements._take_turn(session)
    assert measurements.read(database, every=60) is None  # it may still be at it
    change(database, due_at=types.later(-1))
    assert measurements.read(database, every=60) is not None


def test_clock_that_jumped_back_delays_no_measurement(database: Database) -> None:
    measurements.read(database, every=60)
    change(database, due_at=types.later(86_400))
    registry.submit(database)
    measured = measurements.read(database, every=60)
    assert measured is not None
    assert measured.queued == 1


def test_damaged_measurement_is_none(database: Database) -> None:
    measurements.read(database, every=60)
    change(database, result={"queued": "many"})
    assert measurements.read(database, every=60) is None
    change(database, due_at=types.later(-1))
    assert measurements.read(database, every=60) is not None
