from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from finch_hub.workers.supervision.blocking_calls import BlockingCalls


@pytest.fixture
def calls() -> Iterator[BlockingCalls]:
    made = BlockingCalls()
    yield made
    made.close()


def test_result_and_error_of_a_call_reach_its_caller(calls: BlockingCalls) -> None:
    def leave() -> None:
        raise SystemExit("a plugin ended the process")

    assert calls.start(lambda: 7).result(30) == 7
    with pytest.raises(ZeroDivisionError):
        calls.start(lambda: 1 // 0).result(30)
    with pytest.raises(SystemExit, match="a plugin ended"):
        calls.start(leave).result(30)


def test_call_that_hangs_keeps_no_other_from_running(calls: BlockingCalls) -> None:
    is_over = threading.Event()
    hanging = calls.start(lambda: is_over.wait(30))
    assert calls.start(lambda: 7).result(30) == 7
    assert not hanging.done()
    is_over.set()
    assert hanging.result(30)


def test_idle_thread_takes_the_next_call_and_close_ends_it(calls: BlockingCalls) -> None:
    first = calls.start(threading.current_thread).result(30)
    while not calls._idle:  # the thread is idle a moment after it gave the result
        pass
    assert calls.start(threading.current_thread).result(30) is first
    while not calls._idle:
        pass
    assert first.daemon, "a thread that hangs must not keep the worker from ending"
    calls.close()
    first.join(30)
    assert not first.is_alive()
