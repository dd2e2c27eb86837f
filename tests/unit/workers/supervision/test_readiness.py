from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.fleet import wait_until
from support.logs import list_said

from finch_hub import errors, settings
from finch_hub.workers.supervision import readiness as module
from finch_hub.workers.supervision.blocking_calls import BlockingCalls
from finch_hub.workers.supervision.readiness import SUSPECT_AFTER, Readiness


class Store:
    """Artifact store that is as well as a test says."""

    name = "/store"

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.checks: list[bool] = []  # whether they wrote
        self.answers = threading.Event()
        self.answers.set()
        self.began = threading.Event()

    def check(self, *, again: bool, writes: bool) -> None:
        self.checks.append(writes)
        self.began.set()
        self.answers.wait()
        if self.error is not None:
            raise self.error


class Clock:
    now = 1000.0

    def elapsed(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "clock", made)
    return made


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.answers.set()


@pytest.fixture
def readiness(store: Store, clock: Clock, tmp_path: Path) -> Iterator[Readiness]:
    loaded = settings.load(home=tmp_path, retry_seconds=10, heartbeat_seconds=5)
    stores: Any = SimpleNamespace(settings=loaded, artifacts=store)
    calls = BlockingCalls()
    yield Readiness(stores, calls, stopping=threading.Event())
    calls.close()


def test_store_is_written_once_and_then_read_now_and_then(readiness: Readiness, store: Store, clock: Clock) -> None:
    assert not readiness.is_ready, "nothing is known yet"
    assert readiness.take_turn()
    assert readiness.take_turn()
    assert readiness.is_ready
    assert store.checks == [True]
    clock.now += 6
    assert not readiness.is_ready, "the transaction that ends an attempt cannot ask the store"
    assert readiness.take_turn()
    assert store.checks == [True, False]
    readiness.add_store_trouble()
    assert readiness.take_turn()
    assert store.checks == [True, False, True]


def test_unwell_store_is_said_once_and_asked_again(
    readiness: Readiness, store: Store, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store.error = errors.StoreUnavailable("artifact store /store has no marker")
    for _ in range(3):
        assert not readiness.take_turn()
        assert readiness.remark == "artifact store /store has no marker"
        assert readiness.seconds_until_try() == 5.0
        clock.now += 5
    store.error = None
    assert readiness.take_turn()
    assert readiness.remark is None
    assert list_said(caplog) == [
        {"action": "check_store", "error": "artifact store /store has no marker"},
        {"action": "check_store", "store": "well"},
    ]


def test_store_that_hangs_is_asked_once(
    readiness: Readiness, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ANSWER_SECONDS", -1.0)
    store.answers.clear()
    assert not readiness.take_turn()
    clock.now += 6
    assert not readiness.take_turn()
    assert store.began.wait(60.0)
    assert len(store.checks) == 1
    assert "artifact store /store did not answer" in str(readiness.remark)
    store.answers.set()
    monkeypatch.undo()


def test_store_that_was_mounted_anew_is_asked_although_an_earlier_check_hangs(
    readiness: Readiness, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ANSWER_SECONDS", -1.0)
    hanging, store.answers = store.answers, threading.Event()
    assert not readiness.take_turn()
    for hours, checks in ((0.2, 2), (0.21, 2), (0.5, 3)):
        clock.now = 1000.0 + 3600 * hours
        assert not readiness.take_turn()
        wait_until(lambda: len(store.checks) == checks, "the check")  # noqa: B023 - it is called at once
    monkeypatch.undo()
    stuck, store.answers = store.answers, hanging
    clock.now += 3601
    monkeypatch.setattr(module, "clock", clock)
    assert readiness.take_turn()
    assert readiness.remark is None
    stuck.set()


def test_worker_that_stops_does_not_wait_for_a_store_that_hangs(readiness: Readiness, store: Store) -> None:
    store.answers.clear()
    readiness._stopping.set()
    assert not readiness.take_turn()


def test_suspect_worker_tries_one_job_after_pauses_that_grow(
    readiness: Readiness, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(SUSPECT_AFTER - 1):
        assert not readiness.add_fault(f"job {number}", "no library")
    assert not readiness.add_fault("job 0", "no library"), "one job that fails twice says little"
    assert readiness.take_turn()
    assert readiness.add_fault("another", "no library")
    assert not readiness.is_ready
    for pause in (10, 20, 40):
        assert readiness.seconds_until_try() == pause
        assert not readiness.take_turn()
        clock.now += pause
        assert readiness.take_turn()
        assert not readiness.take_turn(), "one job at a time"
        assert readiness.add_fault("job 0", "no library")
    assert readiness.remark == (
        "its attempts at 3 jobs in a row failed: no library (repair the worker; it tries one job again after a pause)"
    )
    assert len(caplog.messages) == 1
    readiness.add_success()
    assert readiness.remark is None
    assert readiness.take_turn()
    assert readiness.take_turn()


def test_turn_without_a_job_is_no_try(readiness: Readiness, clock: Clock) -> None:
    for number in range(SUSPECT_AFTER):
        readiness.add_fault(f"job {number}", "no library")
    clock.now += 10
    assert readiness.take_turn()
    readiness.return_turn()
    assert readiness.take_turn()
