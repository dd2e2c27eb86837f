"""Tasks side by side: their threads, failures and interrupts."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import Future
from concurrent.futures import wait as futures_wait

import pytest
import torch

from finch_hub.engine.numerics import concurrency
from finch_hub.engine.numerics.concurrency import run_in_parallel


def test_each_task_gets_a_share_of_the_threads_and_the_caller_keeps_its_own() -> None:
    torch.set_num_threads(4)
    meeting = threading.Barrier(2, timeout=30)  # so they do run at once

    def task(name: str) -> tuple[str, int]:
        meeting.wait()
        return name, torch.get_num_threads()

    assert run_in_parallel([lambda: task("a"), lambda: task("b")]) == [("a", 2), ("b", 2)]
    assert torch.get_num_threads() == 4
    assert run_in_parallel([torch.get_num_threads]) == [4]
    assert run_in_parallel([torch.get_num_threads], shares=2) == [2]
    assert run_in_parallel([]) == []


def test_the_first_failure_is_raised_after_all_tasks_ended() -> None:
    ended = []
    failed = threading.Event()

    def fails() -> None:
        failed.set()
        raise torch.OutOfMemoryError("no room")

    def lasts() -> None:
        assert failed.wait(30)
        time.sleep(0.1)
        ended.append(True)

    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        run_in_parallel([fails, lasts])
    assert ended


def test_an_interrupt_waits_for_all_tasks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []
    waiting, interrupted = threading.Event(), threading.Event()
    main = threading.get_ident()

    def announced_wait(futures: list[Future[None]]) -> None:
        waiting.set()
        futures_wait(futures)

    def interrupt(*_: object) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def lasts() -> None:
        assert interrupted.wait(30)
        time.sleep(0.1)
        ended.append(True)

    def interrupts() -> None:
        assert waiting.wait(30)
        while not interrupted.wait(0.05):  # a signal just before the main thread blocks does not wake it
            signal.pthread_kill(main, signal.SIGINT)
        lasts()

    # A shell that starts this in the background lets it ignore the signal.
    before = signal.signal(signal.SIGINT, interrupt)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    monkeypatch.setattr(concurrency, "wait", announced_wait)
    with pytest.raises(KeyboardInterrupt):
        run_in_parallel([lasts, interrupts])
    assert ended == [True, True]
